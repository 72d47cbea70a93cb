"""A recipe: data, tasks and steps, read from YAML into checked types.

Rules:
- a recipe is data: a stage is a name from the table that the caller gives, never a dotted path, never code;
- everything wrong is told at once, each in one line with file and line, the fault and the mend;
- a step may name earlier steps only; the data stand before all steps and are called `data`;
- `--set steps.slim.ratio=0.3` changes one value before anything is checked; a relative path starts at the recipe's
  folder, or at the working folder when it comes from `--set`.

    name: demo
    device: generic-x86
    seed: 7
    data: {stage: phantom, patients: 200}
    tasks:
      findings: {kind: multilabel, classes: [nodule, effusion]}
    steps:
      teacher: {stage: train}
      student: {stage: distill, teacher: teacher}
"""

from __future__ import annotations

import importlib.resources
import os
import re
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

import msgspec

from ..runtime.errors import UsageError
from ..runtime.task import Task
from .data.faults import did_you_mean
from .parity.metrics import metrics_of
from .recipe_changes import apply_change
from .recipe_reader import Reader
from .search.section import SECTION, Search, read_section
from .stage import DataStage, Stage, digest_of, knobs
from .work import RecipeHead
from .yaml12 import FaultsError, Value, parse_yaml, read_yaml
from .yaml12 import Path as Keys

DATA = "data"  # the name of the first step
NAME_PATTERN = "^[A-Za-z0-9][A-Za-z0-9_-]{0,39}$"  # of recipes and steps: they become folders
FIELDS = ("name", "device", "seed", "data", "tasks", "steps", SECTION)

# Orders of two levers that make no sense -> why.
_INTEGERS = ", whose integers were chosen for the channels that pruning would take"
REASONS = dict.fromkeys([("prune", kind) for kind in ("quantize", "calibrate", "qat", "export")], _INTEGERS)
_AFTER = [(stage, kind) for stage in ("finetune", "rehearse", "qat") for kind in ("quantize", "calibrate", "export")]
REASONS |= dict.fromkeys(_AFTER, ", whose integers cannot be trained: train first, quantise then")
REASONS |= dict.fromkeys([("finetune", "qat"), ("rehearse", "qat")], ", whose learned ranges would be lost")

_NAME = re.compile(NAME_PATTERN)
_OPERATING_POINT = re.compile(r"youden|(fixed|sensitivity|specificity):(0|1|0?\.[0-9]+|1\.0+)")


class Step(msgspec.Struct, frozen=True, kw_only=True):
    """One named stage of a recipe."""

    name: str
    kind: str  # the stage's name in the table
    stage: Stage


class Recipe(RecipeHead, frozen=True, kw_only=True):
    """A whole recipe, checked."""

    data: Step
    steps: tuple[Step, ...]
    search: Search | None = None  # what `foveola search` varies; runs leave it alone, and it is no part of the digest

    @property
    def road(self) -> tuple[Step, ...]:
        """All steps in order, the data first."""
        return (self.data, *self.steps)


def read_recipe(
    path: Path, stages: Mapping[str, type[Stage]], changes: Sequence[str] = (), devices: Collection[str] | None = None
) -> Recipe:
    """Read a recipe file; see `parse_recipe`.

    Raises:
        FaultsError: everything that is wrong with it.
        UsageError: the file cannot be read.
    """
    document = read_yaml(path)
    origins = {keys: f"{path}:{line}" for keys, line in document.lines.items()}
    return _build(document.value, origins, str(path), path.absolute().parent, stages, changes, devices)


def parse_recipe(
    data: bytes,
    stages: Mapping[str, type[Stage]],
    changes: Sequence[str] = (),
    devices: Collection[str] | None = None,
    *,
    place: str = "recipe.yaml",
    folder: Path | None = None,
) -> Recipe:
    """Bytes to a checked recipe.

    Args:
        data: YAML, UTF-8.
        stages: the stages that a step may name.
        changes: `field=value` each, applied before anything is checked.
        devices: ids of the known devices; None: those of `devices.profile`.
        place: the file's name in errors.
        folder: where relative paths start; None: the working folder.

    Raises:
        FaultsError: everything that is wrong with it.
    """
    document = parse_yaml(data, place)
    origins = {keys: f"{place}:{line}" for keys, line in document.lines.items()}
    return _build(document.value, origins, place, folder or Path.cwd(), stages, changes, devices)


