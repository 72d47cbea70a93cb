"""Forms that are neither float32 nor int8 throughout, and forms made anew from a step that pulled levers."""

from __future__ import annotations

import shutil
from pathlib import Path

import msgspec
import numpy as np
import onnx
import pytest
from onnx import TensorProto, numpy_helper
from small import silent

from foveola.devices.profile import load_profile
from foveola.export.calibrate import Range, read_ranges, write_ranges
from foveola.runtime.engine import open_session
from foveola.runtime.errors import FoveolaError
from foveola.runtime.manifest import Calibration, OnnxRuntimeOptions, TensorRtOptions
from foveola.toolkit.compress.quantise import CALIBRATION, RANGES, quantise_student
from foveola.toolkit.variants.candidates import Candidate, candidates
from foveola.toolkit.variants.sources import find_sources
from foveola.toolkit.variants.write import Sources, write_variant

from .conftest import Student


def sources(student: Student, folder: Path, *, of: Path | None = None, device: str = "generic-x86") -> Sources:
    folder.mkdir()
    profile = load_profile(device)
    return find_sources(of or student.folder, student.network, student.data, profile, folder, student.cache)[0]


def test_weight_only_is_a_form_where_it_is_asked_for_and_the_device_computes_float() -> None:
    device = load_profile("generic-x86")
    plain, more = (
        [one.name for one in candidates(device, (), quantised=True, nncf=False, weight_only=asked)]
        for asked in (False, True)
    )

    assert [name for name in more if name not in plain] == ["openvino float32 weights", "onnxruntime float32 weights"]
    assert more.index("onnxruntime float32") < more.index("onnxruntime float32 weights")


def test_a_weight_only_form_is_small_and_answers_like_the_float_one(student: Student, tmp_path: Path) -> None:
    found = sources(student, tmp_path / "sources")
    answers, sizes = [], []
    image = np.array(student.val.images[:1])
    for kind in ("none", "weights"):
        (tmp_path / kind).mkdir()
        options = OnnxRuntimeOptions(arithmetic="float32")
        members = write_variant(Candidate(options=options, quantiser=kind), found, tmp_path / kind)
        answers.append(open_session(options, members).run(image))
        sizes.append(len(members[options.graph]))

    assert sizes[1] < 0.6 * sizes[0]
    for name, values in answers[0].items():
        np.testing.assert_allclose(answers[1][name], values, atol=0.05 * np.abs(values).max())


def test_a_float16_form_of_onnxruntime_is_typed_in_the_graph(student: Student, tmp_path: Path) -> None:
    found = sources(student, tmp_path / "sources")
    (tmp_path / "half").mkdir()
    options = OnnxRuntimeOptions(arithmetic="float16")

    members = write_variant(Candidate(options=options), found, tmp_path / "half")

    model = onnx.load_from_string(members[options.graph])
    assert TensorProto.FLOAT16 in {tensor.data_type for tensor in model.graph.initializer}
    assert model.graph.input[0].type.tensor_type.elem_type == TensorProto.FLOAT
    image = np.array(student.val.images[:1])
    plain = open_session(OnnxRuntimeOptions(arithmetic="float32"), {"model.onnx": found.float_graph.read_bytes()})
    answered = open_session(options, members).run(image)
    for name, values in plain.run(image).items():
        np.testing.assert_allclose(answered[name], values, atol=0.02 * max(1.0, np.abs(values).max()))


def test_a_tensorrt_kit_has_the_ranges_and_biases_of_the_step(student: Student, tmp_path: Path) -> None:
    (tmp_path / "int8").mkdir()
    quantise_student(
        student.float_folder, student.data, split="calibration", images=2, min_images=2, method="minmax", opset=20,
        weight_bits=8, bias_correction="on", folder=tmp_path / "int8", cache=student.cache, progress=silent,
    )  # fmt: skip
    ranges = {name: Range(3 * one.low, 3 * one.high) for name, one in read_ranges(tmp_path / "int8" / RANGES).items()}
    write_ranges(ranges, tmp_path / "int8" / RANGES)
    found = sources(student, tmp_path / "sources", of=tmp_path / "int8", device="generic-cuda")
    (tmp_path / "kit").mkdir()

    members = write_variant(Candidate(options=TensorRtOptions(arithmetic="int8")), found, tmp_path / "kit")

    stored = {
        t.name: numpy_helper.to_array(t) for t in onnx.load_from_string(members["tensorrt.onnx"]).graph.initializer
    }
    scales = {name: float(stored[f"{name}.scale"]) for name in ranges if f"{name}.scale" in stored}
    assert len(scales) > 5
    assert scales == pytest.approx({name: ranges[name].magnitude / 127 for name in scales}, rel=1e-2)
    corrected = [name for name in stored if name.endswith(".bias")]
    assert set(found.corrections.biases) >= {name.removesuffix(".bias") for name in corrected}
    assert found.corrections.biases


def test_learned_ranges_are_not_replaced_by_measured_ones_in_secret(student: Student, tmp_path: Path) -> None:
    of = tmp_path / "learned"
    shutil.copytree(student.folder, of)
    record = msgspec.json.decode((of / CALIBRATION).read_bytes(), type=Calibration)
    (of / CALIBRATION).write_bytes(msgspec.json.encode(msgspec.structs.replace(record, method="learned")))
    graph = onnx.load(of / "float.onnx")
    graph.graph.node[0].output[0] += ".other"
    for node in graph.graph.node:
        node.input[:] = [
            name + ".other" if name + ".other" == graph.graph.node[0].output[0] else name for name in node.input
        ]
    onnx.save(graph, of / "float.onnx")
    write_ranges(read_ranges(of / RANGES), of / RANGES)

    with pytest.raises(FoveolaError, match="learned for another opset"):
        sources(student, tmp_path / "sources", of=of, device="rk3588")
