"""The temperature of a task: raw outputs are divided by it before they become probabilities, and nothing else is."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from foveola.runtime.answer import decode, tempered
from foveola.runtime.bundle import Bundle
from foveola.runtime.errors import FoveolaError
from foveola.runtime.image import prepare
from foveola.runtime.manifest import (
    TEMPERED,
    InputSpec,
    Manifest,
    TaskOutput,
    TemperatureFit,
    decode_manifest,
    encode_manifest,
)
from foveola.runtime.predict import Predictor
from foveola.runtime.prediction import Prediction, prediction_json
from foveola.runtime.selftest import make_golden, self_test
from foveola.runtime.task import Task

SPEC = InputSpec(height=32, width=32, channels=1)
RAW = np.array([[1.2, -0.7, 0.4]], np.float32)
Array = np.ndarray[Any, Any]


def output(kind: Any, temperature: float, classes: str = "abc") -> TaskOutput:
    return TaskOutput(task=Task(name="t", kind=kind, classes=tuple(classes)), tensors=("t",), temperature=temperature)


def answer(one: TaskOutput, raw: Array) -> Prediction:
    return decode((one,), {"t": raw}, prepare(np.zeros((32, 32), np.uint8), SPEC)[1], SPEC)


def test_binary_answers_are_sigmoids_of_the_quotient() -> None:
    (finding,) = answer(output("binary", 2.5, "ab"), RAW[:, :1]).findings

    assert finding.probability == pytest.approx(torch.tensor(1.2 / 2.5).sigmoid().item(), abs=1e-6)


def test_multilabel_answers_are_sigmoids_of_the_quotient() -> None:
    found = [one.probability for one in answer(output("multilabel", 0.5), RAW).findings]

    assert found == pytest.approx((torch.from_numpy(RAW) / 0.5).sigmoid()[0].tolist(), abs=1e-6)


def test_multiclass_answers_are_the_softmax_of_the_quotient_and_the_class_stays() -> None:
    cold, warm = (answer(output("multiclass", one), RAW).choices[0] for one in (0.5, 4.0))

    assert warm.probabilities == pytest.approx((torch.from_numpy(RAW) / 4).softmax(1)[0].tolist(), abs=1e-6)
    assert cold.label == warm.label == "a"
    assert cold.probabilities[0] > warm.probabilities[0]


def test_ordinal_answers_are_differences_of_the_quotients_sigmoids() -> None:
    (choice,) = answer(output("ordinal", 3.0), np.array([[1.5, -3.0]], np.float32)).choices

    above = torch.tensor([0.5, -1.0]).sigmoid().tolist()
    assert choice.probabilities == pytest.approx((1 - above[0], above[0] - above[1], above[1]), abs=1e-6)


def test_the_most_probable_grade_may_change_with_the_temperature() -> None:
    """That of the others never does; `docs/bundle-format.md` says so."""
    raw = np.array([[0.4, -0.2]], np.float32)

    assert answer(output("ordinal", 1.0), raw).choices[0].label == "c"
    assert answer(output("ordinal", 0.1), raw).choices[0].label == "b"


def test_the_threshold_is_meant_for_the_probability_after_the_temperature() -> None:
    raw = np.array([[np.log(4)]], np.float32)  # 0.8; at temperature 2: 2/3
    plain = TaskOutput(task=Task(name="t", kind="binary", classes=("a", "b")), tensors=("t",), thresholds=(0.75,))
    warm = msgspec.structs.replace(plain, temperature=2.0)

    assert [answer(one, raw).findings[0].positive for one in (plain, warm)] == [True, False]


@settings(max_examples=100, deadline=None)
@given(st.lists(st.floats(-80, 80, width=32), min_size=3, max_size=3), st.floats(0.01, 100))
def test_a_temperature_changes_no_order(row: list[float], temperature: float) -> None:
    raw = np.array([row], np.float32)

    cool = [one.probability for one in answer(output("multilabel", 1.0), raw).findings]
    warm = [one.probability for one in answer(output("multilabel", temperature), raw).findings]

    for i in range(3):
        assert all(warm[i] <= warm[j] for j in range(3) if cool[i] < cool[j])


def test_one_leaves_the_very_array() -> None:
    raw = RAW.copy()

    assert tempered(output("multilabel", 1.0), raw) is raw
    assert tempered(output("multilabel", 2.0), raw).dtype == np.float32
    np.testing.assert_array_equal(raw, RAW)  # and what the engine gave is never written to


def test_a_quotient_beyond_all_numbers_is_no_answer() -> None:
    """An infinite quotient would be a NaN after the softmax."""
    with pytest.raises(FoveolaError, match=r"task t: output 't' is infinite at temperature 0.01; there is no answer"):
        answer(output("multiclass", 0.01), np.full((1, 3), 3e38, np.float32))


# --- in the manifest


def with_temperatures(manifest: Manifest, **warmth: float) -> Manifest:
    outputs = tuple(
        msgspec.structs.replace(one, temperature=warmth.get(one.task.name, 1.0)) for one in manifest.outputs
    )
    return msgspec.structs.replace(manifest, outputs=outputs)


def test_a_manifest_with_temperatures_is_read_as_it_was_written(tiny_manifest: Manifest) -> None:
    fit = TemperatureFit(task="findings", split="val", images=40, temperature=1.7, before=0.7, after=0.6)
    manifest = msgspec.structs.replace(with_temperatures(tiny_manifest, findings=1.7, grade=0.4), temperatures=(fit,))

    assert decode_manifest(encode_manifest(manifest)) == manifest


def older(manifest: Manifest) -> bytes:
    """The manifest as it was before there were temperatures and histograms."""
    plain = msgspec.json.decode(encode_manifest(manifest))
    for field in ("temperatures", "reference"):
        del plain[field]
    for one in plain["outputs"]:
        del one["temperature"]
    return msgspec.json.encode(plain)


def test_a_bundle_without_the_fields_opens_and_answers_as_before(
    tiny_manifest: Manifest, tiny_image: bytes, tiny_bundle: Bundle, bundle_with: Callable[[dict[str, bytes]], Bundle]
) -> None:
    bundle = bundle_with({"manifest.json": older(tiny_manifest)})

    assert bundle.manifest == tiny_manifest
    assert bundle.manifest.reference is None
    assert "seen.bin" not in bundle.members
    for engine in ("onnxruntime", "openvino"):
        old, new = (prediction_json(Predictor(one, engine).predict(tiny_image)) for one in (bundle, tiny_bundle))
        assert msgspec.json.encode(old) == msgspec.json.encode(new)


def test_the_whole_device_answers_at_the_temperature(
    tiny_manifest: Manifest, tiny_image: bytes, tiny_bundle: Bundle, bundle_with: Callable[[dict[str, bytes]], Bundle]
) -> None:
    warm = bundle_with({"manifest.json": encode_manifest(with_temperatures(tiny_manifest, findings=4.0))})

    for engine in ("onnxruntime", "openvino"):
        cool, after = (Predictor(one, engine).predict(tiny_image) for one in (tiny_bundle, warm))
        for one, other in zip(cool.findings, after.findings, strict=True):
            logit = np.log(one.probability / (1 - one.probability))
            assert other.probability == pytest.approx(1 / (1 + np.exp(-logit / 4)), abs=1e-6)
        assert after.choices == cool.choices
        assert after.measurements == cool.measurements
        assert [mask.area_px for mask in after.masks] == [mask.area_px for mask in cool.masks]
        assert after.boxes == cool.boxes


def test_the_self_test_holds_at_the_temperature(
    tiny_manifest: Manifest, tiny_image: bytes, bundle_with: Callable[[dict[str, bytes]], Bundle]
) -> None:
    manifest = encode_manifest(with_temperatures(tiny_manifest, findings=4.0))
    warm = bundle_with({"manifest.json": manifest})
    golden = make_golden([Predictor(warm, engine) for engine in ("onnxruntime", "openvino")], [tiny_image])

    assert self_test(bundle_with({"manifest.json": manifest, "golden.npz": golden}), "onnxruntime").ok


@pytest.mark.parametrize("kind", ["regression", "segmentation", "detection"])
def test_a_kind_without_temperature_is_given_none(kind: Any) -> None:
    assert kind not in TEMPERED
    with pytest.raises(ValueError, match=f"task 't': {kind} has no temperature"):
        output(kind, 2.0)

    assert output(kind, 1.0).temperature == 1.0
