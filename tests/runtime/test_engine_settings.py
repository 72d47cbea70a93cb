"""A session that runs otherwise than its manifest says is refused; 16-bit words go all the way through a bundle."""

from __future__ import annotations

import io
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import onnxruntime
import openvino
import pytest
from PIL import Image

from foveola.export.input_words import take_words
from foveola.runtime import engine
from foveola.runtime.bundle import Bundle, read_unverified, write_bundle
from foveola.runtime.engine import WORDS, open_session
from foveola.runtime.errors import FoveolaError
from foveola.runtime.manifest import Manifest, OnnxRuntimeOptions, OpenVinoOptions, encode_manifest
from foveola.runtime.predict import Predictor
from foveola.runtime.selftest import make_golden, self_test

ENGINES = ("onnxruntime", "openvino")
CORES = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
ORT, OV = OnnxRuntimeOptions(threads=1, spinning=False), OpenVinoOptions(threads=1)


def refusal_of(options: Any, members: dict[str, bytes]) -> str:
    with pytest.raises(FoveolaError, match="runs otherwise than it was validated") as refusal:
        open_session(options, members)
    assert "\n" not in str(refusal.value)
    return str(refusal.value)


def test_a_session_as_the_manifest_says_opens(tiny_members: dict[str, bytes]) -> None:
    for options in (ORT, OV, msgspec.structs.replace(ORT, pinned=True, threads=2, spinning=True)):
        assert open_session(options, tiny_members).input_type == "float32"


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("intra_op_num_threads", 7, "intra_op_num_threads is 7, validated was 1"),
        ("inter_op_num_threads", 3, "inter_op_num_threads is 3, validated was 1"),
        ("graph_optimization_level", "ORT_DISABLE_ALL", "graph_optimization_level is .*DISABLE_ALL"),
    ],
)
def test_onnx_runtime_opened_with_another_setting_is_refused(
    tiny_members: dict[str, bytes], monkeypatch: pytest.MonkeyPatch, name: str, value: Any, words: str
) -> None:
    changed = getattr(onnxruntime.GraphOptimizationLevel, value) if isinstance(value, str) else value
    make = engine._ort_options

    def otherwise(module: Any, options: OnnxRuntimeOptions) -> Any:
        chosen = make(module, options)
        setattr(chosen, name, changed)
        return chosen

    monkeypatch.setattr(engine, "_ort_options", otherwise)

    found = refusal_of(ORT, tiny_members)

    assert found.startswith("onnxruntime: ")
    with pytest.raises(FoveolaError, match=words):
        open_session(ORT, tiny_members)


def test_onnx_runtime_that_spins_where_it_should_not_is_refused(
    tiny_members: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    make = engine._ort_options

    def otherwise(module: Any, options: OnnxRuntimeOptions) -> Any:
        return make(module, msgspec.structs.replace(options, spinning=True))

    monkeypatch.setattr(engine, "_ort_options", otherwise)

    assert "allow_spinning is 1, validated was 0" in refusal_of(ORT, tiny_members)


def test_onnx_runtime_on_another_provider_is_refused(
    tiny_members: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    found = ["CUDAExecutionProvider", "CPUExecutionProvider"]
    monkeypatch.setattr(onnxruntime.InferenceSession, "get_providers", lambda _: found)

    assert "CUDAExecutionProvider" in refusal_of(ORT, tiny_members)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("INFERENCE_PRECISION_HINT", "bf16"),
        ("PERFORMANCE_HINT", "THROUGHPUT"),
        pytest.param("INFERENCE_NUM_THREADS", 2, marks=pytest.mark.skipif(CORES < 2, reason="it takes two cores")),
        ("ENABLE_CPU_PINNING", True),
    ],
)
def test_openvino_compiled_with_another_setting_is_refused(
    tiny_members: dict[str, bytes], monkeypatch: pytest.MonkeyPatch, name: str, value: Any
) -> None:
    compile_model = openvino.Core.compile_model

    def otherwise(self: Any, model: Any, plugin: str, settings: dict[str, Any]) -> Any:
        return compile_model(self, model, plugin, {**settings, name: value})

    monkeypatch.setattr(openvino.Core, "compile_model", otherwise)

    assert name in refusal_of(OV, tiny_members)