def find_recipe(name: str) -> Path:
    """Find the file of that path, or the shipped recipe of that name.

    Raises:
        UsageError: neither is there.
    """
    path = Path(name)
    if path.is_file():
        return path
    shipped = shipped_recipes()
    if name in shipped:
        return shipped[name]
    if path.suffix in (".yaml", ".yml") or len(path.parts) > 1:
        raise UsageError(name, "there is no such file", "`foveola recipes` lists the recipes that come with Foveola")
    raise UsageError(name, "no file and no shipped recipe has this name", did_you_mean(name, shipped))


def shipped_recipes() -> dict[str, Path]:
    """List the recipes that come with Foveola, by name."""
    folder = Path(str(importlib.resources.files("foveola.recipes")))
    return {path.stem: path for path in sorted(folder.glob("*.yaml"))}


def _build(
    value: Value,
    origins: dict[Keys, str],
    place: str,
    folder: Path,
    stages: Mapping[str, type[Stage]],
    changes: Sequence[str],
    devices: Collection[str] | None,
) -> Recipe:
    """Check everything, then build; the order of the paragraphs is the order of the faults."""
    reader = Reader(place, origins)
    if not isinstance(value, dict):
        raise FaultsError([UsageError(place, "a recipe is a mapping", f"its fields: {', '.join(FIELDS)}")])
    changed = frozenset(keys for keys in (apply_change(reader, value, change) for change in changes) if keys)

    for key in value:
        if key not in FIELDS:
            reader.fault((key,), f"no field {key!r} in a recipe", did_you_mean(key, FIELDS), shown=())
    name, device, seed = _name(reader, value), _device(reader, value, devices, folder), _seed(reader, value)
    tasks = _tasks(reader, value)

    given = _given_steps(reader, value)
    kinds = {name: str(fields.get("stage", "")) if fields else "" for name, fields in given.items()}
    known = {name: kind if kind in stages else "" for name, kind in kinds.items()}
    road = [_step(reader, name, f, known, stages, folder, changed) for name, f in given.items() if f is not None]
    search = read_section(reader, value, given, stages)
    reader.raise_faults()

    data, *steps = [step for step in road if step is not None]
    said = [(step.name, step.kind, knobs(step.stage, step.stage.PATHS)) for step in (data, *steps)]
    digest = digest_of({"name": name, "device": device, "seed": seed, "tasks": tasks, "steps": said})
    return Recipe(
        name=name,
        device=device,
        seed=seed,
        tasks=tasks,
        digest=digest,
        folder=folder,
        data=data,
        steps=tuple(steps),
        search=search,
    )


# --- the head ---


def _name(reader: Reader, top: dict[str, Value]) -> str:
    name = reader.field(top, "name", str, ())
    if name is not None and not _NAME.fullmatch(name):
        reader.fault(("name",), f"{name!r} is not made of letters, digits, _ and - (at most 40)", "it names a folder")
    return name or ""


def _seed(reader: Reader, top: dict[str, Value]) -> int:
    seed = (reader.field(top, "seed", int, ()) or 0) if "seed" in top else 0
    if seed < 0:
        reader.fault(("seed",), f"{seed} is negative", "a seed is 0 or more")
    return seed


def _device(reader: Reader, top: dict[str, Value], devices: Collection[str] | None, folder: Path) -> str:
    device = reader.field(top, "device", str, ())
    if device is None:
        return ""
    known = _profile_ids() if devices is None else devices
    if device.endswith((".yaml", ".yml")):
        return _own_device(reader, device, folder)
    if device not in known:
        reader.fault(("device",), f"no device {device!r}", did_you_mean(device, known) or "see `foveola devices`")
    return device


def _own_device(reader: Reader, device: str, folder: Path) -> str:
    """A profile of one's own: a file, whose path starts at the recipe's folder."""
    path = folder / device
    if not path.is_file():
        reader.fault(("device",), f"{path} is not there", "a relative path starts at the recipe's folder")
    return str(path)


def _profile_ids() -> Collection[str]:
    from ..devices.profile import profile_ids

    return profile_ids()


def _tasks(reader: Reader, top: dict[str, Value]) -> tuple[Task, ...]:
    given = reader.mapping(top, "tasks", "for example tasks: {findings: {kind: multilabel, classes: [nodule]}}")
    tasks: list[Task] = []
    for name, fields in given.items():
        path = ("tasks", name)
        if not isinstance(fields, dict):
            reader.fault(path, "a task is a mapping", "give at least kind and classes")
            continue
        task = reader.struct(Task, fields, path, "a task", {"name": name})
        if task is not None:
            tasks.append(task)
            _check_task(reader, task, path)
    return tuple(tasks)


