"""Rows of a convolution as a matrix product, for a sample of its positions only.

Shapes: C channels, H x W the image, M positions, K products a row.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray
from onnx import NodeProto

from ...runtime.errors import FoveolaError
from .pairs import Bytes, Order, even


class Window(msgspec.Struct, frozen=True, kw_only=True):
    """How a convolution in two dimensions moves over its input."""

    kernel: tuple[int, int]
    strides: tuple[int, int]
    dilations: tuple[int, int]
    pads: tuple[int, int, int, int]  # top, left, bottom, right
    group: int
    zero: int  # the byte that stands for zero, and for the padding

    @staticmethod
    def of(node: NodeProto, weight_shape: tuple[int, ...], zero: int) -> Window:
        """Read a Conv node.

        Raises:
            FoveolaError: not two-dimensional, or the padding is left to the engine.
        """
        attributes: dict[str, Any] = {a.name: a for a in node.attribute}
        automatic = attributes["auto_pad"].s if "auto_pad" in attributes else b"NOTSET"
        if len(weight_shape) != 4 or automatic not in (b"NOTSET", b"VALID"):
            raise FoveolaError(f"lint: {node.name}", "its window is not known", "write a Conv in 2-D with its pads")

        def numbers(name: str, default: list[int]) -> list[int]:
            return list(attributes[name].ints) if name in attributes else default

        strides, dilations = numbers("strides", [1, 1]), numbers("dilations", [1, 1])
        pads = numbers("pads", [0, 0, 0, 0])
        return Window(
            kernel=(weight_shape[2], weight_shape[3]),
            strides=(strides[0], strides[1]),
            dilations=(dilations[0], dilations[1]),
            pads=(pads[0], pads[1], pads[2], pads[3]),
            group=attributes["group"].i if "group" in attributes else 1,
            zero=zero,
        )

    def rows(self, height: int) -> int:
        """Count the output's rows."""
        reach = self.dilations[0] * (self.kernel[0] - 1) + 1
        return (height + self.pads[0] + self.pads[2] - reach) // self.strides[0] + 1

    def columns(self, width: int) -> int:
        """Count the output's columns."""
        reach = self.dilations[1] * (self.kernel[1] - 1) + 1
        return (width + self.pads[1] + self.pads[3] - reach) // self.strides[1] + 1


def sample_rows(
    values: Bytes, window: Window | None, order: Order, positions: int, random: np.random.Generator
) -> Iterator[NDArray[np.uint8]]:
    """Give the rows (M, K) that a layer multiplies, one matrix for each group of channels.

    Args:
        values: activations: (1, C, H, W) of a convolution, (..., K) of a matrix product.
        window: None for a matrix product.
        order: of the products in a row.
        positions: most that are taken; all are where the output has no more.
        random: chooses them.
    """
    if window is None:
        rows = values.reshape(-1, values.shape[-1])
        yield rows[_choose(len(rows), positions, random)]
        return
    _, channels, height, width = values.shape
    top, left, bottom, right = window.pads
    padded = np.pad(values[0], ((0, 0), (top, bottom), (left, right)), constant_values=window.zero)
    columns = window.columns(width)
    chosen = _choose(window.rows(height) * columns, positions, random)
    y = (chosen // columns * window.strides[0])[:, None] + np.arange(window.kernel[0]) * window.dilations[0]
    x = (chosen % columns * window.strides[1])[:, None] + np.arange(window.kernel[1]) * window.dilations[1]
    patches = padded[:, y[:, :, None], x[:, None, :]]  # (C, M, kernel rows, kernel columns)
    share = channels // window.group
    for first in range(0, channels, share):
        last = np.moveaxis(patches[first : first + share], 0, -1)
        yield (even(last) if order == "channels" else last).reshape(len(chosen), -1)


def _choose(available: int, wanted: int, random: np.random.Generator) -> NDArray[np.int64]:
    if available <= wanted:
        return np.arange(available)
    return np.sort(random.choice(available, wanted, replace=False))
