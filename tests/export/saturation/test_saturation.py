"""The saturation lint: what it counts, whom it names, and that its cures are proved."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from foveola.export.quantize import Overflow, calibrate_graph, int8_model, quantize_onnx
from foveola.export.saturation.integer_layers import integer_layers, unproved_layers
from foveola.export.saturation.lint import lint_saturation
from foveola.export.saturation.patches import Window, sample_rows
from foveola.runtime.errors import FoveolaError

SIDE = 16
QEMU = shutil.which("qemu-x86_64")


def bright(count: int, seed: int = 3) -> Iterator[NDArray[np.float32]]:
    """White areas with a little texture, as an X-ray image that was not inverted."""
    random = np.random.default_rng(seed)
    for _ in range(count):
        yield np.clip(random.normal(0.85, 0.1, (1, 1, SIDE, SIDE)), 0, 1).astype(np.float32)


def network(path: Path, opset: int = 20) -> Path:
    """A stem of one channel, a depthwise layer, a pointwise one, a matrix product and a head."""
    random = np.random.default_rng(5)
    arrays = {
        "stem.w": random.laplace(0.1, 0.3, (16, 1, 3, 3)),
        "deep.w": random.laplace(0.1, 0.3, (16, 1, 3, 3)),
        "point.w": random.laplace(0, 0.3, (24, 16, 1, 1)),
        "flat.w": random.laplace(0, 0.3, (20, 24)),
        "head.w": random.laplace(0, 0.3, (3, 20)),
        "axes": np.array([2, 3]),
    }
    nodes = [
        helper.make_node("Conv", ["image", "stem.w"], ["a"], name="stem", pads=[1] * 4, strides=[2, 2]),
        helper.make_node("Relu", ["a"], ["b"], name="relu"),
        helper.make_node("Conv", ["b", "deep.w"], ["c"], name="deep", pads=[1] * 4, group=16),
        helper.make_node("Conv", ["c", "point.w"], ["d"], name="point"),
        helper.make_node("Relu", ["d"], ["e"], name="relu2"),
        helper.make_node("ReduceMean", ["e", "axes"], ["f"], name="mean", keepdims=0),
        helper.make_node("Gemm", ["f", "flat.w"], ["g"], name="flat", transB=1),
        helper.make_node("Gemm", ["g", "head.w"], ["out"], name="head", transB=1),
    ]
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        nodes,
        "g",
        [value("image", TensorProto.FLOAT, [1, 1, SIDE, SIDE])],
        [value("out", TensorProto.FLOAT, [1, 3])],
        [
            numpy_helper.from_array(a if a.dtype == np.int64 else a.astype(np.float32), name)
            for name, a in arrays.items()
        ],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=9), path)
    return path


@pytest.fixture(scope="module")
def float_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return network(tmp_path_factory.mktemp("lint") / "float.onnx")


@pytest.fixture(scope="module")
def full(float_path: Path) -> Path:
    """The 8-bit graph."""
    path = float_path.with_name("full.onnx")
    quantize_onnx(float_path, path, bright(8), min_images=8)
    return path


def test_the_layer_that_clips_is_named_and_measured(full: Path) -> None:
    report = lint_saturation(full, bright(4), origins={"stem": "backbone.stem"})

    told = {one.layer: one for one in report.layers}
    assert list(told) == ["stem", "deep", "point", "flat"]
    assert report.images == 4
    stem = told["stem"]
    assert (stem.module, stem.operator, stem.sums, stem.order) == ("backbone.stem", "Conv", "pairs", "im2col")
    assert (stem.products, stem.steps, stem.positions) == (9, 127, 4 * 64)
    assert stem.share > 0.001
    assert stem.error > 0.01
    assert 0 < stem.overshoot <= 2 * 255 * 128 - 32768
    assert report.clipped[0].error == max(one.error for one in report.layers)
    assert report.unproved == unproved_layers(full) == ("stem", "point", "flat")
    assert [one.cure for one in report.layers] == ["fit", "none", "fit", "fit"]


def test_a_depthwise_layer_is_exact(full: Path) -> None:
    deep = lint_saturation(full, bright(1)).layers[1]

    assert (deep.sums, deep.proved, deep.share, deep.positions) == ("depthwise", True, 0, 0)


def test_without_images_only_proofs_are_made(full: Path) -> None:
    report = lint_saturation(full, [])

    assert report.unproved == ("stem", "point", "flat")
    assert not report.clipped
    assert report.images == 0


def test_few_positions_are_taken_whole_and_many_are_sampled_the_same_way_twice(full: Path) -> None:
    whole = lint_saturation(full, bright(2), positions=10**6).layers[0]
    sample = [lint_saturation(full, bright(2), positions=20).layers[0] for _ in range(2)]

    assert whole.positions == 2 * 8 * 8
    assert sample[0].positions == 40
    assert sample[0] == sample[1]
    assert sample[0].share == pytest.approx(whole.share, rel=0.5)


@pytest.mark.parametrize("overflow", ["seven", "fit", "unsigned"])
def test_every_cure_is_proved_for_all_inputs(overflow: Overflow, float_path: Path, tmp_path: Path) -> None:
    quantize_onnx(float_path, tmp_path / "cured.onnx", bright(8), weight_bits=7, overflow=overflow, min_images=8)

    report = lint_saturation(tmp_path / "cured.onnx", bright(2))

    assert report.unproved == ()
    assert not report.clipped
    expected = {"seven": [63] * 4, "unsigned": [127] * 4}
    steps = [one.steps for one in report.layers]
    if overflow == "fit":
        assert steps[1] == 127  # depthwise
        assert all(64 <= one <= 127 for one in steps)
    else:
        assert steps == expected[overflow]
    sums = [one.sums for one in report.layers]
    assert sums == (["unsigned", "depthwise", "unsigned", "unsigned"] if overflow == "unsigned" else
                    ["pairs", "depthwise", "pairs", "pairs"])  # fmt: skip


def test_fitted_weights_lose_less_than_seven_bits(float_path: Path) -> None:
    weights = {tensor.name: numpy_helper.to_array(tensor) for tensor in onnx.load(float_path).graph.initializer}
    calibrated = calibrate_graph(float_path, bright(8), min_images=8)

    losses: dict[Overflow, float] = {}
    rules: tuple[Overflow, ...] = ("seven", "fit", "unsigned")
    for overflow in rules:
        losses[overflow] = 0.0
        for layer in integer_layers(int8_model(calibrated, weight_bits=7, overflow=overflow)):
            integers = layer.weight.astype(np.float64) - (128 if layer.weight.dtype == np.uint8 else 0)
            back = integers * layer.scales.reshape(-1, *[1] * (integers.ndim - 1))
            losses[overflow] += float(((back - weights[f"{layer.name}.w"]) ** 2).sum())

    assert losses["unsigned"] < losses["fit"] < 0.7 * losses["seven"]


def test_the_signed_form_clips_as_much_as_the_unsigned_one(float_path: Path, tmp_path: Path) -> None:
    quantize_onnx(float_path, tmp_path / "signed.onnx", bright(8), form="signed", min_images=8)

    report = lint_saturation(tmp_path / "signed.onnx", bright(4))

    assert report.unproved == ("stem", "point", "flat")
    assert report.layers[0].share > 0.001  # 127 steps above 128 reach 255 as well


def test_unsigned_weights_in_the_signed_form_are_refused(float_path: Path) -> None:
    calibrated = calibrate_graph(float_path, bright(8), form="signed", min_images=8)

    with pytest.raises(FoveolaError, match=r"overflow: unsigned.*take fit or seven"):
        int8_model(calibrated, weight_bits=7, overflow="unsigned")


def test_a_layer_kept_in_float_is_read_and_written_in_float(float_path: Path, tmp_path: Path) -> None:
    done = quantize_onnx(float_path, tmp_path / "mixed.onnx", bright(8), float_layers=["stem"], min_images=8)

    model = onnx.load(tmp_path / "mixed.onnx")
    assert done.float_layers == ("stem", "head")
    assert unproved_layers(model) == ("point", "flat")
    stem = next(node for node in model.graph.node if node.name == "stem")
    assert list(stem.input) == ["image", "stem.w"]


def test_a_layer_that_is_not_there_cannot_be_kept_in_float(float_path: Path, tmp_path: Path) -> None:
    with pytest.raises(FoveolaError, match=r"'steem': there is no such layer in the graph; did you mean 'stem'"):
        quantize_onnx(float_path, tmp_path / "x.onnx", bright(8), float_layers=["steem"], min_images=8)


def test_rows_of_a_convolution_are_those_of_the_convolution() -> None:
    import torch

    random = np.random.default_rng(0)
    values = random.integers(0, 256, (1, 6, 9, 11), np.uint8)
    weight = random.integers(-127, 128, (8, 3, 3, 2), np.int8)
    window = Window(kernel=(3, 2), strides=(2, 1), dilations=(1, 3), pads=(1, 0, 2, 1), group=2, zero=77)
    padded = torch.nn.functional.pad(torch.from_numpy(values).double(), (0, 1, 1, 2), value=77.0)
    theirs = torch.nn.functional.conv2d(
        padded, torch.from_numpy(weight).double(), stride=(2, 1), dilation=(1, 3), groups=2
    )

    parts = []
    for index, rows in enumerate(sample_rows(values, window, "im2col", 10**6, random)):
        mine = np.moveaxis(weight[index * 4 : (index + 1) * 4], 1, -1).reshape(4, -1)
        parts.append(rows.astype(np.int64) @ mine.T.astype(np.int64))

    np.testing.assert_array_equal(np.concatenate(parts, 1).T.reshape(theirs.shape), theirs.numpy())


def test_padding_that_is_left_to_the_engine_is_refused(full: Path, tmp_path: Path) -> None:
    model = onnx.load(full)
    stem = next(node for node in model.graph.node if node.name == "stem")
    stem.attribute.append(helper.make_attribute("auto_pad", "SAME_UPPER"))

    with pytest.raises(FoveolaError, match="lint: stem: its window is not known"):
        lint_saturation(model, bright(1))


@pytest.mark.skipif(QEMU is None, reason="qemu-user is not installed")
def test_cured_graphs_answer_without_vnni_as_with_it(float_path: Path, full: Path, tmp_path: Path, run: Any) -> None:
    calibrated = calibrate_graph(float_path, bright(8), min_images=8)
    rules: tuple[Overflow, ...] = ("seven", "fit", "unsigned")
    for overflow in rules:
        onnx.save(int8_model(calibrated, weight_bits=7, overflow=overflow), tmp_path / f"{overflow}.onnx")
    shutil.copyfile(full, tmp_path / "full.onnx")
    (image,) = bright(1, seed=9)
    for path in tmp_path.glob("*.onnx"):
        np.save(path.with_suffix(".image.npy"), image)

    program = [sys.executable, str(Path(__file__).parent / "one_layer.py"), "onnxruntime", str(tmp_path)]
    subprocess.run([str(QEMU), "-cpu", "Haswell", *program], capture_output=True, check=True, timeout=300)

    def apart(name: str) -> float:
        there = np.load(tmp_path / f"{name}.answer.npy")
        return float(np.abs(there - run(tmp_path / f"{name}.onnx", image)["out"]).max())

    cured = {name: apart(name) for name in rules}
    if "vnni" in Path("/proc/cpuinfo").read_text(encoding="utf-8"):
        assert max(cured.values()) < 0.1 * apart("full"), cured
    else:  # this processor clips like the emulated one
        assert max(cured.values()) <= apart("full") + 1e-6
