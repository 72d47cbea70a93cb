"""Static rules: one graph that fits, and one part of it changed at a time."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from foveola.devices.graph_facts import GraphFacts, Node
from foveola.devices.profile import load_profile, profile_ids
from foveola.devices.rules import RULES, judge_graph, require_fit
from foveola.runtime.errors import FoveolaError

NODES = (
    Node("node_0", "Conv", "backbone.stem", ((16, 1, 3, 3),)),
    Node("node_1", "Relu", "backbone.stem.act"),
    Node("node_2", "Gemm", "heads.findings", ((10, 16),)),
)
INT8 = GraphFacts(
    artefact="model.onnx",
    engine="onnxruntime",
    arithmetic="int8",
    opset=18,
    nodes=NODES,
    weight_bits=7,
    activations="unsigned",
    weights="signed",
)
TYPED = GraphFacts(artefact="tensorrt.onnx", engine="tensorrt", arithmetic="float16", opset=19, nodes=NODES)
IR = GraphFacts(artefact="openvino.xml", engine="openvino", arithmetic="int8", nodes=NODES, weight_bits=8)


def rules(device: str, facts: GraphFacts, severity: str = "error", **changes: Any) -> list[str]:
    changed = msgspec.structs.replace(facts, **changes)
    return [one.rule for one in judge_graph(load_profile(device), changed) if one.severity == severity]


@pytest.mark.parametrize("name", profile_ids())
def test_a_small_static_rectified_graph_fits_every_device(name: str) -> None:
    profile = load_profile(name)
    engine = profile.engine("onnxruntime")
    assert engine is not None

    require_fit(profile, msgspec.structs.replace(INT8, arithmetic=engine.precisions[0]))


@pytest.mark.parametrize(
    ("device", "facts", "changes", "expected"),
    [
        ("rpi5-8gb", INT8, {"opset": 20}, ["opset"]),
        ("rpi5-8gb", TYPED, {}, ["engine", "opset"]),
        ("generic-x86", INT8, {"arithmetic": "float16"}, ["arithmetic"]),
        ("generic-x86", INT8, {"open_axes": ("image[0]",)}, ["static-shape"]),
        ("generic-x86", INT8, {"weight_bits": 8}, []),
        ("x86-avx2-legacy", INT8, {"weight_bits": 8}, ["saturation"]),
        ("x86-avx2-legacy", INT8, {"weight_bits": 8, "saturation_safe": True}, []),
        ("x86-avx2-legacy", INT8, {"weight_bits": 8, "weights": "unsigned"}, []),
        ("x86-avx2-legacy", INT8, {"weight_bits": 8, "arithmetic": "float32"}, []),
        ("x86-avx2-legacy", IR, {}, ["saturation"]),
        ("x86-avx2-legacy", IR, {"plugin": "GPU", "inference_precision": "f32"}, ["plugin"]),
        ("intel-n100", IR, {"plugin": "GPU"}, ["hint"]),
        ("intel-n100", IR, {"plugin": "GPU", "inference_precision": "f32"}, []),
        ("intel-core-ultra-155h", IR, {"plugin": "NPU", "open_axes": ("image[2]", "image[3]")}, ["static-shape"]),
        ("jetson-orin-nano-8gb", TYPED, {}, []),
        ("jetson-orin-nano-8gb", TYPED, {"engine_version": "10.3.0"}, []),
        ("jetson-orin-nano-8gb", TYPED, {"engine_version": "11.4.1"}, ["engine-version"]),
        ("jetson-orin-nano-8gb", TYPED, {"types": ("float8", "float16")}, ["float8"]),
        ("jetson-orin-nano-8gb", TYPED, {"opset": 20}, ["opset"]),
        ("jetson-orin-nano-8gb", TYPED, {"target": "dla"}, ["accelerator"]),
        ("jetson-orin-nano-8gb", TYPED, {"activations": "unsigned"}, ["sign"]),
        ("jetson-orin-nx-16gb", TYPED, {"target": "dla", "engine_version": "10.7.0"}, []),
        ("jetson-orin-nx-16gb", TYPED, {"target": "dla", "engine_version": "10.9"}, ["dla-version"]),
        ("jetson-agx-orin-64gb", TYPED, {"target": "dla", "engine_version": "11.4.1"}, []),
        ("jetson-agx-orin-64gb", TYPED, {"target": "dla", "engine_version": "11.2"}, ["engine-version", "dla-version"]),
        ("generic-cuda", TYPED, {"types": ("float8",)}, []),
        ("kria-k26", INT8, {"target": "dpu"}, []),
        ("kria-k26", INT8, {"target": "dpu", "arithmetic": "float32"}, ["precision"]),
    ],
)
def test_a_rule_refuses_what_the_device_cannot_take(
    device: str, facts: GraphFacts, changes: dict[str, Any], expected: list[str]
) -> None:
    assert rules(device, facts, **changes) == expected


@pytest.mark.parametrize(
    ("device", "facts", "changes", "expected"),
    [
        ("kria-k26", INT8, {}, ["dot-product"]),
        ("intel-core-ultra-155h", IR, {"plugin": "NPU", "arithmetic": "float32"}, ["precision"]),
        ("generic-x86", INT8, {"arithmetic": "float16"}, ["float16-cpu"]),
        ("generic-x86", INT8, {"nodes": (Node("n", "Conv", "a", ((36, 8, 1, 1),)),)}, ["channels"]),
        ("generic-x86", INT8, {"nodes": (Node("n", "Conv", "a", ((32, 8, 1, 1),)),)}, []),
        ("kria-k26", INT8, {"nodes": (Node("n", "Resize", "heads.lungs"),), "target": "dpu"}, ["operator"]),
    ],
)
def test_a_rule_warns_of_what_costs_speed(
    device: str, facts: GraphFacts, changes: dict[str, Any], expected: list[str]
) -> None:
    assert rules(device, facts, "warning", **changes) == expected


def test_an_operator_that_the_device_lacks_is_named_with_its_modules() -> None:
    nodes = (*NODES, *(Node(f"node_{n}", "HardSwish", f"backbone.blocks.{n}.act") for n in range(3, 8)))

    with pytest.raises(FoveolaError) as refusal:
        require_fit(load_profile("kria-k26"), msgspec.structs.replace(INT8, nodes=nodes))

    assert str(refusal.value) == (
        "model.onnx for kria-k26: operator HardSwish of backbone.blocks.3.act, backbone.blocks.4.act, "
        "backbone.blocks.5.act and 2 more: the DPU of kria-k26 does not have it; "
        "build the student from its activations: Relu, LeakyRelu, Clip"
    )


def test_an_operator_without_a_module_is_named_by_its_node() -> None:
    facts = msgspec.structs.replace(INT8, nodes=(Node("node_9", "Gelu"),))

    with pytest.raises(FoveolaError, match="operator Gelu of node_9"):
        require_fit(load_profile("imx8m-plus"), facts)


def test_all_errors_stand_in_one_line() -> None:
    facts = msgspec.structs.replace(INT8, opset=21, weight_bits=8, open_axes=("image[0]",))

    with pytest.raises(FoveolaError, match=r"opset 21 .*static shapes only.*axis image\[0\].*overflow") as refusal:
        require_fit(load_profile("x86-avx2-legacy"), facts)

    assert "\n" not in str(refusal.value)


def test_a_data_dependent_shape_is_named_with_its_operator_and_module() -> None:
    nodes = (*NODES, Node("node_7", "NonZero", "roi_heads"))

    with pytest.raises(FoveolaError, match=r"the GPU of generic-cuda|generic-cuda takes static shapes only") as refusal:
        require_fit(
            load_profile("generic-cuda"), msgspec.structs.replace(TYPED, nodes=nodes, data_dependent=("node_7",))
        )

    assert "NonZero node_7 of roi_heads" in str(refusal.value)


def test_warnings_come_back_from_a_graph_that_fits() -> None:
    found = require_fit(load_profile("imx8m-plus"), INT8)

    assert [finding.rule for finding in found] == ["dot-product"]


@pytest.mark.parametrize("name", profile_ids())
def test_nothing_known_means_nothing_said_of_the_graph(name: str) -> None:
    profile = load_profile(name)
    engine = profile.engines[0]
    facts = GraphFacts(artefact="x", engine=engine.engine, arithmetic=engine.precisions[0])

    assert not [finding for finding in judge_graph(profile, facts) if finding.severity == "error"]


def test_every_rule_says_what_it_rests_on() -> None:
    assert all(rule.__doc__ for rule in RULES)
