"""The graph in torch answers as ONNX Runtime does, and its fake quantisers as the int8 graph."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import onnx
import pytest
import torch
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from foveola.export.calibrate import Range
from foveola.export.fake_quant import CENTRED, UNSIGNED, QuantisedGraph, largest_pair, rounded
from foveola.export.integer_weights import Overflow, WeightBits
from foveola.export.placement import place
from foveola.export.quantize import Calibrated, calibrate_graph, int8_model
from foveola.export.saturation import pairs
from foveola.export.torch_graph import TorchGraph
from foveola.runtime.errors import FoveolaError

Array = NDArray[np.float32]


def images(count: int) -> Iterator[Array]:
    random = np.random.default_rng(9)
    for _ in range(count):
        yield random.random((1, 1, 12, 8)).repeat(8, 2).repeat(8, 3).astype(np.float32)


def batch(count: int) -> torch.Tensor:
    return torch.cat([torch.from_numpy(image) for image in images(count)])


def one_node(operator: str, *constants: NDArray[Any], shape: tuple[int, ...] = (1, 4, 8, 6), **attributes: Any) -> Any:
    """A graph of one operator on an input `image`."""
    names = [f"c.{place}" for place in range(len(constants))]
    used = [name if constant.size else "" for name, constant in zip(names, constants, strict=True)]
    graph = helper.make_graph(
        [helper.make_node(operator, ["image", *used], ["out"], name="node", **attributes)],
        "one",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("out", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(x, name) for x, name in zip(constants, names, strict=True) if x.size],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9)


def whole(*numbers: int) -> NDArray[np.int64]:
    return np.array(numbers, np.int64)


def number(value: float) -> Array:
    return np.array(value, np.float32)


def noise(*shape: int) -> Array:
    return np.random.default_rng(len(shape)).standard_normal(shape).astype(np.float32)


NOTHING = np.zeros(0, np.float32)
LINEAR: Any = {"mode": "linear", "coordinate_transformation_mode": "half_pixel"}
NEAREST: Any = {"mode": "nearest", "coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}
KNOWN: dict[str, Any] = {
    "a convolution padded unevenly": one_node(
        "Conv", noise(6, 4, 3, 3), noise(6), kernel_shape=[3, 3], strides=[2, 2], pads=[0, 1, 1, 1]
    ),
    "a depthwise dilated convolution": one_node(
        "Conv", noise(4, 1, 3, 3), kernel_shape=[3, 3], group=4, dilations=[2, 2], pads=[2, 2, 2, 2]
    ),
    "a matrix product": one_node("Gemm", noise(6, 5), noise(5), shape=(1, 6), alpha=0.5, beta=2.0),
    "a transposed matrix product": one_node("Gemm", noise(5, 6), noise(5), shape=(1, 6), transB=1),
    "a clip": one_node("Clip", number(-0.2), number(0.4)),
    "a hard sigmoid": one_node("HardSigmoid", alpha=1 / 6, beta=0.5),
    "a hard swish": one_node("HardSwish"),
    "a gelu": one_node("Gelu"),
    "a gelu by tanh": one_node("Gelu", approximate="tanh"),
    "a softmax": one_node("Softmax", axis=1),
    "a maximum padded unevenly": one_node("MaxPool", kernel_shape=[3, 3], strides=[2, 2], pads=[0, 0, 1, 1]),
    "an average": one_node("AveragePool", kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1]),
    "an average that counts its padding": one_node(
        "AveragePool", kernel_shape=[2, 2], pads=[1, 1, 1, 1], count_include_pad=1
    ),
    "a mean over the map": one_node("ReduceMean", whole(2, 3), keepdims=0),
    "nearest upsampling": one_node("Resize", NOTHING, np.array([1, 1, 2, 2], np.float32), **NEAREST),
    "bilinear resizing": one_node("Resize", NOTHING, NOTHING, whole(1, 4, 13, 11), **LINEAR),
    "a slice": one_node("Slice", whole(1, 2), whole(9, 6), whole(2, 3), whole(2, 1)),
    "a transpose": one_node("Transpose", perm=[0, 2, 3, 1]),
    "a padding": one_node("Pad", whole(0, 0, 0, 1, 0, 0, 2, 1), number(-1.5)),
    "a reshape": one_node("Reshape", whole(1, 4, -1)),
    "an axis more": one_node("Unsqueeze", whole(1, 3)),
}


@pytest.mark.parametrize("name", KNOWN)
def test_an_operator_answers_as_onnx_runtime_does(name: str, run: Any, tmp_path: Path) -> None:
    model = KNOWN[name]
    shape = [side.dim_value for side in model.graph.input[0].type.tensor_type.shape.dim]
    path = tmp_path / "one.onnx"
    path.write_bytes(model.SerializeToString())
    first, second = noise(*shape), noise(*shape) + np.float32(0.3)

    with torch.no_grad():
        both = TorchGraph(model)(torch.from_numpy(np.concatenate([first, second])))["out"].numpy()

    wanted = np.concatenate([run(path, one)["out"] for one in (first, second)])
    np.testing.assert_allclose(both, wanted, atol=1e-5)


@pytest.mark.parametrize(
    ("model", "what"),
    [
        pytest.param(one_node("Sinh"), "operator Sinh", id="unknown"),
        pytest.param(one_node("Reshape", whole(2, -1)), "reshape to", id="without a batch"),
        pytest.param(one_node("MaxPool", kernel_shape=[2, 2], auto_pad="SAME_UPPER"), "auto_pad", id="pad"),
        pytest.param(
            one_node("Resize", NOTHING, np.array([1, 1, 2, 2], np.float32), mode="cubic"), "resize by cubic", id="cubic"
        ),
    ],
)  # fmt: skip
def test_an_operator_that_is_not_known_is_refused_by_name(model: Any, what: str) -> None:
    with pytest.raises(FoveolaError, match=f"{what}.*is not known.*leave out qat"):
        TorchGraph(model)


def test_a_multitask_graph_answers_a_batch_as_onnx_runtime_answers_each_image(float_graph: Path, run: Any) -> None:
    graph = TorchGraph(onnx.load(float_graph)).eval()

    with torch.no_grad():
        answers = {name: x.numpy() for name, x in graph(batch(3)).items()}

    one_by_one = [run(float_graph, image) for image in images(3)]
    for name, values in answers.items():
        np.testing.assert_allclose(values, np.concatenate([one[name] for one in one_by_one]), atol=1e-4)


def test_weights_are_parameters_under_the_names_of_the_graph(float_graph: Path) -> None:
    model = onnx.load(float_graph)
    graph = TorchGraph(model, trained=lambda name: name.endswith(("weight", "bias")))

    weights = graph.weights()

    stored = {one.name: numpy_helper.to_array(one) for one in model.graph.initializer}
    assert "findings.weight" in weights
    assert all(np.array_equal(stored[name], values.numpy()) for name, values in weights.items())
    assert len(weights) == sum(1 for _ in graph.parameters())


@pytest.fixture(scope="module")
def calibrated(float_graph: Path) -> Calibrated:
    return calibrate_graph(float_graph, images(12), min_images=12)


def quantised(calibrated: Calibrated, **knobs: Any) -> tuple[QuantisedGraph, Any]:
    """The graph with fake quantisers, and the int8 graph of its own ranges."""
    graph = QuantisedGraph(calibrated, **knobs).eval()
    rules = {name: knobs[name] for name in ("weight_bits", "overflow") if name in knobs}
    return graph, int8_model(msgspec.structs.replace(calibrated, ranges=graph.ranges()), **rules)


@pytest.mark.parametrize(("bits", "overflow"), [(8, "seven"), (7, "seven"), (7, "fit"), (7, "unsigned")])
def test_weights_are_rounded_to_the_very_integers_of_the_int8_graph(
    calibrated: Calibrated, bits: WeightBits, overflow: Overflow
) -> None:
    graph, model = quantised(calibrated, weight_bits=bits, overflow=overflow)
    stored = {one.name: numpy_helper.to_array(one) for one in model.graph.initializer}
    nodes = {node.name: node for node in model.graph.node}

    compared = 0
    for step in graph.steps:
        if step.name not in graph.layers:
            continue
        back = nodes[f"{step.name}.weight.dequantize"]
        integers, scale, zero = (stored[name] for name in back.input)
        axis = next((a.i for a in back.attribute if a.name == "axis"), 1)
        shape = [-1 if place == axis else 1 for place in range(integers.ndim)]
        wanted = (integers.astype(np.float32) - zero.reshape(shape).astype(np.float32)) * scale.reshape(shape)
        found = graph.stored(step, graph.layers[step.name].weight)
        assert found is not None
        np.testing.assert_allclose(found.detach().numpy(), wanted, rtol=1e-6, atol=0)
        compared += 1
    assert compared == len(calibrated.placement.layers) > 20


def test_fake_quantisers_answer_as_the_int8_graph(
    calibrated: Calibrated, float_graph: Path, run: Any, sqnr: Any, tmp_path: Path
) -> None:
    graph, model = quantised(calibrated)
    path = tmp_path / "int8.onnx"
    path.write_bytes(model.SerializeToString())
    real, exact = ([run(where, image)["lungs"] for image in images(4)] for where in (path, float_graph))

    with torch.no_grad():
        fake = [graph(torch.from_numpy(image))["lungs"].numpy() for image in images(4)]

    # Two engines differ as much: a value between two steps falls either way, and all that follows with it.
    to_int8, to_float = (sqnr(np.concatenate(one), np.concatenate(fake)) for one in (real, exact))
    assert to_int8 > 25
    assert to_float > 25


def test_the_first_layers_are_equal_to_the_last_step(calibrated: Calibrated, run: Any, tmp_path: Path) -> None:
    graph, model = quantised(calibrated)
    tensor = next(step.gives for step in graph.steps if step.gives in graph.place and step.name.startswith("relu"))
    model.graph.output.extend([helper.make_tensor_value_info(f"{tensor}.dequantized", TensorProto.FLOAT, None)])
    path = tmp_path / "int8.onnx"
    path.write_bytes(model.SerializeToString())
    image = next(images(1))
    seen: dict[str, torch.Tensor] = {}
    see = graph.see

    def keep(name: str, value: torch.Tensor) -> torch.Tensor:
        seen[name] = see(name, value)
        return seen[name]

    graph.see = keep  # type: ignore[method-assign]
    with torch.no_grad():
        graph(torch.from_numpy(image))

    step = float(graph.log_steps.detach()[graph.place[tensor]].exp2())
    apart = np.abs(seen[tensor].numpy() - run(path, image, "ORT_DISABLE_ALL")[f"{tensor}.dequantized"]) / step
    assert apart.max() <= 1.01
    assert (apart > 0.5).mean() < 1e-3


def test_ranges_start_where_calibration_left_them(calibrated: Calibrated) -> None:
    ranges = QuantisedGraph(calibrated).ranges()

    for name, origin in calibrated.placement.tensors.items():
        measured = calibrated.ranges[origin]
        wanted = measured.high if measured.low >= 0 else measured.magnitude
        assert ranges[name].high == pytest.approx(wanted, rel=1e-5)
        assert (ranges[name].low < 0) == (measured.low < 0)


@pytest.mark.parametrize("shape", [(5, 3, 3, 3), (4, 6, 1, 1), (7, 9), (8, 1, 3, 3)])
def test_the_worst_pair_in_torch_is_that_of_the_proof(shape: tuple[int, ...]) -> None:
    rows = noise(*shape).astype(np.float64)

    np.testing.assert_allclose(largest_pair(torch.from_numpy(rows)).numpy(), pairs.largest_pair(rows), rtol=1e-12)


def lsq_by_hand(value: float, step: float, low: int, high: int) -> float:
    """Slope of the rounded value in the step (Esser et al., ICLR 2020, eq. 3)."""
    ratio = value / step
    return low if ratio <= low else high if ratio >= high else round(ratio) - ratio


@pytest.mark.parametrize(("ends", "name"), [(UNSIGNED, "unsigned"), (CENTRED, "centred")])
def test_the_steps_gradient_is_that_of_the_paper(ends: tuple[int, int], name: str) -> None:
    values = [-300.2, -1.4, 0.3, 0.8, 77.7, 126.6, 400.0]
    for value in values:
        log_step = torch.tensor(-1.0, requires_grad=True)
        x = torch.tensor([value * 0.5], requires_grad=True)

        rounded(x, log_step, *ends).sum().backward()

        assert x.grad is not None
        assert log_step.grad is not None
        assert float(x.grad) == (1.0 if ends[0] <= value <= ends[1] else 0.0), (name, value)
        # The step is 2 ** -1; its logarithm's slope is the step's times step * ln 2, scaled by 1 / sqrt(N * high).
        wanted = lsq_by_hand(value * 0.5, 0.5, *ends) * 0.5 * np.log(2) / np.sqrt(ends[1])
        assert float(log_step.grad) == pytest.approx(wanted, abs=1e-4), (name, value)


def test_rounding_and_its_gradients_are_those_of_torchs_own_learnable_quantiser() -> None:
    oracle: Callable[..., torch.Tensor] = torch._fake_quantize_learnable_per_tensor_affine  # pyright: ignore
    start = torch.tensor(noise(4, 5, 6) * 3)
    weight = torch.tensor(noise(4, 5, 6).copy())
    step = 0.03
    ours, log_step = start.clone().requires_grad_(), torch.tensor(step).log2().requires_grad_()
    theirs, scale = start.clone().requires_grad_(), log_step.detach().exp2().reshape(1).requires_grad_()

    mine = rounded(ours, log_step, *CENTRED)
    (mine * weight).sum().backward()
    other = oracle(theirs, scale, torch.zeros(1), *CENTRED, 1 / np.sqrt(start.numel() * 127))
    (other * weight).sum().backward()

    assert torch.allclose(mine, other)
    assert ours.grad is not None
    assert theirs.grad is not None
    assert torch.equal(ours.grad, theirs.grad)
    assert log_step.grad is not None
    assert scale.grad is not None
    assert float(log_step.grad) == pytest.approx(float(scale.grad) * float(scale.detach()) * np.log(2), rel=1e-4)


def test_steps_are_learned_or_follow_the_batches_or_stay(calibrated: Calibrated) -> None:
    narrow = msgspec.structs.replace(
        calibrated, ranges={name: Range(one.low / 2, one.high / 2) for name, one in calibrated.ranges.items()}
    )
    moved: dict[str, float] = {}
    for how in ("learned", "average", "fixed"):
        graph = QuantisedGraph(narrow, steps=how).train()
        before = graph.log_steps.detach().clone()
        optimizer = torch.optim.Adam([one for one in graph.parameters() if one.requires_grad], lr=1e-2)
        torch.stack([x.square().mean() for x in graph(batch(2)).values()]).sum().backward()
        optimizer.step()
        change = graph.log_steps.detach() - before
        moved[how] = float(change.abs().max())
        if how == "average":  # the batch's extremes are above half of the calibrated ones
            assert float(change.mean()) > 0

    assert moved["learned"] > 0
    assert moved["average"] > 0
    assert moved["fixed"] == 0


def test_a_range_that_is_far_too_wide_is_learned() -> None:
    names = ("a", "b", "c")
    weights = [np.eye(2, dtype=np.float32).reshape(2, 2, 1, 1) for _ in names]
    nodes = [
        helper.make_node("Conv", ["image", "a.weight"], ["a.out"], name="a", kernel_shape=[1, 1]),
        helper.make_node("Relu", ["a.out"], ["between"], name="relu"),
        helper.make_node("Conv", ["between", "b.weight"], ["b.out"], name="b", kernel_shape=[1, 1]),
        helper.make_node("Conv", ["b.out", "c.weight"], ["out"], name="c", kernel_shape=[1, 1]),
    ]
    graph = helper.make_graph(
        nodes,
        "wide",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, (1, 2, 4, 4))],
        [helper.make_tensor_value_info("out", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(x, f"{name}.weight") for x, name in zip(weights, names, strict=True)],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9)
    placement = place(model.graph, after_layers=True)
    ranges = {name: Range(0.0, 64.0 if name == "between" else 1.0) for name in placement.measured}
    wide = Calibrated(model=model, placement=placement, ranges=ranges, form="unsigned", images=1)
    module = QuantisedGraph(wide, trained=lambda name: False).train()
    optimizer = torch.optim.Adam([module.log_steps], lr=0.05)
    x = torch.from_numpy(np.random.default_rng(0).random((16, 2, 4, 4), np.float32))
    losses = []
    for _ in range(300):
        loss = (module(x)["out"] - x).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))

    assert losses[-1] < losses[0] / 50
    assert module.ranges()["between"].high < 10
