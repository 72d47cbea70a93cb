"""Weights are held in units of their channel, which lose nothing and make training the same at any scale."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from onnx import ModelProto, TensorProto, helper, numpy_helper

from foveola.export.calibrate import Range
from foveola.export.torch_graph import TorchGraph
from foveola.export.weight_units import power_of_two, weight_units

Array = NDArray[np.float32]


def graph(weight: Array, bias: Array) -> ModelProto:
    made = helper.make_graph(
        [helper.make_node("Conv", ["image", "a.weight", "a.bias"], ["out"], name="a", kernel_shape=[1, 1])],
        "units",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, (1, 2, 3, 3))],
        [helper.make_tensor_value_info("out", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(weight, "a.weight"), numpy_helper.from_array(bias, "a.bias")],
    )
    return helper.make_model(made, opset_imports=[helper.make_opsetid("", 20)], ir_version=9)


def random(scale: tuple[float, ...] = (1.0, 1.0, 1.0)) -> tuple[Array, Array]:
    draw = np.random.default_rng(0)
    weight, bias = draw.standard_normal((3, 2, 1, 1)), draw.standard_normal(3)
    factor = np.array(scale)
    return (weight * factor[:, None, None, None]).astype(np.float32), (bias * factor).astype(np.float32)


@pytest.mark.parametrize(("value", "near"), [(1.0, 1.0), (0.3, 0.25), (3.1, 4.0), (1e-30, 2.0**-60), (0.0, 1.0)])
def test_a_unit_is_the_nearest_power_of_two(value: float, near: float) -> None:
    assert float(power_of_two(np.array(value))) == near


def test_a_weight_in_its_units_is_the_weight_to_the_last_bit() -> None:
    weight, bias = random((1e-4, 1.0, 300.0))
    model = graph(weight, bias)

    held = TorchGraph(model, units=weight_units(model, {"image": Range(0, 1)})).weights()

    assert np.array_equal(held["a.weight"].numpy(), weight)
    assert np.array_equal(held["a.bias"].numpy(), bias)


def test_each_channel_has_a_unit_of_its_own_and_a_dead_one_that_of_a_living() -> None:
    weight, bias = random((2.0**-10, 1.0, 0.0))

    units = weight_units(graph(weight, bias), {"image": Range(0, 1)})

    ratio = units["a.weight"].reshape(-1) / units["a.weight"].reshape(-1)[1]
    assert ratio[0] == pytest.approx(2.0**-10, rel=1)
    assert 1e-6 < ratio[2] < 1e-4
    assert units["a.bias"].shape == (3,)


def test_channels_that_were_scaled_apart_train_like_those_that_were_not() -> None:
    scale = (2.0**-6, 1.0, 2.0**5)
    ends = []
    for factor in ((1.0, 1.0, 1.0), scale):
        model = graph(*random(factor))
        module = TorchGraph(model, units=weight_units(model, {"image": Range(0, 1)}))
        optimizer = torch.optim.Adam(module.parameters(), lr=1e-2)
        x = torch.rand(4, 2, 3, 3, generator=torch.Generator().manual_seed(0))
        per_channel = torch.tensor(factor).reshape(1, 3, 1, 1)
        for _ in range(10):
            loss = (module(x)["out"] / per_channel - 1).square().mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        ends.append(module.weights()["a.weight"].numpy() / np.array(factor)[:, None, None, None])

    np.testing.assert_allclose(ends[0], ends[1], rtol=1e-4)
