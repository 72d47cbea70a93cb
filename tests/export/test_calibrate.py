"""Ranges of activations: the three methods, against numpy and against their own definitions."""

from __future__ import annotations

import itertools

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper

from foveola.export.calibrate import BINS, Method, Range, entropy_end, measure_ranges

Images = list[NDArray[np.float32]]


def doubled() -> onnx.ModelProto:
    """A graph that doubles its input."""
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        [helper.make_node("Add", ["image", "image"], ["out"], name="out")],
        "g",
        [value("image", TensorProto.FLOAT, [1, 1, 100, 100])],
        [value("out", TensorProto.FLOAT, [1, 1, 100, 100])],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9)


def normal(count: int, scale: float = 1.0) -> Images:
    random = np.random.default_rng(7)
    return [scale * random.standard_normal((1, 1, 100, 100)).astype(np.float32) for _ in range(count)]


def measured(images: Images, method: Method, tensor: str = "out") -> Range:
    ranges, count = measure_ranges(doubled(), [tensor], images, method)
    assert count == len(images)
    return ranges[tensor]


def test_minmax_is_the_extent_over_all_images() -> None:
    images = normal(5)

    extent = measured(images, "minmax")

    assert extent == Range(2 * float(min(i.min() for i in images)), 2 * float(max(i.max() for i in images)))


def test_the_input_itself_can_be_watched() -> None:
    assert measured([np.full((1, 1, 100, 100), 0.75, np.float32)], "minmax", "image") == Range(0.0, 0.75)


def test_percentile_is_numpys_within_one_bin() -> None:
    images = normal(10)
    magnitudes = 2 * np.abs(np.concatenate([image.ravel() for image in images]))

    end = measured(images, "percentile").high

    expected = np.percentile(magnitudes, 99.99)
    assert expected <= end <= expected + 4 * magnitudes.max() / BINS


def test_the_order_of_images_moves_an_end_by_bins_only() -> None:
    images = [scale * image for scale, image in zip((0.01, 1.0, 5.0, 0.3), normal(4), strict=True)]
    ends = {measured([images[i] for i in order], "percentile").high for order in itertools.permutations(range(4))}

    assert max(ends) - min(ends) < 4 * max(ends) / (BINS / 2)


def test_black_images_before_the_first_bright_one_do_no_harm() -> None:
    black = np.zeros((1, 1, 100, 100), np.float32)

    for method in ("minmax", "percentile", "entropy"):
        assert measured([black, black], method) == Range(0.0, 0.0)
        assert measured([black, *normal(3)], method).high > 3


def test_entropy_cuts_off_a_lone_outlier_and_keeps_a_flat_distribution() -> None:
    outlier = normal(4)
    outlier[2][0, 0, 0, 0] = 1000.0
    flat = np.ones(BINS, np.int64) * 100

    assert measured(outlier, "minmax").high == pytest.approx(2000)
    assert 4 < measured(outlier, "entropy").high < 200
    assert entropy_end(flat) == 1.0


def test_no_method_leaves_the_extent_seen() -> None:
    images = normal(3)
    extent = measured(images, "minmax")

    for method in ("percentile", "entropy"):
        inner = measured(images, method)
        assert extent.low <= inner.low <= 0 <= inner.high <= extent.high
