"""The `search:` section of a recipe: what may vary, how long a trial is, and what confirms its finalists.

    search:
      space:
        steps.student.backbone: [mobilenetv4_conv_small, mobilenetv3_small_100]
        steps.student.width: {low: 32, high: 96, step: 16}
        steps.student.input.height, steps.student.input.width: [128, 160]   # one value for both
        steps.int8.of: [student, slim]                             # which road; the other's knobs are left alone
      short: {steps.student.epochs: 8}                                      # of a trial; finalists get the recipe's own

`foveola run` and `plan` check the section and otherwise leave it alone: a recipe with one is a recipe.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from types import NoneType, UnionType
from typing import Annotated, Literal, Union, get_args, get_origin

import msgspec
from msgspec import Meta

from ..data.faults import did_you_mean
from ..knobs import Count, Share
from ..recipe_reader import Reader
from ..stage import Stage
from ..yaml12 import Value

SECTION = "search"
Scalar = bool | int | float | str
Sampler = Literal["tpe", "nsga2", "random"]


class Range(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Numbers from `low` to `high`, both taken; whole ones where both ends are.

    Args:
        low: the least.
        high: the largest.
        step: between two of them; 0: any for fractions, 1 for whole numbers.
        log: drawn evenly on a logarithmic scale; not together with a step.
    """

    low: int | float
    high: int | float
    step: int | float = 0
    log: bool = False

    def __post_init__(self) -> None:
        if self.low >= self.high:
            raise ValueError(f"low {self.low:g} is not below high {self.high:g}")
        if self.step < 0 or (self.log and (self.step or self.low <= 0)):
            raise ValueError("a step is above 0, and a logarithmic range has none and begins above 0")

    @property
    def whole(self) -> bool:
        """Whether only whole numbers are meant."""
        return all(isinstance(one, int) for one in (self.low, self.high, self.step))

    def values(self) -> tuple[int | float, ...]:
        """All of its numbers, where they can be counted; else the two ends."""
        step = self.step or (1 if self.whole and not self.log else 0)
        if not step:
            return (self.low, self.high)
        count = int((self.high - self.low) / step + 1e-9) + 1
        return tuple(self.low + place * step for place in range(count))


Dimension = tuple[Scalar, ...] | Range


