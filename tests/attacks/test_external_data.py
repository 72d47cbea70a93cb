"""Attempts to make an engine open files beside the bundle: the oracle for the graphs is the onnx package."""

from __future__ import annotations

import io
from collections.abc import Callable

import onnx
import pytest
from onnx import TensorProto, helper

from foveola.runtime.bundle import bundle_bytes, read_bundle
from foveola.runtime.errors import FoveolaError
from foveola.runtime.external_data import MAX_DEPTH, MAX_FIELDS, holds_external_data


def tensor(name: str = "w", *, external: bool) -> onnx.TensorProto:
    made = helper.make_tensor(name, TensorProto.FLOAT, [2], [1.0, 2.0])
    if external:
        made.ClearField("float_data")
        made.data_location = TensorProto.EXTERNAL
        entry = made.external_data.add()
        entry.key, entry.value = "location", "../../etc/passwd"
    return made


def model(graph: onnx.GraphProto, **parts: object) -> onnx.ModelProto:
    return helper.make_model(graph, **parts)


def graph(*nodes: onnx.NodeProto, weights: tuple[onnx.TensorProto, ...] = ()) -> onnx.GraphProto:
    value = helper.make_tensor_value_info("y", TensorProto.FLOAT, [2])
    return helper.make_graph(list(nodes), "g", [], [value], list(weights))


def constant(value: onnx.TensorProto) -> onnx.NodeProto:
    return helper.make_node("Constant", [], ["y"], value=value)


def branch(value: onnx.TensorProto) -> onnx.NodeProto:
    return helper.make_node("If", ["c"], ["y"], then_branch=graph(constant(value)), else_branch=graph())


def in_sparse(value: onnx.TensorProto) -> onnx.ModelProto:
    made = graph()
    indices = helper.make_tensor("i", TensorProto.INT64, [2], [0, 1])
    made.sparse_initializer.append(helper.make_sparse_tensor(value, indices, [9]))
    return model(made)


def in_function(value: onnx.TensorProto) -> onnx.ModelProto:
    function = helper.make_function("d", "f", [], ["y"], [constant(value)], [helper.make_opsetid("", 20)])
    return model(graph(), functions=[function])


def in_training(value: onnx.TensorProto) -> onnx.ModelProto:
    made = model(graph())
    made.training_info.add().initialization.CopyFrom(graph(weights=(value,)))
    return made


def in_list(value: onnx.TensorProto) -> onnx.ModelProto:
    node = onnx.NodeProto(op_type="X", domain="d")
    attribute = node.attribute.add()
    attribute.name = "many"
    attribute.type = onnx.AttributeProto.TENSORS
    attribute.tensors.append(value)
    return model(graph(node))


PLACES: dict[str, Callable[[onnx.TensorProto], onnx.ModelProto]] = {
    "initializer": lambda value: model(graph(weights=(value,))),
    "constant": lambda value: model(graph(constant(value))),
    "subgraph": lambda value: model(graph(branch(value))),
    "sparse initializer": in_sparse,
    "function": in_function,
    "training": in_training,
    "list of tensors": in_list,
}


@pytest.mark.parametrize("place", PLACES)
def test_external_data_is_found_wherever_a_tensor_can_stand(place: str) -> None:
    assert holds_external_data(PLACES[place](tensor(external=True)).SerializeToString())


@pytest.mark.parametrize("place", PLACES)
def test_a_graph_that_only_speaks_of_a_location_is_read(place: str) -> None:
    honest = PLACES[place](tensor("location", external=False))
    honest.graph.name = "location"
    data = honest.SerializeToString()
    assert b"location" in data

    assert not holds_external_data(data)


def test_the_location_alone_or_the_flag_alone_is_enough() -> None:
    flag, entry = tensor("location", external=False), tensor(external=True)
    flag.data_location = TensorProto.EXTERNAL
    entry.ClearField("data_location")

    assert holds_external_data(model(graph(weights=(flag,))).SerializeToString())
    assert holds_external_data(model(graph(weights=(entry,))).SerializeToString())


def nested(depth: int) -> bytes:
    """Messages within messages: model.graph, then node.attribute.graph again and again."""

    def field(number: int, content: bytes) -> bytes:
        length, size = len(content), b""
        while length > 0x7F:
            size, length = size + bytes([length & 0x7F | 0x80]), length >> 7
        return bytes([number << 3 | 2]) + size + bytes([length]) + content

    content = b"\x12\x08location"
    for _ in range(depth):
        content = field(1, field(5, field(6, content)))
    return field(7, content)


@pytest.mark.parametrize(
    "data",
    [
        b"location",  # not protobuf
        b"\x3a\xff\xff\xff\xff\x0flocation",  # a length beyond the end
        b"\x3a" + b"\xff" * 20 + b"location",  # a length without end
        b"\x3b\x0alocation",  # wire type not in use
        b"\x02\x08location",  # field number zero
        b"\x3a\x80",
        nested(MAX_DEPTH),
        b"\x42\x08location" + b"\x08\x00" * MAX_FIELDS,  # too many fields
    ],
    ids=["text", "long", "endless", "wire type", "number zero", "cut", "deep", "many"],
)
def test_what_cannot_be_walked_counts_as_external(data: bytes) -> None:
    assert holds_external_data(data + b"location")


def test_nesting_as_deep_as_real_graphs_is_walked() -> None:
    assert not holds_external_data(nested(20))


def test_a_bundle_with_external_data_is_refused(members: dict[str, bytes]) -> None:
    members["model.onnx"] = PLACES["initializer"](tensor(external=True)).SerializeToString()

    with pytest.raises(FoveolaError, match="keeps weights in other files"):
        read_bundle(io.BytesIO(bundle_bytes(members)))
