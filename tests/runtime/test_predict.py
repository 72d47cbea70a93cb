from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path

import msgspec
import numpy as np
import pytest

from foveola.runtime import engine as engine_file
from foveola.runtime.bundle import Bundle
from foveola.runtime.errors import FoveolaError, MissingPartError, NotVouchedError
from foveola.runtime.manifest import InputSpec, Manifest, encode_manifest
from foveola.runtime.predict import Predictor, open_predictor

ENGINES = ("onnxruntime", "openvino")


@pytest.mark.parametrize("engine", ENGINES)
def test_a_bright_square_is_answered_as_worked_out_on_paper(tiny_path: Path, tiny_image: bytes, engine: str) -> None:
    predictor = open_predictor(tiny_path, engine)

    prediction = predictor.predict(tiny_image)

    mean = 16 * 16 / 64**2  # of the image, white being 1
    bright, dark = prediction.findings
    assert bright.probability == pytest.approx(1 / (1 + np.exp(-(10 * mean - 2))), abs=1e-3)
    assert (bright.label, bright.positive, dark.label, dark.positive) == ("bright", False, "dark", True)
    assert prediction.measurements[0].value == pytest.approx(50 + 10 * (2 * mean - 1), abs=0.05)
    assert prediction.measurements[0].unit == "years"
    assert prediction.choices[0].label == "none"
    (mask,) = prediction.masks
    assert mask.pixels.shape == (64, 64)
    # The square's blocks have logit +4, the others -4: the border lies on the square's edge.
    expected = np.zeros((64, 64), bool)
    expected[16:32, 32:48] = True
    corners = 4 * 6  # pixels that the rounding takes off: there (1 - a) * (1 - b) < 1/2
    assert np.count_nonzero(expected & ~mask.pixels) == corners
    assert not (mask.pixels & ~expected).any()
    assert mask.area_px == np.count_nonzero(mask.pixels)
    box = prediction.boxes[0]
    assert box.positive
    block = (1 - 1 / 32) ** 2  # the kernel (1 3 3 1) / 8 takes an eighth off the square's outermost input pixels
    assert box.score == pytest.approx(1 / (1 + np.exp(15 - 20 * block)), abs=1e-3)
    # Cell (2, 4), the first of the best: its centre is (18, 10) in the input, (36, 20) in the image.
    reach = 2 * 4 * np.log1p(np.exp(2.0))
    assert (box.x1, box.y1, box.x2, box.y2) == pytest.approx((36 - reach, 20 - reach, 36 + reach, 20 + reach), abs=0.01)


def test_both_engines_give_the_same_raw_outputs(tiny_bundle: Bundle) -> None:
    tensor = np.random.default_rng(0).random((1, 1, 32, 32), np.float32)

    first, second = (Predictor(tiny_bundle, engine).run(tensor) for engine in ENGINES)

    assert list(first) == list(second)
    for name, array in first.items():
        np.testing.assert_allclose(array, second[name], atol=1e-5)


@pytest.mark.parametrize("engine", ENGINES)
def test_raw_outputs_stay_the_callers_own(tiny_bundle: Bundle, engine: str) -> None:
    predictor = Predictor(tiny_bundle, engine)
    white, black = np.ones((1, 1, 32, 32), np.float32), np.zeros((1, 1, 32, 32), np.float32)
    before = predictor.run(white)
    copies = {name: array.copy() for name, array in before.items()}

    predictor.run(black)

    for name, array in before.items():
        np.testing.assert_array_equal(array, copies[name])


