"""The record `saturation.json` beside an int8 graph, and its line in the log; see docs/saturation.md."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Literal

import msgspec
import numpy as np
from numpy.typing import NDArray

from ...export.quantize import Calibrated, Overflow, WeightBits, int8_model
from ...export.saturation.lint import Saturation, lint_saturation
from ..data.arrays import Arrays

SATURATION = "saturation.json"
LINT_IMAGES = 16  # of the calibration images
NAMED = 3  # layers that the log names


class SaturationRecord(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The file `saturation.json`.

    Args:
        format: of this file.
        weight_bits: of the device's profile.
        overflow: the cure that was applied; `none` where the device needs none.
        written: the lint's report on the graph that was written.
        uncured: its report on the same graph with 8-bit weights, where a cure was applied.
    """

    format: Literal[1] = 1
    weight_bits: WeightBits
    overflow: Literal["none", "fit", "seven", "unsigned"]
    written: Saturation
    uncured: Saturation | None


def lint_int8(
    calibrated: Calibrated, arrays: Arrays, weight_bits: WeightBits, overflow: Overflow, origins: Mapping[str, str]
) -> SaturationRecord:
    """Lint the graph that is written and, where it has been cured, its 8-bit form.

    Args:
        calibrated: as the graph was written from.
        arrays: the calibration images, of which a few are taken.
        weight_bits: of the device.
        overflow: the cure where they are 7.
        origins: module of each node.
    """

    def lint(bits: WeightBits) -> Saturation:
        model = int8_model(calibrated, weight_bits=bits, overflow=overflow)
        return lint_saturation(model, spread(arrays, LINT_IMAGES), origins=origins)

    cured = weight_bits == 7
    return SaturationRecord(
        weight_bits=weight_bits,
        overflow=overflow if cured else "none",
        written=lint(weight_bits),
        uncured=lint(8) if cured else None,
    )


def describe(record: SaturationRecord) -> str:
    """Say in one line what the lint found and what has been done about it."""
    clipped = (record.uncured or record.written).clipped
    named = ", ".join(
        f"{one.layer}{f' ({one.module})' if one.module else ''} {one.share:.2%} of sums" for one in clipped[:NAMED]
    )
    more = f" and {len(clipped) - NAMED} more" if len(clipped) > NAMED else ""
    found = f"8-bit weights would overflow without VNNI in {named}{more}" if clipped else "no 16-bit sum overflows"
    if record.uncured is None:
        return f"{found}; no matter on this device"
    left = len(record.written.unproved)
    return f"{found}; cure {record.overflow}: " + (f"{left} layers not proved" if left else "every layer proved safe")


def spread(arrays: Arrays, most: int) -> Iterator[NDArray[np.float32]]:
    """Give images one by one, at most so many, spread evenly over all."""
    for i in np.linspace(0, len(arrays) - 1, min(most, len(arrays))).round().astype(int):
        yield np.array(arrays.images[i : i + 1])
