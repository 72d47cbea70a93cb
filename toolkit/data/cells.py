"""What one cell of a data manifest means, by kind of task; an empty cell is a gap, never a "no".

A class may list other spellings after its name, parted by `|`: the class `AP|AP Supine` is shown as `AP` and also
reads cells and box labels that say `AP Supine`. Every function here is given a cell that is not empty and raises
`ValueError` with fault and mend as its two arguments when the cell does not say what its task needs.
"""

from __future__ import annotations

import math

import msgspec
import numpy as np
from numpy.typing import NDArray

from ...runtime.task import Task
from .faults import did_you_mean

Spellings = dict[str, int]  # spelling -> index of the class

FLAGS = {"0": 0.0, "1": 1.0}


class BoxCell(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One box of the JSON list in a detection cell, in pixels of the stored image."""

    label: str
    x1: float
    y1: float
    x2: float
    y2: float


def plain_task(task: Task) -> Task:
    """Give the task with each class under its shown name only (`AP|AP Supine` becomes `AP`).

    Raises:
        UsageError: two classes are shown under the same name.
    """
    return msgspec.structs.replace(task, classes=tuple(name.split("|")[0].strip() for name in task.classes))


def spellings(task: Task) -> Spellings:
    """All spellings of the task's classes.

    Raises:
        ValueError: a spelling stands for two classes.
    """
    known: Spellings = {}
    for index, name in enumerate(task.classes):
        for spelling in (part.strip() for part in name.split("|")):
            if known.setdefault(spelling, index) != index:
                raise ValueError(f"the spelling {spelling!r} stands for two classes", "")
    return known


def read_number(cell: str) -> float:
    """Read a finite number."""
    try:
        value = float(cell)
    except ValueError:
        raise ValueError(f"{cell!r} is not a number", "leave the cell empty when the value is not known") from None
    if not math.isfinite(value):
        raise ValueError(f"{cell!r} is not a finite number", "leave the cell empty when the value is not known")
    return value


def read_measure(cell: str, plausible: tuple[float, float] | None, unit: str) -> float:
    """Read a finite number that can be a value of the measure."""
    value = read_number(cell)
    if plausible is not None and not plausible[0] <= value <= plausible[1]:
        low, high = plausible
        fault = f"{cell} lies outside of {low:g} to {high:g}{' ' * bool(unit)}{unit}"
        raise ValueError(fault, "convert the column if it has another unit, or widen the task's plausible")
    return value


def read_flag(cell: str) -> float:
    """0 or 1; also `0.0` and `1.0`, which is what pandas writes for a column with gaps."""
    value = FLAGS.get(cell, FLAGS.get(cell.removesuffix(".0")))
    if value is None:
        raise ValueError(f"{cell!r} is neither 0 nor 1", "leave the cell empty when it is not known")
    return value


def read_class(cell: str, known: Spellings, count: int) -> float:
    """Index of the class that the cell names by one of its spellings or, where no class is a number, by its index."""
    if cell in known:
        return float(known[cell])
    number = _as_number(cell)
    if number is not None:
        # Classes that are numbers themselves are compared by value: "3.0" must not become the class at index 3.
        numeric = {value: index for name, index in known.items() if (value := _as_number(name)) is not None}
        if number in numeric:
            return float(numeric[number])
        if not numeric and number.is_integer() and 0 <= number < count:
            return number
    raise ValueError(f"{cell!r} is none of the classes", did_you_mean(cell, known))


def read_boxes(cell: str, known: Spellings, *, exhaustive: bool) -> NDArray[np.float32] | None:
    """Boxes of the task's labels, (M, 5) x1, y1, x2, y2, label index; None when the cell says nothing about them.

    Boxes of other labels are dropped. Where they are all there is, `exhaustive` says what that means: none of ours
    (an empty array) or not annotated (None).
    """
    try:
        found = msgspec.json.decode(cell, type=list[BoxCell])
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        mend = 'write a JSON list such as [{"label": "nodule", "x1": 10, "y1": 20, "x2": 30, "y2": 44}], or [] for none'
        raise ValueError(f"not a list of boxes: {error}", mend) from None
    for box in found:
        if not (box.x2 > box.x1 and box.y2 > box.y1):
            corners = f"{box.x1:g},{box.y1:g} to {box.x2:g},{box.y2:g}"
            raise ValueError(f"the box {box.label!r} from {corners} has no area", "x1 < x2 and y1 < y2")
    ours = [(box.x1, box.y1, box.x2, box.y2, known[box.label]) for box in found if box.label in known]
    if found and not ours and not exhaustive:
        return None
    return np.array(ours, np.float32).reshape(-1, 5)


def _as_number(text: str) -> float | None:
    try:
        value = float(text)
    except ValueError:
        return None
    return value if math.isfinite(value) else None