class Search(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What a search varies and how it goes on.

    Args:
        space: a field of a step (or several, separated by commas, that share one value) and what it may be.
        short: fields that a trial sets to be over sooner; a finalist is trained again without them.
        student: the step whose artefact is measured; empty: the one of which the recipe's bundle is made.
        proof: the step that confirms; empty: the recipe's only `parity` step.
        trials: how many candidates are looked at.
        finalists: how many of the front are confirmed, at most.
        sampler: who proposes: Optuna's `tpe`, `nsga2`, or `random`.
        least_slack: a finalist's least slack of the worst task on the validation images; 0 has lost its whole margin.
        tolerance: an untrained candidate that is over a budget by more than this share is not trained.
        stop: end a hopeless training early, by the slack after each of its epochs.
        warmup: share of a training's epochs in which it is never stopped.
    """

    space: dict[str, Dimension]
    short: dict[str, Scalar] = {}
    student: str = ""
    proof: str = ""
    trials: Count = 24
    finalists: Count = 2
    sampler: Sampler = "tpe"
    least_slack: Annotated[float, Meta(le=1)] = 0.0
    tolerance: Share = 0.1
    stop: bool = True
    warmup: Share = 0.34


def fields_of(key: str) -> tuple[tuple[str, ...], ...]:
    """The fields that a key of the space names, each as its parts: `steps`, name, field and so on."""
    return tuple(tuple(field.strip().split(".")) for field in key.split(","))


def read_section(
    reader: Reader,
    top: Mapping[str, Value],
    steps: Mapping[str, dict[str, Value] | None],
    stages: Mapping[str, type[Stage]],
) -> Search | None:
    """Read the section and hold it against the recipe's steps; None where there is none, or a fault was noted.

    Args:
        reader: takes the faults.
        top: the recipe.
        steps: its steps as written, the data among them.
        stages: the table.
    """
    if SECTION not in top:
        return None
    given = top[SECTION]
    if not isinstance(given, dict):
        reader.fault((SECTION,), "search is a mapping", "give at least its space")
        return None
    found = reader.struct(Search, given, (SECTION,), "search", {})
    if found is None:
        return None
    classes = {
        name: stages[str(fields["stage"])]
        for name, fields in steps.items()
        if fields and str(fields.get("stage")) in stages
    }
    before = len(reader.faults)
    if not found.space:
        reader.fault((SECTION, "space"), "nothing may vary", "for example steps.student.width: {low: 32, high: 96}")
    held = _teacher_side(steps, classes)
    for part in ("space", "short"):
        for key in getattr(found, part):
            for field in fields_of(key):
                _check_field(reader, (SECTION, part, key), field, classes, held)
    taken = {field for key in found.space for field in fields_of(key)}
    for key in found.short:
        if taken & set(fields_of(key)):
            reader.fault((SECTION, "short", key), "stands in the space too", "leave it out of one of the two")
    for key, dimension in found.space.items():
        if not isinstance(dimension, Range) and len(set(map(repr, dimension))) != max(len(dimension), 1):
            reader.fault((SECTION, "space", key), "has no value, or one twice", "list different values")
    for role in ("student", "proof"):
        named = getattr(found, role)
        if named and named not in classes:
            reader.fault((SECTION, role), f"no step {named!r}", did_you_mean(named, classes))
    return found if len(reader.faults) == before else None


def _check_field(
    reader: Reader,
    path: tuple[str, ...],
    field: tuple[str, ...],
    classes: Mapping[str, type[Stage]],
    held: frozenset[str],
) -> None:
    """One field of the space: `steps`, a step's name, and a field of its stage."""
    named = ".".join(field)
    if len(field) < 3 or field[0] != "steps":
        reader.fault(path, f"{named!r} is no field of a step", "for example steps.student.width", shown=path[:2])
        return
    if field[1] not in classes:
        known = [name for name in classes if name != "data"]
        reader.fault(path, f"no step {field[1]!r} in the recipe", did_you_mean(field[1], known), shown=path[:2])
        return
    if field[1] in held:
        mend = "vary what comes after it"
        reader.fault(path, f"{field[1]} comes before the teacher's answers, which are the measure", mend, path[:2])
        return
    known, what = ["stage", *_names(classes[field[1]])], str(classes[field[1]].__name__)
    kind: object = classes[field[1]]
    for part in field[2:]:
        known = _names(kind)
        if part not in known:
            reader.fault(path, f"no field {part!r} in {what}", did_you_mean(part, known), shown=path[:2])
            return
        kind, what = _kind_of(kind, part), part


def _names(kind: object) -> list[str]:
    if isinstance(kind, type) and issubclass(kind, msgspec.Struct):
        return [field.encode_name for field in msgspec.structs.fields(kind)]
    return []


def _kind_of(kind: object, part: str) -> object:
    """The type of a struct's field; what it holds where it may be absent."""
    assert isinstance(kind, type)
    assert issubclass(kind, msgspec.Struct)
    found: object = next(field.type for field in msgspec.structs.fields(kind) if field.encode_name == part)
    if get_origin(found) is Annotated:
        found = get_args(found)[0]
    if get_origin(found) in (Union, UnionType):
        parts = [one for one in get_args(found) if one is not NoneType]
        found = parts[0] if len(parts) == 1 else found
    return found


def _teacher_side(steps: Mapping[str, dict[str, Value] | None], classes: Mapping[str, type[Stage]]) -> frozenset[str]:
    """The steps on which the measure rests: the data, the protocol, the teacher of the proof and all before it."""
    seeds = {"data"}
    for name, cls in classes.items():
        fields = steps[name] or {}
        if cls.INPUTS and "against" in cls.INPUTS:
            seeds |= set(_named(fields, ("against", "protocol")))
    return frozenset(closure(seeds, {name: _named(steps[name] or {}, cls.INPUTS) for name, cls in classes.items()}))


def _named(fields: Mapping[str, Value], inputs: Sequence[str]) -> tuple[str, ...]:
    return tuple(_texts(fields.get(field) for field in inputs))


def _texts(values: Iterator[Value]) -> Iterator[str]:
    for value in values:
        if isinstance(value, str) and value:
            yield value
        elif isinstance(value, list):
            yield from (one for one in value if isinstance(one, str))


def closure(seeds: set[str], reads: Mapping[str, Sequence[str]]) -> set[str]:
    """Some steps and all that they rest on.

    Args:
        seeds: names of steps.
        reads: for each step the steps that it reads.
    """
    found, open_ = set(), list(seeds)
    while open_:
        name = open_.pop()
        if name not in found:
            found.add(name)
            open_ += reads.get(name, ())
    return found