@pytest.mark.parametrize("engine", ENGINES)
def test_threads_that_share_a_predictor_do_not_mix_their_answers(tiny_bundle: Bundle, engine: str) -> None:
    predictor = Predictor(tiny_bundle, engine)
    wrong: list[float] = []

    def ask(level: float) -> None:
        tensor = np.full((1, 1, 32, 32), level, np.float32)
        for _ in range(50):
            got = predictor.run(tensor)["age"][0, 0]
            if abs(got - (2 * level - 1)) > 1e-4:
                wrong.append(float(got))

    threads = [threading.Thread(target=ask, args=(level / 4,)) for level in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert not wrong


def test_the_manifests_first_installed_engine_is_taken(tiny_bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    assert Predictor(tiny_bundle).engine == "onnxruntime"

    monkeypatch.setattr("foveola.runtime.predict.is_installed", lambda name: name == "openvino")

    assert Predictor(tiny_bundle).engine == "openvino"


def test_a_missing_engine_names_its_cure(tiny_bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine_file, "is_installed", lambda name: False)
    monkeypatch.setattr("foveola.runtime.predict.is_installed", lambda name: False)

    with pytest.raises(MissingPartError, match=r"openvino: is not installed; pip install 'foveola\[openvino\]'"):
        Predictor(tiny_bundle, "openvino")
    with pytest.raises(MissingPartError, match="no engine of this bundle is installed; pip install foveola or"):
        Predictor(tiny_bundle)


def test_an_engine_on_which_nothing_was_validated_is_refused(
    bundle_with: Callable[[dict[str, bytes]], Bundle], tiny_manifest: Manifest
) -> None:
    only = msgspec.structs.replace(tiny_manifest, engines=tiny_manifest.engines[:1])
    bundle = bundle_with({"manifest.json": encode_manifest(only)})

    with pytest.raises(FoveolaError, match="engine 'openvino': tiny was not validated on it; take onnxruntime"):
        Predictor(bundle, "openvino")
    with pytest.raises(FoveolaError, match=r"engine 'coral': there is no such engine; .*onnxruntime"):
        Predictor(bundle, "coral")


def test_a_bundle_without_a_key_is_not_opened(tmp_path: Path, tiny_path: Path) -> None:
    lonely = tmp_path / "tiny.foveola"
    lonely.write_bytes(tiny_path.read_bytes())

    with pytest.raises(NotVouchedError, match="no key"):
        open_predictor(lonely)


@pytest.mark.parametrize("engine", ENGINES)
def test_a_network_that_says_nan_gives_no_answer(
    bundle_with: Callable[[dict[str, bytes]], Bundle],
    tiny_graph: Callable[..., bytes],
    tiny_image: bytes,
    tmp_path: Path,
    engine: str,
) -> None:
    graph = tiny_graph(age=([float("inf")], [0.0]))  # inf * 0 on a black image
    bundle = bundle_with(_both(graph, tmp_path))

    predictor = Predictor(bundle, engine)

    with pytest.raises(FoveolaError, match="task age: output 'age' holds NaN or infinity; there is no answer"):
        predictor.predict(tiny_image)


@pytest.mark.parametrize(
    "tensor",
    [
        np.zeros((1, 1, 32, 31), np.float32),
        np.zeros((1, 1, 32, 32), np.float64),
        np.zeros((1, 1, 32, 64), np.float32)[..., ::2],
    ],
    ids=["shape", "type", "layout"],
)
def test_a_tensor_of_another_kind_is_refused(tiny_bundle: Bundle, tensor: np.ndarray) -> None:
    predictor = Predictor(tiny_bundle, "openvino")

    with pytest.raises(FoveolaError, match=r"input tensor: .*; make it with `prepare`"):
        predictor.run(tensor)


@pytest.mark.parametrize("engine", ENGINES)
def test_a_graph_that_is_not_the_manifests_is_refused(
    bundle_with: Callable[[dict[str, bytes]], Bundle], tiny_manifest: Manifest, engine: str
) -> None:
    wide = msgspec.structs.replace(tiny_manifest, input=InputSpec(height=32, width=64, channels=1))
    output = msgspec.structs.replace(tiny_manifest.outputs[0], tensors=("absent",))
    other = msgspec.structs.replace(tiny_manifest, outputs=(output,))

    with pytest.raises(FoveolaError, match=r"the graph takes \(1, 1, 32, 32\), the manifest says \(1, 1, 32, 64\)"):
        Predictor(bundle_with({"manifest.json": encode_manifest(wide)}), engine)
    with pytest.raises(FoveolaError, match="the graph has no output absent"):
        Predictor(bundle_with({"manifest.json": encode_manifest(other)}), engine)


@pytest.mark.parametrize(
    ("engine", "member"), [("onnxruntime", "model.onnx"), ("openvino", "openvino.xml"), ("openvino", "openvino.bin")]
)
def test_a_graph_that_the_engine_does_not_open_is_one_line(
    bundle_with: Callable[[dict[str, bytes]], Bundle], tiny_members: dict[str, bytes], engine: str, member: str
) -> None:
    bundle = bundle_with({member: tiny_members[member][: len(tiny_members[member]) // 2]})

    with pytest.raises(FoveolaError, match="does not open it") as caught:
        Predictor(bundle, engine)

    assert "\n" not in str(caught.value)


def test_an_image_that_cannot_be_read_is_named(tiny_bundle: Bundle, tmp_path: Path) -> None:
    fake = tmp_path / "notes.png"
    fake.write_text("not a picture")

    with pytest.raises(FoveolaError, match=r"notes\.png: not a PNG, JPEG, TIFF or BMP file"):
        Predictor(tiny_bundle).predict(fake)


def _both(graph: bytes, folder: Path) -> dict[str, bytes]:
    import openvino

    openvino.save_model(openvino.Core().read_model(graph), folder / "other.xml", compress_to_fp16=False)
    files = {"openvino.xml": (folder / "other.xml").read_bytes(), "openvino.bin": (folder / "other.bin").read_bytes()}
    return {"model.onnx": graph, **files}