def _check_task(reader: Reader, task: Task, path: Keys) -> None:
    labels = [label.split("|")[0] for label in task.classes]  # a class may list other spellings after its name
    for label in task.critical:
        if label not in labels:
            reader.fault((*path, "critical"), f"no class {label!r} in the task", did_you_mean(label, labels))
    for metric in task.margins:
        known = metrics_of(task.kind)
        if metric not in known:
            fault = f"{task.kind} has no metric {metric!r}"
            reader.fault((*path, "margins", metric), fault, did_you_mean(metric, known))
    if not _OPERATING_POINT.fullmatch(task.operating_point):
        mend = "write youden, fixed:0.5, sensitivity:0.9 or specificity:0.9"
        reader.fault((*path, "operating_point"), f"no rule {task.operating_point!r}", mend)


# --- the steps ---


def _given_steps(reader: Reader, top: dict[str, Value]) -> dict[str, dict[str, Value] | None]:
    """Every step as written, the data first; None where it is told already that there is nothing to read."""
    given: dict[str, dict[str, Value] | None] = {}
    data = top.get(DATA)
    if isinstance(data, dict):
        given[DATA] = data
    elif DATA in top:
        reader.fault((DATA,), "data is a mapping", "for example data: {stage: phantom}")
    else:
        reader.fault((), "a recipe without data", "add data: {stage: manifest, root: FOLDER}")
    for name, fields in reader.mapping(top, "steps", "for example steps: {teacher: {stage: train}}").items():
        path = ("steps", name)
        if not _NAME.fullmatch(name):
            reader.fault(path, "the name is not made of letters, digits, _ and - (at most 40)", "it names a folder")
        elif name == DATA:
            reader.fault(path, "the name 'data' belongs to the recipe's data", "choose another name")
        elif not isinstance(fields, dict):
            reader.fault(path, "a step is a mapping", "give at least its stage")
            given[name] = None
        else:
            given[name] = fields
    return given


def _step(
    reader: Reader,
    name: str,
    given: dict[str, Value],
    kinds: Mapping[str, str],
    stages: Mapping[str, type[Stage]],
    folder: Path,
    changed: frozenset[Keys],
) -> Step | None:
    path = (DATA,) if name == DATA else ("steps", name)
    fields = dict(given)
    kind = fields.pop("stage", None)
    if not isinstance(kind, str) or kind not in stages:
        fits = [key for key, stage in stages.items() if issubclass(stage, DataStage) == (name == DATA)]
        told = f"no stage {kind!r}" if "stage" in given else "no stage is named"
        reader.fault((*path, "stage"), told, did_you_mean(str(kind), fits), shown=path)
        return None
    cls = stages[kind]
    if issubclass(cls, DataStage) != (name == DATA):
        told = f"{kind} makes no data" if name == DATA else f"{kind} makes data and is no step"
        reader.fault((*path, "stage"), told, "a stage that makes data stands under `data`, any other under `steps`")
    for field in cls.PATHS:
        if isinstance(text := fields.get(field), str) and text:
            start = Path.cwd() if (*path, field) in changed else folder
            fields[field] = os.path.abspath(start / Path(text).expanduser())  # noqa: PTH100 - resolve() would follow links
    stage = reader.struct(cls, fields, path, kind, {}, outside=cls.PATHS)
    for field in cls.INPUTS:
        named = fields.get(field) if stage is None else getattr(stage, field)
        several = [named] if isinstance(named, str) else named if isinstance(named, list | tuple) else []
        for one in several:
            if isinstance(one, str) and one:
                _check_input(reader, (*path, field), one, name, kinds, cls.ACCEPTS.get(field, ()))
    return None if stage is None else Step(name=name, kind=kind, stage=stage)


def _check_input(
    reader: Reader, path: Keys, named: str, name: str, kinds: Mapping[str, str], accepts: tuple[str, ...]
) -> None:
    order = list(kinds)
    before = order[: order.index(name)]
    if named == name:
        reader.fault(path, "the step names itself", "name an earlier step")
    elif named in order and named not in before:
        reader.fault(path, f"{named!r} comes later", f"move {named} above {name}")
    elif named not in before:
        earlier = [step for step in before if step != DATA]
        reader.fault(path, f"no step {named!r}", did_you_mean(named, earlier) or "name an earlier step")
    elif accepts and kinds[named] and kinds[named] not in accepts:
        reason = REASONS.get((kinds[name], kinds[named]), "")
        reader.fault(path, f"{named!r} is a {kinds[named]} step{reason}", f"name a step of: {', '.join(accepts)}")
