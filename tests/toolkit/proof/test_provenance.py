"""Laws of the provenance: what was computed is read back, and nobody is named."""

from __future__ import annotations

import platform
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import openvino
import pytest
from onnx import TensorProto, helper, numpy_helper

from foveola.runtime.bundle import Bundle
from foveola.runtime.manifest import (
    Calibration,
    EngineOptions,
    InputSpec,
    Manifest,
    OnnxRuntimeOptions,
    OpenVinoOptions,
    Provenance,
    TaskOutput,
)
from foveola.runtime.task import Task
from foveola.toolkit.proof import provenance
from foveola.toolkit.proof.provenance import Layer, arithmetic, describe, here, provenance_of, read_cpu

X86 = """processor\t: 0
model name\t: Intel(R)  N100
flags\t\t: fpu sse4_2 avx2 avx_vnni erms
processor\t: 1
model name\t: another
"""
ARM = "processor : 0\nFeatures : fp asimd asimddp\nCPU implementer : 0x41\nCPU part : 0xd0b\n"


def graph(*, quantised: bool) -> bytes:
    """One convolution; quantised as `export` writes it, with a QuantizeLinear and DequantizeLinear on each side."""
    kernel = np.ones((8, 1, 3, 3), np.int8 if quantised else np.float32)
    constants = [numpy_helper.from_array(kernel, "weight")]
    nodes = [helper.make_node("Conv", ["image", "weight"], ["answer"], pads=[1, 1, 1, 1])]
    if quantised:
        constants += [
            numpy_helper.from_array(np.array(0.02, np.float32), "scale"),
            numpy_helper.from_array(np.array(0, np.uint8), "zero"),
            numpy_helper.from_array(np.array(0, np.int8), "middle"),
        ]
        nodes = [
            helper.make_node("QuantizeLinear", ["image", "scale", "zero"], ["q"]),
            helper.make_node("DequantizeLinear", ["q", "scale", "zero"], ["x"]),
            helper.make_node("DequantizeLinear", ["weight", "scale", "middle"], ["w"]),
            helper.make_node("Conv", ["x", "w"], ["y"], pads=[1, 1, 1, 1]),
            helper.make_node("QuantizeLinear", ["y", "scale", "zero"], ["p"]),
            helper.make_node("DequantizeLinear", ["p", "scale", "zero"], ["answer"]),
        ]
    image = helper.make_tensor_value_info("image", TensorProto.FLOAT, [1, 1, 16, 16])
    answer = helper.make_tensor_value_info("answer", TensorProto.FLOAT, [1, 8, 16, 16])
    whole = helper.make_graph(nodes, "tiny", [image], [answer], constants)
    opset = [helper.make_opsetid("", 18)]
    return bytes(helper.make_model(whole, opset_imports=opset, ir_version=9).SerializeToString())


def make_bundle(data: bytes, options: EngineOptions, **members: bytes) -> Bundle:
    manifest = Manifest(
        format=1,
        name="tiny",
        version="1",
        device="generic-x86",
        input=InputSpec(height=16, width=16, channels=1),
        outputs=(TaskOutput(task=Task(name="answer", kind="regression", classes=("mm",)), tensors=("answer",)),),
        engines=(options,),
        calibration=Calibration(method="none", images=0, min_images=0, images_digest="0" * 64),
        provenance=Provenance(
            recipe="", recipe_digest="", data_digest="", teacher_digest="", student_digest="", seed=0, versions={}
        ),
    )
    return Bundle(manifest, {"model.onnx": data, **members}, "", "")


@pytest.mark.parametrize(
    ("quantised", "level", "words"),
    [
        (True, "all", "int8 in 1 of 1 convolutions and matrix products; graph optimisation all, 1 thread"),
        (True, "disable", "float32 in 1 of 1 convolutions and matrix products (fake-quantised"),
        (False, "all", "float32 in 1 of 1 convolutions and matrix products; graph optimisation all"),
    ],
    ids=["int8 kernels", "the same graph in float", "float"],
)
def test_onnx_runtime_says_what_it_computed_and_not_what_was_promised(quantised: bool, level: Any, words: str) -> None:
    options = OnnxRuntimeOptions(arithmetic="int8", graph_optimization=level, threads=1, spinning=False)

    found = arithmetic(make_bundle(graph(quantised=quantised), options), "onnxruntime")

    assert found.startswith(words)


def test_openvino_says_what_it_compiled_and_with_which_kernels(tmp_path: Path) -> None:
    data, file = graph(quantised=False), tmp_path / "openvino.xml"
    openvino.save_model(openvino.Core().read_model(data), file, compress_to_fp16=False)
    parts = {"openvino.xml": file.read_bytes(), "openvino.bin": file.with_suffix(".bin").read_bytes()}

    found = arithmetic(make_bundle(data, OpenVinoOptions(threads=1), **parts), "openvino")

    assert found.startswith("float32 in 1 of 1 convolutions and matrix products (kernels ")
    assert found.endswith("inference precision f32, 1 thread")


def test_openvino_layers_are_counted_by_their_precision() -> None:
    layers = [Layer("Convolution", "int8", "brgconv_I8"), Layer("Convolution", "int8", "brgconv_I8")]
    layers += [Layer("FullyConnected", "float32", "gemm_f32"), Layer("Reorder", "int8", "copy")]

    words = describe(layers, "int8")

    assert words == ("int8 in 2 of 3 convolutions and matrix products, float32 in 1 (kernels brgconv_I8 2, gemm_f32 1)")


def test_an_engine_that_does_not_tell_leaves_the_promise_and_says_so() -> None:
    assert describe([], "int8") == "int8 by the manifest, not read back from the engine"


def test_the_processor_is_told_with_the_instructions_that_change_numbers() -> None:
    assert read_cpu(X86) == {"processor": "Intel(R) N100", "instructions": "sse4_2, avx2, avx_vnni"}
    assert read_cpu(ARM) == {"processor": "cpu implementer 0x41 cpu part 0xd0b", "instructions": "asimd, asimddp"}
    assert read_cpu("") == {"instructions": "none of those looked for"}


def test_a_system_without_that_file_is_described_all_the_same(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(provenance, "CPU_FACTS", tmp_path / "absent")

    assert set(here().hardware) == {"processor", "architecture", "cores", "system"}


def test_no_machine_and_nobody_is_named_and_two_runs_say_the_same() -> None:
    bundle = make_bundle(graph(quantised=True), OnnxRuntimeOptions(threads=1, spinning=False))

    first, again = provenance_of(bundle, ["onnxruntime"]), provenance_of(bundle, ["onnxruntime"])

    text = str(first)
    assert first == again
    assert socket.gethostname() not in text
    assert platform.release() not in text
    assert "/" not in text


def test_versions_are_those_in_use() -> None:
    found = here(["onnxruntime"]).versions

    assert found["numpy"] == np.__version__
    assert found["python"] == platform.python_version()
    assert "onnxruntime" in found
    assert "openvino" not in found


def test_provenance_needs_no_torch_and_loads_no_engine_before_it_is_asked() -> None:
    modules = "foveola.toolkit.proof.provenance, foveola.toolkit.proof.changes"
    code = f"import sys, {modules}; print([name in sys.modules for name in ('torch', 'onnx', 'onnxruntime')])"

    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout

    assert loaded.strip() == "[False, False, False]"


def test_the_graph_of_this_test_is_a_valid_one() -> None:
    onnx.checker.check_model(onnx.load_model_from_string(graph(quantised=True)))
