from __future__ import annotations

import io
import zipfile
from collections.abc import Callable

import msgspec
import numpy as np
import pytest
from PIL import Image

from foveola.runtime import selftest
from foveola.runtime.bundle import Bundle
from foveola.runtime.errors import FoveolaError
from foveola.runtime.image import decode_image
from foveola.runtime.manifest import Budget, Manifest, encode_manifest
from foveola.runtime.predict import Predictor
from foveola.runtime.selftest import first_golden_image, latency_limit_ms, make_golden, self_test

ENGINES = ("onnxruntime", "openvino")
Change = Callable[[dict[str, bytes]], Bundle]


@pytest.mark.parametrize("engine", ENGINES)
def test_an_untouched_bundle_passes(tiny_bundle: Bundle, engine: str) -> None:
    outcome = self_test(tiny_bundle, engine)

    assert outcome.ok
    assert (outcome.engine, outcome.images, outcome.flips, outcome.decoder_changed, outcome.faults) == (
        engine, 1, 0, 0, (),
    )  # fmt: skip
    assert {drift.tensor for drift in outcome.drifts} == {
        name for output in tiny_bundle.manifest.outputs for name in output.tensors
    }
    assert all(drift.largest < 1e-5 for drift in outcome.drifts)


def test_a_network_that_answers_otherwise_fails(bundle_with: Change, tiny_graph: Callable[..., bytes]) -> None:
    bundle = bundle_with({"model.onnx": tiny_graph(findings=([10.0, -10.0], [3.0, 2.0]))})

    outcome = self_test(bundle, "onnxruntime")

    assert not outcome.ok
    assert outcome.flips == 1
    assert outcome.faults[-1] == "1 decision(s) flipped"
    assert [fault.split()[0] for fault in outcome.faults] == ["findings", "1"]
    assert next(drift for drift in outcome.drifts if drift.tensor == "findings").largest == pytest.approx(5)


def test_rounding_within_the_tolerance_of_int8_passes(
    bundle_with: Change, tiny_graph: Callable[..., bytes], tiny_manifest: Manifest
) -> None:
    graph = tiny_graph(findings=([10.0, -10.0], [-2.05, 2.0]))
    engines = (msgspec.structs.replace(tiny_manifest.engines[0], arithmetic="int8"),)
    int8 = encode_manifest(msgspec.structs.replace(tiny_manifest, engines=engines))

    strict = self_test(bundle_with({"model.onnx": graph}), "onnxruntime")
    loose = self_test(bundle_with({"model.onnx": graph, "manifest.json": int8}), "onnxruntime")

    assert not strict.ok
    assert loose.ok


def test_a_decision_on_its_threshold_may_fall_to_either_side(
    bundle_with: Change, tiny_graph: Callable[..., bytes], tiny_manifest: Manifest, tiny_image: bytes
) -> None:
    mean = 16 * 16 / 64**2
    on_it = tiny_graph(findings=([10.0, -10.0], [-10 * mean + 1e-4, 2.0]))
    below = tiny_graph(findings=([10.0, -10.0], [-10 * mean - 1e-4, 2.0]))
    golden = make_golden([Predictor(bundle_with({"model.onnx": on_it}), "onnxruntime")], [tiny_image])

    outcome = self_test(bundle_with({"model.onnx": below, "golden.npz": golden}), "onnxruntime")

    assert outcome.ok
    assert outcome.flips == 1


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_network_that_says_nan_or_infinity_fails(
    bundle_with: Change, tiny_graph: Callable[..., bytes], bad: float
) -> None:
    outcome = self_test(bundle_with({"model.onnx": tiny_graph(age=([1.0], [bad]))}), "onnxruntime")

    assert not outcome.ok
    assert any("holds NaN or infinity" in fault for fault in outcome.faults)
    assert any(fault.startswith(("age drifted by nan", "age drifted by inf")) for fault in outcome.faults)


def test_another_decoder_is_told_and_forgiven(bundle_with: Change, tiny_members: dict[str, bytes]) -> None:
    def otherwise(name: str, array: np.ndarray) -> np.ndarray:
        return array[::-1].copy() if name == "decoded_0" else array

    outcome = self_test(bundle_with({"golden.npz": changed(tiny_members["golden.npz"], otherwise)}), "onnxruntime")

    assert outcome.ok
    assert outcome.decoder_changed == 1
    assert outcome.warnings == ("1 image(s) are decoded to other pixels",)


