"""Values from the space: what Optuna proposes, and only for steps that the candidate needs.

A dimension that names an input of a step (`steps.int8.of`) chooses the road and is drawn first; knobs of steps that
are then not on the road are not drawn at all, so that two candidates that differ in them alone are one.
"""

from __future__ import annotations

from collections.abc import Mapping

import msgspec
import optuna

from ..recipe import Recipe
from .draft import Draft
from .section import Dimension, Range, Scalar, fields_of


def sample(trial: optuna.trial.Trial, draft: Draft) -> dict[str, Scalar]:
    """Draw one candidate; values by key of the space."""
    values: dict[str, Scalar] = {}
    for key in _roads_first(draft):
        if _steps(key) & draft.steps_of(values):
            values[key] = _draw(trial, key, draft.search.space[key])
    return values


def _roads_first(draft: Draft) -> list[str]:
    """Keys of the space, those that choose the road before the others."""
    inputs = {f"steps.{step.name}.{field}" for step in draft.recipe.steps for field in step.stage.INPUTS}
    return sorted(draft.search.space, key=lambda key: not inputs & {".".join(field) for field in fields_of(key)})


def _steps(key: str) -> set[str]:
    return {field[1] for field in fields_of(key)}


def _draw(trial: optuna.trial.Trial, key: str, dimension: Dimension) -> Scalar:
    if not isinstance(dimension, Range):
        value = trial.suggest_categorical(key, dimension)
        assert isinstance(value, bool | int | float | str)
        return value
    low, high, step = dimension.low, dimension.high, dimension.step
    if dimension.whole:
        return trial.suggest_int(key, int(low), int(high), step=int(step) or 1, log=dimension.log)
    return round(trial.suggest_float(key, float(low), float(high), step=float(step) or None, log=dimension.log), 12)


def own_values(draft: Draft) -> dict[str, Scalar] | None:
    """The recipe as it was written, as a point of the space; None where it lies outside."""
    values: dict[str, Scalar] = {}
    for key in _roads_first(draft):
        if not _steps(key) & draft.steps_of(values):
            continue
        found = {repr(_value(draft.recipe, field)): _value(draft.recipe, field) for field in fields_of(key)}
        value = next(iter(found.values()))
        if len(found) > 1 or not isinstance(value, bool | int | float | str):
            return None
        if not _inside(value, draft.search.space[key]):
            return None
        values[key] = value
    return values


def _inside(value: Scalar, dimension: Dimension) -> bool:
    if not isinstance(dimension, Range):
        return any(value == one and type(value) is type(one) for one in dimension)
    if isinstance(value, bool | str) or not dimension.low <= value <= dimension.high:
        return False
    steps = (value - dimension.low) / dimension.step if dimension.step else 0.0
    return abs(steps - round(steps)) < 1e-6 and (not dimension.whole or isinstance(value, int))


def _value(recipe: Recipe, field: tuple[str, ...]) -> object:
    """A field of a step as the recipe has it, its default where nothing is written."""
    found: object = next(step.stage for step in recipe.steps if step.name == field[1])
    for part in field[2:]:
        if not isinstance(found, msgspec.Struct):
            return None
        known = {one.encode_name: one.name for one in msgspec.structs.fields(found)}
        found = getattr(found, known[part])
    return found


def named(values: Mapping[str, Scalar]) -> str:
    """A candidate in words: `student.backbone mobileone_s0, student.width 64`."""
    return ", ".join(f"{short_name(key)} {value}" for key, value in values.items())


def short_name(key: str) -> str:
    """A key of the space as tables show it: the first of its fields, without `steps.`."""
    return key.split(",")[0].strip().removeprefix("steps.")
