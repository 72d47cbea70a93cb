"""Ranges of activations: the three methods, against numpy and against their own definitions."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper

from foveola.export.calibrate import (
    BINS,
    LEVELS,
    Method,
    Range,
    channel_extents,
    entropy_end,
    measure_ranges,
    mse_end,
    read_ranges,
    write_ranges,
)
from foveola.runtime.errors import FoveolaError

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

    for method in ("minmax", "percentile", "entropy", "mse"):
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

    for method in ("percentile", "entropy", "mse"):
        inner = measured(images, method)
        assert extent.low <= inner.low <= 0 <= inner.high <= extent.high


def test_the_mse_end_is_the_best_of_all_for_the_values_themselves() -> None:
    values = np.abs(np.concatenate([image.ravel() for image in normal(4)]).astype(np.float64)) ** 2  # a long tail
    counts = np.histogram(values, bins=BINS, range=(0.0, values.max()))[0]

    found = mse_end(counts) * values.max()

    def error(end: float) -> float:
        step = end / (LEVELS - 1)
        return float(((values - np.clip(np.rint(values / step), 0, LEVELS - 1) * step) ** 2).mean())

    best = min(error(end) for end in np.linspace(0.1, 1.0, 200) * values.max())
    assert error(found) < 1.02 * best < 0.9 * error(values.max())


def test_without_a_tail_mse_clips_nothing() -> None:
    assert mse_end(np.ones(BINS, np.int64)) > 0.98
    assert mse_end(np.eye(1, BINS, dtype=np.int64)[0]) == 1.0  # zeros alone


def test_extents_by_channel_are_the_largest_magnitudes() -> None:
    images = normal(3)

    found = channel_extents(doubled(), ["out"], images)["out"]

    np.testing.assert_allclose(found, [2 * max(float(np.abs(image).max()) for image in images)])


def test_ranges_are_read_as_they_were_written(tmp_path: Path) -> None:
    ranges = {"conv_2.out": Range(-1.5, 2.25), "image": Range(0.0, 1.0)}
    write_ranges(ranges, tmp_path / "ranges.json")

    assert read_ranges(tmp_path / "ranges.json") == ranges


@pytest.mark.parametrize(
    "text", ['{"tensors": {"a": [0.5, 1]}}', '{"tensors": {"a": [1]}}', "{}", '{"tensors": {"a": [0, 1e999]}}', "x"]
)
def test_a_file_that_holds_no_ranges_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "ranges.json").write_text(text)

    with pytest.raises(FoveolaError, match=r"ranges.json"):
        read_ranges(tmp_path / "ranges.json")
