"""VPMADDUBSW emulated: against the instruction itself, and against both engines on an emulated Haswell."""

from __future__ import annotations

import platform
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from foveola.export.saturation.pairs import (
    SAFE_PAIR,
    Order,
    cannot_saturate,
    is_depthwise,
    largest_pair,
    multiply,
    orders_of,
    rows_of,
)
from foveola.export.saturation.patches import Window, sample_rows

from .one_layer import SIDE, answer, write_layer

HERE = Path(__file__).parent
QEMU = shutil.which("qemu-x86_64")
HASWELL = [str(QEMU), "-cpu", "Haswell"]
HOST = platform.machine() == "x86_64"


def laplace(shape: tuple[int, ...], scale: float = 45.0, seed: int = 1) -> NDArray[np.int8]:
    drawn = np.random.default_rng(seed).laplace(0, scale, shape)
    return np.clip(np.rint(drawn), -127, 127).astype(np.int8)


def bright(shape: tuple[int, ...], seed: int = 2) -> NDArray[np.uint8]:
    return np.clip(np.random.default_rng(seed).normal(205, 35, shape), 0, 255).astype(np.uint8)


def slowly(activations: NDArray[np.uint8], weights: NDArray[np.int8]) -> NDArray[np.int64]:
    """The definition, one pair at a time."""
    total = np.zeros((len(activations), len(weights)), np.int64)
    for k in range(0, activations.shape[1], 2):
        pair = activations[:, k : k + 2].astype(np.int64) @ weights[:, k : k + 2].T.astype(np.int64)
        total += np.clip(pair, -32768, 32767)
    return total


@pytest.mark.parametrize("products", [1, 2, 9, 27, 64])
def test_the_emulation_is_the_definition(products: int) -> None:
    activations, weights = bright((20, products)), laplace((12, products))

    product = multiply(activations, weights)

    np.testing.assert_array_equal(product.clipped, slowly(activations, weights))
    np.testing.assert_array_equal(product.exact, activations.astype(np.int64) @ weights.T.astype(np.int64))
    assert (product.saturated > 0) == (product.clipped != product.exact).any() == (products > 2)


def test_the_most_that_a_pair_can_lose_is_told() -> None:
    highest = multiply(np.full((1, 2), 255, np.uint8), np.full((1, 2), 127, np.int8))
    lowest = multiply(np.full((1, 2), 255, np.uint8), np.full((1, 2), -128, np.int8))

    assert (highest.saturated, highest.overshoot) == (1, 2 * 255 * 127 - 32767)
    assert (lowest.saturated, lowest.overshoot) == (1, 2 * 255 * 128 - 32768)
    assert (highest.clipped[0, 0], lowest.clipped[0, 0]) == (32767, -32768)


