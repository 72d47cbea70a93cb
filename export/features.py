"""The second output of a student's graph: the mean of its deepest feature map, (1, F) float32.

What lies far from all training images lies far here too (Lee, Lee, Lee and Shin, NeurIPS 2018), and the map is computed
anyway: the output costs one pooling. It is added last, to a form that is otherwise finished: an output inside the
network would make the layers before it the end of a head, which no quantiser rounds.

The map is the one with the most channels among those of the smallest height and width, the last of them in the graph's
order; found in the float graph and by its name in every form of it.
"""

from __future__ import annotations

from pathlib import Path

import onnx
from onnx import ModelProto, TensorProto, ValueInfoProto, helper

from ..runtime.errors import FoveolaError
from ..runtime.offline import forbid_telemetry
from .onnx_graph import encode
from .openvino_ir import save_ir

FEATURES = "foveola.features"  # the output; no task's name holds a dot
LEAST_CHANNELS = 8


def feature_map(graph: Path) -> str:
    """Name the deepest map of a float graph as `export_onnx` writes it.

    Raises:
        FoveolaError: no operation gives a map of at least 8 channels.
    """
    model = onnx.shape_inference.infer_shapes(onnx.load(graph))
    shapes = {value.name: _shape(value) for value in model.graph.value_info}
    maps = [
        (name, shape) for node in model.graph.node for name in node.output if len(shape := shapes.get(name, ())) == 4
    ]
    maps = [(name, shape) for name, shape in maps if shape[1] >= LEAST_CHANNELS and shape[2] * shape[3] > 1]
    if not maps:
        raise FoveolaError(str(graph), "has no feature map", "leave the novelty out")
    least = min(shape[2] * shape[3] for _, shape in maps)
    deepest = [(name, shape) for name, shape in maps if shape[2] * shape[3] == least]
    most = max(shape[1] for _, shape in deepest)
    return str([name for name, shape in deepest if shape[1] == most][-1])


def tap_onnx(graph: Path, name: str) -> None:
    """Add the output to an ONNX graph, float or quantised, of 16-bit floats or 32, in place.

    Args:
        graph: the file.
        name: of the map in the float graph; where a form rounds it, the rounded one is taken, as its readers do.
    """
    model = onnx.load(graph)
    tap(model, name)
    graph.write_bytes(encode(model))


def tap(model: ModelProto, name: str) -> None:
    """Add the output to a graph in memory, in place; see `tap_onnx`."""
    found = _value(model, (f"{name}.dequantized", name))
    source, nodes = found.name, []
    if found.type.tensor_type.elem_type != TensorProto.FLOAT:
        nodes.append(helper.make_node("Cast", [source], [f"{FEATURES}.map"], f"{FEATURES}.cast", to=TensorProto.FLOAT))
        source = f"{FEATURES}.map"
    nodes += [
        helper.make_node("GlobalAveragePool", [source], [f"{FEATURES}.pooled"], f"{FEATURES}.pool"),
        helper.make_node("Flatten", [f"{FEATURES}.pooled"], [FEATURES], f"{FEATURES}.flatten"),
    ]
    model.graph.node.extend(nodes)
    model.graph.output.append(helper.make_tensor_value_info(FEATURES, TensorProto.FLOAT, [1, _shape(found)[1]]))
    onnx.checker.check_model(model, full_check=True)


def tap_ir(xml: Path, name: str) -> None:
    """Add the output to OpenVINO's own format, in place; needed where NNCF made the integers.

    Args:
        xml: the IR; its `.bin` lies beside it.
        name: of the map in the float graph.
    """
    forbid_telemetry()
    import openvino
    from openvino import opset13

    model = openvino.Core().read_model(xml.read_bytes(), xml.with_suffix(".bin").read_bytes())
    values = [value for op in model.get_ops() for value in op.outputs() if name in value.get_names()]
    if len(values) != 1:
        raise RuntimeError(f"{xml.name} has {len(values)} values {name!r}")
    value = values[0]
    while [reader.get_node().get_type_name() for reader in value.get_target_inputs()] == ["FakeQuantize"]:
        value = next(iter(value.get_target_inputs())).get_node().output(0)
    pooled = opset13.reduce_mean(value, [2, 3], keep_dims=False)
    pooled.output(0).set_names({FEATURES})
    model.add_results([opset13.result(pooled)])
    model.validate_nodes_and_infer_types()
    save_ir(model, xml)


def _value(model: ModelProto, names: tuple[str, ...]) -> ValueInfoProto:
    inferred = onnx.shape_inference.infer_shapes(model)
    known: dict[str, ValueInfoProto] = {value.name: value for value in inferred.graph.value_info}
    for name in names:
        if name in known:
            return known[name]
    raise RuntimeError(f"the graph has no value {names[-1]!r}")


def _shape(value: ValueInfoProto) -> tuple[int, ...]:
    return tuple(dim.dim_value for dim in value.type.tensor_type.shape.dim)
