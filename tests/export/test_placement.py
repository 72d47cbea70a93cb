"""Where quantisers go, on graphs small enough to draw."""

from __future__ import annotations

from typing import Any

import numpy as np
from onnx import GraphProto, NodeProto, TensorProto, helper, numpy_helper

from foveola.export.placement import place


def node(operator: str, inputs: str, output: str, **attributes: Any) -> NodeProto:
    return helper.make_node(operator, inputs.split(), [output], name=output, **attributes)


def graph(*nodes: NodeProto, outputs: str) -> GraphProto:
    """Values whose name begins with `w` are constants."""
    constants = sorted({name for one in nodes for name in one.input if name.startswith("w")})
    value = helper.make_tensor_value_info
    return helper.make_graph(
        nodes,
        "test",
        [value("image", TensorProto.FLOAT, [1, 1, 8, 8])],
        [value(name, TensorProto.FLOAT, None) for name in outputs.split()],
        [numpy_helper.from_array(np.ones((1, 1, 1, 1), np.float32), name) for name in constants],
    )


def test_the_last_layer_before_each_output_is_float_and_so_is_all_after_it() -> None:
    plan = place(
        graph(
            node("Conv", "image w0", "a"),
            node("Conv", "a w1", "b"),
            node("Resize", "b", "upsampled"),
            node("Mul", "upsampled upsampled", "mask"),
            node("Gemm", "a w2", "finding"),
            outputs="mask finding",
        ),
        after_layers=True,
    )

    assert plan.layers == {"a"}
    assert plan.float_layers == ("b", "finding")
    assert set(plan.tensors) == {"image", "a"}


def test_every_way_back_from_an_output_ends_at_a_float_layer() -> None:
    plan = place(
        graph(
            node("Conv", "image w0", "a"),
            node("Conv", "a w1", "b"),
            node("Conv", "a w2", "c"),
            node("Add", "b c", "sum"),
            outputs="sum",
        ),
        after_layers=True,
    )

    assert plan.float_layers == ("b", "c")
    assert plan.layers == {"a"}


def test_names_play_no_part() -> None:
    first = graph(node("Conv", "image w0", "a"), node("Relu", "a", "b"), node("Conv", "b w1", "head"), outputs="head")
    other = graph(node("Conv", "image w0", "head"), node("Relu", "head", "b"), node("Conv", "b w1", "a"), outputs="a")

    assert place(first, after_layers=True).layers == {"a"}
    assert place(other, after_layers=True).layers == {"head"}


def test_the_quantiser_stands_behind_a_relu_that_alone_reads_the_layer() -> None:
    plan = place(
        graph(
            node("Conv", "image w0", "a"),
            node("Relu", "a", "ra"),
            node("Conv", "ra w1", "b"),
            node("Relu", "b", "rb"),
            node("Add", "b rb", "sum"),
            node("Conv", "sum w2", "out"),
            outputs="out",
        ),
        after_layers=True,
    )

    assert "a" not in plan.tensors
    assert set(plan.tensors) == {"image", "ra", "b", "rb", "sum"}


def test_a_residual_addition_takes_both_inputs_quantised_in_either_form() -> None:
    residual = graph(
        node("Conv", "image w0", "a"),
        node("Conv", "a w1", "b"),
        node("Add", "a b", "sum"),
        node("Relu", "sum", "r"),
        node("Conv", "r w2", "c"),
        node("Conv", "c w3", "out"),
        outputs="out",
    )

    for after_layers in (True, False):
        assert {"a", "b", "r"} <= set(place(residual, after_layers=after_layers).tensors)
        assert "sum" not in place(residual, after_layers=after_layers).tensors


def test_a_normalisation_by_constants_stays_float() -> None:
    plan = place(
        graph(
            node("Mul", "image w0", "m"),
            node("Add", "m w1", "n"),
            node("Conv", "n w2", "a"),
            node("Add", "a w3", "shifted"),
            node("Conv", "shifted w4", "out"),
            outputs="out",
        ),
        after_layers=True,
    )

    assert set(plan.tensors) == {"n", "a"}


def test_moving_values_keeps_their_grid() -> None:
    plan = place(
        graph(
            node("Conv", "image w0", "a"),
            node("MaxPool", "a", "pooled"),
            node("Resize", "pooled", "grown", mode="linear"),
            node("Conv", "image w1", "b"),
            node("Concat", "grown b", "both", axis=1),
            node("Conv", "both w2", "c"),
            node("Gemm", "c w3", "out"),
            outputs="out",
        ),
        after_layers=False,
    )

    assert {name: plan.tensors[name] for name in ("a", "pooled", "grown")} == {"a": "a", "pooled": "a", "grown": "a"}
    assert plan.tensors["both"] == "both"
    assert plan.measured == {"image", "a", "b", "both"}


def test_a_cubic_resize_overshoots_and_gets_a_grid_of_its_own() -> None:
    plan = place(
        graph(
            node("Conv", "image w0", "a"),
            node("Resize", "a", "grown", mode="cubic"),
            node("Conv", "grown w1", "b"),
            node("Conv", "b w2", "out"),
            outputs="out",
        ),
        after_layers=True,
    )

    assert plan.tensors["grown"] == "grown"


def test_the_signed_placement_leaves_a_body_float_towards_its_head() -> None:
    chain = graph(node("Conv", "image w0", "a"), node("Relu", "a", "r"), node("Conv", "r w1", "out"), outputs="out")

    assert set(place(chain, after_layers=False).tensors) == {"image"}
    assert set(place(chain, after_layers=True).tensors) == {"image", "r"}


def test_a_graph_of_heads_alone_has_nothing_to_quantise() -> None:
    plan = place(graph(node("Gemm", "image w0", "out"), outputs="out"), after_layers=True)

    assert not plan.layers
    assert not plan.tensors


def test_a_product_of_two_activations_is_no_layer() -> None:
    plan = place(
        graph(
            node("Conv", "image w0", "a"),
            node("MatMul", "a a", "attention"),
            node("Conv", "attention w1", "b"),
            node("Conv", "b w2", "out"),
            outputs="out",
        ),
        after_layers=True,
    )

    assert plan.layers == {"a", "b"}