def test_an_engine_that_drops_a_hint_without_a_word_is_refused(
    tiny_members: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    read = engine._ov_found
    monkeypatch.setattr(
        engine, "_ov_found", lambda compiled, name: "bf16" if "PRECISION" in name else read(compiled, name)
    )

    assert "INFERENCE_PRECISION_HINT is bf16, validated was f32" in refusal_of(OV, tiny_members)


def test_more_threads_than_cores_are_as_many_as_there_are(tiny_members: dict[str, bytes]) -> None:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1

    session = open_session(msgspec.structs.replace(OV, threads=cores + 61), tiny_members)

    assert session.outputs


@pytest.mark.parametrize(
    "variable", ["ORT_DISABLE_ALL_OPTIMIZATIONS", "OV_INFERENCE_PRECISION_HINT", "OMP_NUM_THREADS", "OV_NUM_STREAMS"]
)
def test_the_environment_changes_no_answer(
    tiny_members: dict[str, bytes], monkeypatch: pytest.MonkeyPatch, variable: str
) -> None:
    x = np.random.default_rng(0).random((1, 1, 32, 32), dtype=np.float32)
    before = [open_session(options, tiny_members).run(x) for options in (ORT, OV)]

    monkeypatch.setenv(variable, "1")
    after = [open_session(options, tiny_members).run(x) for options in (ORT, OV)]

    for ours, theirs in zip(before, after, strict=True):
        for name, value in ours.items():
            np.testing.assert_array_equal(value, theirs[name])


# --- 16-bit words, from the file to the findings ---


@pytest.fixture(scope="module")
def words(
    tmp_path_factory: pytest.TempPathFactory,
    tiny_members: dict[str, bytes],
    tiny_manifest: Manifest,
    tiny_image: bytes,
) -> Bundle:
    """The tiny bundle with graphs that take words, and its self-test."""
    folder = tmp_path_factory.mktemp("words")
    (folder / "model.onnx").write_bytes(tiny_members["model.onnx"])
    take_words(folder / "model.onnx", folder / "model.onnx")
    model = openvino.Core().read_model(folder / "model.onnx")
    openvino.save_model(model, folder / "openvino.xml", compress_to_fp16=False)
    members = {name: (folder / name).read_bytes() for name in ("model.onnx", "openvino.xml", "openvino.bin")} | {
        "manifest.json": encode_manifest(msgspec.structs.replace(tiny_manifest, input_type="uint16"))
    }
    bundle = write_bundle(folder / "early.foveola", members)
    golden = make_golden([Predictor(bundle, name) for name in ENGINES], [tiny_image])
    return write_bundle(folder / "words.foveola", {**members, "golden.npz": golden})


def png(pixels: np.ndarray[Any, Any]) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "PNG")
    return stream.getvalue()


@pytest.mark.parametrize("name", ENGINES)
def test_a_bundle_of_words_answers_as_one_of_floats_and_passes_its_self_test(
    words: Bundle, tiny_bundle: Bundle, tiny_image: bytes, name: str
) -> None:
    pixels = np.random.default_rng(1).integers(0, WORDS + 1, (64, 64)).astype(np.uint16)

    for image in (tiny_image, png(pixels)):
        ours, theirs = (Predictor(bundle, name).predict(image) for bundle in (words, tiny_bundle))
        assert [one.positive for one in ours.findings] == [one.positive for one in theirs.findings]
        for one, other in zip(ours.findings, theirs.findings, strict=True):
            assert one.probability == pytest.approx(other.probability, abs=2e-4)
    assert self_test(words, name).ok
    assert read_unverified(words.path or Path()).manifest.input_type == "uint16"


@pytest.mark.parametrize("name", ENGINES)
def test_words_and_the_floats_that_they_stand_for_get_one_answer_from_either_bundle(
    words: Bundle, tiny_bundle: Bundle, name: str
) -> None:
    x = np.random.default_rng(2).integers(0, WORDS + 1, (1, 1, 32, 32)).astype(np.uint16)
    shares = (x / np.float32(WORDS)).astype(np.float32)

    asked = [Predictor(bundle, name).run(tensor) for bundle in (words, tiny_bundle) for tensor in (x, shares)]

    for other in asked[1:]:
        for tensor, value in asked[0].items():
            np.testing.assert_allclose(other[tensor], value, atol=1e-5)


@pytest.mark.parametrize("name", ENGINES)
@pytest.mark.parametrize("told", ["float32", "uint16"])
def test_a_graph_of_another_type_than_the_manifest_says_is_refused(
    words: Bundle, tiny_members: dict[str, bytes], tiny_manifest: Manifest,
    bundle_with: Callable[[dict[str, bytes]], Bundle], name: str, told: Any,
) -> None:  # fmt: skip
    manifest = encode_manifest(msgspec.structs.replace(tiny_manifest, input_type=told))
    graphs = dict(words.members) if told == "float32" else tiny_members
    mixed = {key: graphs[key] for key in ("model.onnx", "openvino.xml", "openvino.bin")}
    other = "uint16" if told == "float32" else "float32"

    with pytest.raises(FoveolaError, match=f"the graph takes {other}, the manifest says {told}"):
        Predictor(bundle_with({**mixed, "manifest.json": manifest}), name)


@pytest.mark.parametrize("kind", [np.float64, np.uint8, np.int16, np.float16])
def test_any_other_type_of_input_is_refused(words: Bundle, kind: Any) -> None:
    with pytest.raises(FoveolaError, match="not contiguous float32 or uint16"):
        Predictor(words, "onnxruntime").run(np.zeros((1, 1, 32, 32), kind))


def test_a_graph_of_some_other_type_is_refused(tiny_graph: Callable[..., bytes]) -> None:
    import onnx
    from onnx import TensorProto, helper

    model = onnx.load_from_string(tiny_graph())
    model.graph.input[0].type.tensor_type.elem_type = TensorProto.UINT8
    cast = helper.make_node("Cast", ["image"], ["image.float"], to=TensorProto.FLOAT)
    for node in model.graph.node:
        node.input[:] = ["image.float" if one == "image" else one for one in node.input]
    nodes = [cast, *model.graph.node]
    del model.graph.node[:]
    model.graph.node.extend(nodes)

    with pytest.raises(FoveolaError, match=r"its input is tensor\(uint8\), neither float32 nor uint16"):
        open_session(ORT, {"model.onnx": model.SerializeToString()})
