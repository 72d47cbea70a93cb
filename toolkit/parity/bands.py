"""How an attribute's values make groups: as they are, as bands of age, as tertiles, or not at all.

| values | groups |
|---|---|
| ages in years (`age` in the name; `045Y` as DICOM writes them, too) | 0-17, 18-39, 40-64, 65-79, 80+ |
| other numbers, more than 12 different ones | tertiles of the cases |
| anything else, at most 50 different ones | each its own group |
| anything else | none: a name or a number of the hospital, no property |

Empty values are not known and belong to no group; neither does an age that nobody reaches, such as 999.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

MOST_VALUES = 50  # different texts; with more it is an identifier
MOST_NUMBERS = 12  # different numbers that are groups as they are
AGES = ((0, 17), (18, 39), (40, 64), (65, 79), (80, 130))  # years, both ends included
DICOM_AGE = re.compile(r"(\d{3})([DWMY])")  # value representation AS, PS3.5 section 6.2
YEARS = {"D": 1 / 365.25, "W": 7 / 365.25, "M": 1 / 12, "Y": 1.0}

Group = tuple[str, NDArray[np.bool_]]


def groups_of(attribute: str, values: Sequence[str]) -> list[Group]:
    """Give the groups of an attribute, `values` (N,): name and members (N,), in reading order."""
    if too_many_values(values):
        return []
    numbers = _numbers(values)
    if numbers is not None and is_age(attribute):
        return _age_bands(numbers)
    if numbers is not None and len(np.unique(numbers[~np.isnan(numbers)])) > MOST_NUMBERS:
        return _tertiles(numbers)
    column = np.asarray(values, dtype=str)
    names = sorted(set(values) - {""}, key=lambda value: (_number(value) if numbers is not None else 0.0, value))
    return [(str(name), column == name) for name in names]


def too_many_values(values: Sequence[str]) -> bool:
    """Tell whether an attribute is an identifier rather than a property."""
    return len(set(values) - {""}) > MOST_VALUES and _numbers(values) is None


def is_age(attribute: str) -> bool:
    """Tell whether an attribute's name says age: `age`, `patient_age`, `PatientAge`, `Age (years)`; not `image`."""
    return any(word.lower() == "age" for word in re.findall("[A-Z]?[a-z]+|[A-Z]+", attribute))


def _age_bands(ages: NDArray[np.float64]) -> list[Group]:
    bands = []
    for low, high in AGES:
        name = f"{low}+" if high == AGES[-1][1] else f"{low}-{high}"
        bands.append((name, (ages >= low) & (ages < high + 1)))
    return [(name, members) for name, members in bands if members.any()]


def _tertiles(numbers: NDArray[np.float64]) -> list[Group]:
    known = numbers[~np.isnan(numbers)]
    first, second = np.quantile(known, [1 / 3, 2 / 3], method="inverted_cdf")
    groups = [
        (f"up to {first:g}", numbers <= first),
        (f"over {first:g} up to {second:g}", (numbers > first) & (numbers <= second)),
        (f"over {second:g}", numbers > second),
    ]
    return [(name, members) for name, members in groups if members.any()]


def _numbers(values: Sequence[str]) -> NDArray[np.float64] | None:
    """Read a column as numbers, NaN where empty; None unless all that is there is a number."""
    given = {value for value in values if value}
    known = {value: _number(value) for value in given}
    if not given or any(np.isnan(number) for number in known.values()):
        return None
    return np.array([known.get(value, np.nan) for value in values])


def _number(value: str) -> float:
    age = DICOM_AGE.fullmatch(value)
    if age:
        return int(age[1]) * YEARS[age[2]]
    try:
        number = float(value)
    except ValueError:
        return float("nan")
    return number if np.isfinite(number) else float("nan")