def test_another_decoder_that_moves_the_answers_fails(tiny_bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    def brighter(image: bytes, place: str) -> Image.Image:
        return Image.fromarray(np.minimum(np.asarray(decode_image(image, place)), 246) + np.uint8(9))

    monkeypatch.setattr(selftest, "decode_image", brighter)

    outcome = self_test(tiny_bundle, "onnxruntime")

    assert not outcome.ok
    assert (outcome.decoder_changed, outcome.flips) == (1, 0)
    assert outcome.faults[0].startswith("findings drifted by")


def budgeted(bundle: Bundle, latency_ms: float) -> Bundle:
    budget = Budget(latency_ms=latency_ms, size_mb=1, memory_mib=1)
    return msgspec.structs.replace(bundle, manifest=msgspec.structs.replace(bundle.manifest, budget=budget))


def test_a_time_that_is_not_sane_fails(tiny_bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(selftest, "LEAST_LIMIT_MS", 0.0)

    slow = self_test(budgeted(tiny_bundle, 1e-6), "onnxruntime")
    quick = self_test(budgeted(tiny_bundle, 1e6), "onnxruntime")
    recorded = self_test(tiny_bundle, "onnxruntime", None, 1e-6)

    assert quick.ok
    assert 0 < quick.latency_ms < 1000
    for outcome in (slow, recorded):
        assert not outcome.ok
        assert outcome.faults == (f"an answer took {outcome.latency_ms:.0f} ms, sane are 0 ms",)


def test_a_passing_load_of_the_machine_is_no_fault(tiny_bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter([0, 900_000_000, 900_000_000, 901_000_000])  # nanoseconds: 900 ms, then 1 ms
    monkeypatch.setattr(selftest, "perf_counter_ns", lambda: next(clock))

    outcome = self_test(budgeted(tiny_bundle, 20), "onnxruntime")

    assert outcome.ok
    assert (outcome.latency_ms, outcome.latency_limit_ms) == (1, 100)


@pytest.mark.parametrize(
    ("budget_ms", "recorded_ms", "limit"),
    [(20.0, 1.0, 100.0), (None, 30.0, 150.0), (None, 1.0, 50.0), (None, None, None)],
)
def test_the_limit_of_time_is_the_budgets_then_the_recorded_one(
    budget_ms: float | None, recorded_ms: float | None, limit: float | None, tiny_bundle: Bundle
) -> None:
    bundle = tiny_bundle if budget_ms is None else budgeted(tiny_bundle, budget_ms)

    assert latency_limit_ms(bundle.manifest, recorded_ms) == limit


def test_equal_answers_give_equal_bytes_that_numpy_reads(tiny_bundle: Bundle, tiny_image: bytes) -> None:
    predictors = [Predictor(tiny_bundle, engine) for engine in ENGINES]

    golden = make_golden(predictors, [tiny_image, tiny_image])

    assert golden == make_golden(predictors, [tiny_image, tiny_image])
    with np.load(io.BytesIO(golden), allow_pickle=False) as arrays:
        assert arrays["image_1"].tobytes() == tiny_image
        assert arrays["onnxruntime/1/findings"].shape == (1, 2)
    assert first_golden_image(tiny_bundle) == tiny_image


def test_a_bundle_without_golden_answers_says_so(
    bundle_with: Change, tiny_members: dict[str, bytes], tiny_bundle: Bundle, tiny_image: bytes
) -> None:
    one = make_golden([Predictor(tiny_bundle, "onnxruntime")], [tiny_image])
    squeezed = io.BytesIO()
    with zipfile.ZipFile(squeezed, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("image_0.npy", b"0" * 1000)
    without = {name: data for name, data in tiny_bundle.members.items() if name != "golden.npz"}

    with pytest.raises(FoveolaError, match=r"tiny: holds no golden\.npz"):
        self_test(msgspec.structs.replace(tiny_bundle, members=without))
    with pytest.raises(FoveolaError, match=r"golden\.npz: holds no openvino/0/"):
        self_test(bundle_with({"golden.npz": one}), "openvino")
    with pytest.raises(FoveolaError, match=r"golden\.npz: holds no image"):
        self_test(bundle_with({"golden.npz": make_golden([], [])}))
    with pytest.raises(FoveolaError, match=r"golden\.npz: holds compressed arrays"):
        self_test(bundle_with({"golden.npz": squeezed.getvalue()}))
    for broken in (b"text", tiny_members["golden.npz"][:-30]):
        with pytest.raises(FoveolaError, match=r"golden\.npz: cannot be read"):
            self_test(bundle_with({"golden.npz": broken}))


def changed(golden: bytes, change: Callable[[str, np.ndarray], np.ndarray]) -> bytes:
    stream = io.BytesIO()
    with np.load(io.BytesIO(golden), allow_pickle=False) as arrays, zipfile.ZipFile(stream, "w") as archive:
        for name in arrays.files:
            data = io.BytesIO()
            np.lib.format.write_array(data, change(name, arrays[name]), allow_pickle=False)
            archive.writestr(f"{name}.npy", data.getvalue())
    return stream.getvalue()
