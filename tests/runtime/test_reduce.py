from __future__ import annotations

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from foveola.runtime import reduce
from foveola.runtime.image import prepare
from foveola.runtime.manifest import InputSpec
from foveola.runtime.reduce import block_means, resized


def by_hand(pixels: NDArray[np.uint16], across: int, down: int) -> NDArray[np.uint16]:
    """The definition, block by block, in whole numbers of any size."""
    rows = range(0, pixels.shape[0], down)
    columns = range(0, pixels.shape[1], across)
    blocks = [[pixels[y : y + down, x : x + across] for x in columns] for y in rows]
    means = [[(int(one.sum(dtype=np.uint64)) + one.size // 2) // one.size for one in row] for row in blocks]
    return np.array(means, np.uint16)


@settings(max_examples=120, deadline=None, derandomize=True, database=None)
@given(
    height=st.integers(1, 70), width=st.integers(1, 70), across=st.integers(1, 40), down=st.integers(1, 40),
    low=st.sampled_from([0, 65000, 65534]), seed=st.integers(0, 99),
)  # fmt: skip
def test_block_means_are_exact(height: int, width: int, across: int, down: int, low: int, seed: int) -> None:
    pixels = np.random.default_rng(seed).integers(low, 65536, (height, width), dtype=np.uint16)

    np.testing.assert_array_equal(block_means(Image.fromarray(pixels), across, down), by_hand(pixels, across, down))


def test_bands_are_not_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    pixels = np.random.default_rng(0).integers(0, 65536, (95, 61), dtype=np.uint16)
    whole = block_means(Image.fromarray(pixels), 4, 3)

    monkeypatch.setattr(reduce, "BAND_PIXELS", 3 * 61 * 2)

    np.testing.assert_array_equal(block_means(Image.fromarray(pixels), 4, 3), whole)


@pytest.mark.parametrize("size", [(16, 16), (13, 40), (200, 9)])
def test_sixteen_bits_are_reduced_as_pillow_reduces_eight(size: tuple[int, int]) -> None:
    eight = np.random.default_rng(1).integers(0, 256, (211, 307), dtype=np.uint8)
    pillow = Image.fromarray(eight).resize(size, Image.Resampling.BILINEAR, reducing_gap=reduce.GAP)

    deep = np.asarray(resized(Image.fromarray(eight.astype(np.uint16) * 257), size, boxes=True))

    assert np.abs(deep / 257 - np.asarray(pillow)).max() <= 1.5  # Pillow rounds twice to 8 bits


@pytest.mark.parametrize("mode", ["L", "RGB", "I;16"])
def test_a_picture_that_is_not_twice_as_large_is_resized_as_ever(mode: str) -> None:
    noise = np.random.default_rng(2).integers(0, 256, (30, 30) if mode != "RGB" else (30, 30, 3))
    picture = Image.fromarray(noise.astype(np.uint16 if mode == "I;16" else np.uint8))

    for size in ((20, 20), (64, 64)):
        found, plain = resized(picture, size, boxes=True), resized(picture, size, boxes=False)
        np.testing.assert_array_equal(np.asarray(found), np.asarray(plain))


def test_the_manifest_says_whether_blocks_are_averaged_and_is_silent_where_they_are_not() -> None:
    plain = InputSpec(height=16, width=16, channels=1)
    boxes = msgspec.structs.replace(plain, reduction="box")
    picture = Image.fromarray(np.random.default_rng(3).integers(0, 256, (300, 300), dtype=np.uint8))

    assert b"reduction" not in msgspec.json.encode(plain)
    assert msgspec.json.decode(msgspec.json.encode(boxes), type=InputSpec) == boxes
    (x, geometry), (y, same) = prepare(picture, plain), prepare(picture, boxes)
    assert geometry == same
    assert 0 < np.abs(x - y).max() < 0.1