@pytest.fixture(scope="module")
def instruction(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The C file beside this one, compiled."""
    compiler = shutil.which("gcc") or shutil.which("cc")
    if not compiler or not HOST:
        pytest.skip("no C compiler for x86-64 here")
    program = tmp_path_factory.mktemp("c") / "avx2_pairs"
    command = [compiler, "-O1", "-Wall", "-Werror", "-mavx2", str(HERE / "avx2_pairs.c"), "-o", str(program)]
    subprocess.run(command, check=True, timeout=60)
    return program


def run_instruction(command: list[str], a: NDArray[np.uint8], w: NDArray[np.int8]) -> NDArray[np.int32]:
    header = np.array([len(a), len(w), a.shape[1]], np.int32).tobytes()
    done = subprocess.run(command, input=header + a.tobytes() + w.tobytes(), capture_output=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return np.frombuffer(done.stdout, np.int32).reshape(len(a), len(w))


def has_avx2() -> bool:
    facts = Path("/proc/cpuinfo")
    return facts.exists() and " avx2 " in facts.read_text(encoding="utf-8")


@pytest.mark.parametrize("where", ["here", "haswell"])
def test_the_emulation_is_the_real_instruction_bit_for_bit(where: str, instruction: Path) -> None:
    if where == "here" and not has_avx2():
        pytest.skip("this processor has no AVX2")
    if where == "haswell" and QEMU is None:
        pytest.skip("qemu-user is not installed")
    command = [str(instruction)] if where == "here" else [*HASWELL, str(instruction)]
    edges = np.array([0, 1, 127, 128, 254, 255], np.uint8)
    random = np.random.default_rng(4)
    pairs = [
        (bright((64, 576)), laplace((32, 576))),
        (random.integers(0, 256, (64, 96), np.uint8), random.integers(-128, 128, (64, 96), np.int8)),
        (random.choice(edges, (64, 32)), random.choice(np.array([-128, -127, -1, 0, 1, 127], np.int8), (64, 32))),
    ]

    for activations, weights in pairs:
        product = multiply(activations, weights)

        assert product.saturated > 0
        np.testing.assert_array_equal(product.clipped, run_instruction(command, activations, weights))


# Weight, group, zero point of the activations; what ONNX Runtime and OpenVINO take for neighbours, None being exact.
LAYERS: dict[str, tuple[tuple[int, ...], int, int, Order | None, Order | None]] = {
    "stem of one channel": ((16, 1, 3, 3), 1, 0, "im2col", "channels"),
    "stem of three channels": ((32, 3, 3, 3), 1, 0, "im2col", "channels"),
    "wide": ((32, 16, 3, 3), 1, 0, "im2col", "im2col"),
    "wide about 128": ((32, 16, 3, 3), 1, 128, "im2col", "im2col"),
    "pointwise": ((32, 16, 1, 1), 1, 0, "im2col", "im2col"),
    "pointwise odd": ((16, 5, 1, 1), 1, 0, "im2col", "im2col"),
    "even but not by four": ((24, 6, 3, 3), 1, 0, "im2col", "im2col"),
    "grouped": ((32, 4, 3, 3), 4, 0, "im2col", "im2col"),
    "one channel a group": ((32, 1, 3, 3), 8, 0, "im2col", "im2col"),
    "depthwise": ((32, 1, 3, 3), 32, 0, None, None),
    "depthwise of 20": ((20, 1, 5, 5), 20, 128, None, None),
    "matrix": ((24, 62), 1, 0, "im2col", "im2col"),
    "unsigned weights": ((32, 16, 3, 3), 1, 0, None, None),  # OpenVINO computes this one in float
}


def expected(
    weight: NDArray[np.int8], image: NDArray[np.uint8], group: int, zero: int, order: Order
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Sums of a layer about its zero point, (1, N, ...), exact and clipped."""
    window = None
    if weight.ndim == 4:
        pad = weight.shape[2] // 2
        size = weight.shape[2], weight.shape[3]
        window = Window(kernel=size, strides=(1, 1), dilations=(1, 1), pads=(pad,) * 4, group=group, zero=zero)
    rows, outputs = rows_of(weight, order), len(weight) // group
    parts = [
        multiply(row, rows[i * outputs : (i + 1) * outputs])
        for i, row in enumerate(sample_rows(image, window, order, 10**9, np.random.default_rng(0)))
    ]
    about = zero * weight.astype(np.int64).reshape(len(weight), -1).sum(1)
    shape = (1, len(weight), *image.shape[2:])
    exact = np.concatenate([part.exact for part in parts], 1) - about
    clipped = np.concatenate([part.clipped for part in parts], 1) - about
    return exact.T.reshape(shape), clipped.T.reshape(shape)


@pytest.mark.skipif(QEMU is None or not HOST, reason="qemu-user is not installed, or this is no x86-64")
@pytest.mark.parametrize("engine", ["onnxruntime", "openvino"])
def test_engines_without_vnni_answer_as_the_emulation_says(engine: str, tmp_path: Path) -> None:
    pytest.importorskip(engine)
    steps: dict[str, float] = {}
    for index, (name, (shape, group, zero, _, _)) in enumerate(LAYERS.items()):
        channels = shape[1] * group
        image = bright((1, channels, SIDE, SIDE) if len(shape) == 4 else (1, channels), seed=index)
        weight = laplace(shape, seed=index)
        exact, clipped = expected(weight, image, group, zero, "im2col")
        steps[name] = float(np.float32(max(np.abs(exact).max(), np.abs(clipped).max()) / 126))
        unsigned = name.startswith("unsigned")
        write_layer(tmp_path / f"{name}.onnx", weight, image, steps[name], group=group, zero=zero, unsigned=unsigned)

    program = [sys.executable, str(HERE / "one_layer.py"), engine, str(tmp_path)]
    done = subprocess.run([*HASWELL, *program], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr

    for index, (name, (shape, group, zero, ours, theirs)) in enumerate(LAYERS.items()):
        order = ours if engine == "onnxruntime" else theirs
        image = (np.load(tmp_path / f"{name}.image.npy") + zero).astype(np.uint8)
        exact, clipped = expected(laplace(shape, seed=index), image, group, zero, order or "im2col")
        told = np.rint(np.load(tmp_path / f"{name}.answer.npy") / steps[name])
        wanted = np.rint((exact if order is None else clipped) / steps[name])

        # A sum that falls between two steps may be rounded either way.
        assert np.abs(told - wanted).max() <= 1, name
        assert np.mean(told != wanted) < 0.005, name
        if order == "im2col" and "vnni" in Path("/proc/cpuinfo").read_text(encoding="utf-8"):
            here = answer(engine, tmp_path / f"{name}.onnx")
            assert np.abs(here / steps[name] - told).max() > 3, f"{name}: this processor clips too"


def test_a_layer_is_proved_by_its_worst_pair() -> None:
    weight = np.zeros((2, 4, 1, 1), np.int8)
    weight[0, :2, 0, 0] = (100, 28)
    assert cannot_saturate(weight)

    weight[0, 1, 0, 0] = 29
    assert not cannot_saturate(weight)
    assert multiply(np.full((1, 4), 255, np.uint8), weight.reshape(2, 4)).saturated == 1

    weight[0, 1, 0, 0] = -127  # of the other sign: the two never add up
    assert cannot_saturate(weight)

    weight[0, :, 0, 0] = (0, 127, 127, 0)  # next to each other, but of two pairs
    assert cannot_saturate(weight)


def test_a_proof_holds_for_every_byte() -> None:
    random = np.random.default_rng(7)
    for _ in range(50):
        weight = random.integers(-127, 128, (8, 6, 1, 1), np.int8)
        extremes = random.choice(np.array([0, 255], np.uint8), (64, 6))
        saturated = multiply(extremes, weight.reshape(8, 6)).saturated

        assert not (cannot_saturate(weight) and saturated)
        np.testing.assert_array_equal(largest_pair(weight.astype(np.int32)) > SAFE_PAIR, worst(weight) > 32767)


def worst(weight: NDArray[np.int8]) -> NDArray[np.int64]:
    """The most that any of the four corners of a pair of bytes gives, in magnitude, for each output."""
    pairs = weight.astype(np.int64).reshape(len(weight), -1, 2)
    corners = [np.abs(pairs @ np.array(corner)) for corner in ((255, 0), (0, 255), (255, 255))]
    return np.asarray(np.max(corners, axis=0).max(1))


def test_odd_channels_are_held_against_both_orders() -> None:
    assert orders_of((8, 3, 3, 3)) == orders_of((8, 1, 3, 3)) == ("im2col", "channels")
    assert orders_of((8, 4, 3, 3)) == orders_of((8, 3, 1, 1)) == orders_of((8, 7)) == ("im2col",)
    weight = np.zeros((1, 3, 1, 2), np.int8)
    weight[0, 2, 0, 0], weight[0, 0, 0, 1] = 127, 127  # neighbours in K, but under two positions of the kernel

    assert not cannot_saturate(weight)
    np.testing.assert_array_equal(rows_of(weight, "im2col"), [[0, 0, 127, 127, 0, 0]])
    np.testing.assert_array_equal(rows_of(weight, "channels"), [[0, 0, 127, 0, 127, 0, 0, 0]])


def test_only_layers_of_one_channel_a_group_are_depthwise() -> None:
    assert is_depthwise((32, 1, 3, 3), 32)
    assert not is_depthwise((32, 1, 3, 3), 8)
    assert not is_depthwise((1, 1, 3, 3), 1)
    assert cannot_saturate(np.full((4, 1, 3, 3), 127, np.int8), group=4)
    assert not cannot_saturate(np.full((4, 1, 3, 3), 127, np.int8), group=2)


# "Saturation emulation" on synthetic Laplace weights, K = 576: rate and RMS error over the output's standard deviation.
FIGURES = {
    "sparse activations": (127, False, (0, 1e-5), (0.0005, 0.003)),
    "a bright input": (127, True, (0.013, 0.018), (0.33, 0.45)),
    "sparse activations, 7 bits": (63, False, (0, 0), (0, 0)),
    "a bright input, 7 bits": (63, True, (0, 0), (0, 0)),
}


@pytest.mark.parametrize("name", FIGURES)
def test_the_worked_figures_come_out(name: str) -> None:
    steps, is_bright, rates, errors = FIGURES[name]
    random = np.random.default_rng(0)
    weights = np.rint(np.clip(random.laplace(0, 33, (64, 576)), -127, 127) * (steps / 127)).astype(np.int8)
    drawn = random.normal(200, 45, (512, 576)) if is_bright else np.maximum(random.normal(0, 60, (512, 576)), 0)
    activations = np.clip(np.rint(drawn), 0, 255).astype(np.uint8)

    product = multiply(activations, weights)

    rate = product.saturated / (512 * 64 * 288)
    spread = np.sqrt(product.exact.var(0).mean())
    error = float(np.sqrt(((product.clipped - product.exact) ** 2).mean()) / spread)
    assert rates[0] <= rate <= rates[1]
    assert errors[0] <= error <= errors[1]
