"""What a run would do and why: each step is reused, or runs for one reason from a closed set.

- A step's identity is its stage, version, knobs and seed, the identities of its inputs and of the data, the parts of
  the recipe that its stage uses, and the content of outside files. Names and paths are no part of it.
- A finished step is a folder `<step>-<12 digits of the identity>` with `step.json` inside, made by one rename.
- A folder whose files are not those that its `step.json` lists is damaged and made anew: somebody copied half of it.
- The reason compares with the nearest finished step of the same name, so that it says what is different this time.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Literal

import msgspec

from ..runtime.errors import FoveolaError
from .recipe import DATA, Recipe, Step
from .stage import Use, as_json, digest_of, knobs

RECORD = "step.json"
PARTIAL = ".partial"
SHORT = 12  # hex digits of the identity in a folder's name

Why = Literal["reused", "first run", "changed", "follows", "interrupted", "damaged"]


class Identity(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """All that decides a step's result."""

    stage: str
    version: int
    knobs: dict[str, object]
    seed: int
    uses: dict[str, object]
    outside: str
    inputs: dict[str, str]  # field -> identity digest of the step it names; "data" -> that of the data

    @property
    def digest(self) -> str:
        """Sha256 of the canonical JSON."""
        return digest_of(self)


class Record(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """`step.json` of a finished step."""

    format: int = 1
    step: str
    digest: str
    identity: Identity
    files: dict[str, int]  # relative path -> bytes


class PlannedStep(msgspec.Struct, frozen=True, kw_only=True):
    """One step and what will become of it."""

    step: Step
    identity: Identity
    digest: str
    folder: Path  # where the finished step is or will be
    why: Why
    detail: str = ""

    @property
    def reason(self) -> str:
        """The reason in words: `reused`, `changed: ratio 0.3 -> 0.4`, `follows slim`."""
        if not self.detail:
            return self.why
        return f"follows {self.detail}" if self.why == "follows" else f"{self.why}: {self.detail}"


def run_folder(runs: Path, recipe: Recipe) -> Path:
    """Where the recipe's steps live."""
    return runs / recipe.name


def make_plan(recipe: Recipe, runs: Path) -> tuple[PlannedStep, ...]:
    """Every step with its reason; reads only.

    Raises:
        FoveolaError: an outside file is not there or cannot be read.
    """
    folder = run_folder(runs, recipe)
    planned: dict[str, PlannedStep] = {}
    for step in recipe.road:
        identity = _identity(recipe, step, {name: done.digest for name, done in planned.items()})
        digest = identity.digest
        target = folder / f"{step.name}-{digest[:SHORT]}"
        why, detail = _reason(step, identity, target, planned)
        planned[step.name] = PlannedStep(
            step=step, identity=identity, digest=digest, folder=target, why=why, detail=detail
        )
    return tuple(planned.values())


def input_names(step: Step) -> dict[str, str]:
    """List the steps that a step reads, by field; `data` stands for the data, which every other step reads.

    A field that lists several steps has one entry for each: `of.0`, `of.1` and so on.
    """
    named: dict[str, str] = {}
    for field in step.stage.INPUTS:
        value = getattr(step.stage, field)
        if isinstance(value, tuple):
            named |= {f"{field}.{number}": str(name) for number, name in enumerate(value)}
        elif value:
            named[field] = str(value)
    return named if step.name == DATA else {**named, DATA: DATA}


def partial_folder(finished: Path) -> Path:
    """Where a step works until it is finished."""
    return finished.with_name(finished.name + PARTIAL)


def list_files(folder: Path) -> dict[str, int]:
    """Size in bytes of every file below a step's folder, but for its record."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    sizes = {path.relative_to(folder).as_posix(): path.stat().st_size for path in files}
    sizes.pop(RECORD, None)
    return sizes


def read_record(folder: Path) -> Record | None:
    """Read the record of a finished step; None where there is none that can be read."""
    try:
        return msgspec.json.decode((folder / RECORD).read_bytes(), type=Record)
    except (OSError, msgspec.DecodeError, UnicodeDecodeError):
        return None


def in_step(name: str, error: FoveolaError) -> FoveolaError:
    """Put the step's name before the place of a refusal."""
    if type(error).__init__ is not FoveolaError.__init__:  # tells of several places itself
        return error
    step = name if name == DATA else f"steps.{name}"
    return type(error)(f"{step}: {error.place}", error.fault, error.mend)


def _identity(recipe: Recipe, step: Step, digests: Mapping[str, str]) -> Identity:
    stage = step.stage
    try:
        outside = stage.files(recipe.folder)
    except FoveolaError as error:
        raise in_step(step.name, error) from None
    return Identity(
        stage=step.kind,
        version=stage.VERSION,
        knobs=knobs(stage, (*stage.INPUTS, *stage.PATHS)),
        seed=recipe.seed,
        uses=_used(recipe, stage.USES),
        outside=outside,
        inputs={field: digests[name] for field, name in input_names(step).items()},
    )


def _used(recipe: Recipe, uses: frozenset[Use]) -> dict[str, object]:
    """Pick the parts of the recipe in `uses`; what only the proof reads is apart: a new margin trains nothing anew."""
    used: dict[str, object] = {}
    plain = {task.name: knobs(task, ("name",)) for task in recipe.tasks}
    proof = ("margins", "critical")
    if "tasks" in uses:
        used["order"] = [task.name for task in recipe.tasks]
        used["tasks"] = {name: {key: task[key] for key in task if key not in proof} for name, task in plain.items()}
    if "margins" in uses:
        used["margins"] = {name: {key: task[key] for key in task if key in proof} for name, task in plain.items()}
    if "device" in uses:
        from ..devices.profile import WORDS, load_profile

        profile = as_json(load_profile(recipe.device))
        used["device"] = {field: value for field, value in profile.items() if field not in WORDS}
    return used


def _reason(step: Step, identity: Identity, target: Path, planned: Mapping[str, PlannedStep]) -> tuple[Why, str]:
    if target.is_dir():
        fault = _damage(target, identity)
        return ("damaged", fault) if fault else ("reused", "")
    if partial_folder(target).is_dir():
        return "interrupted", ""
    differences = _nearest(step.name, identity, target.parent)
    if differences is None:
        return "first run", ""
    own = [difference for difference in differences if not difference.startswith("inputs.")]
    if own:
        more = f" (and {len(own) - 1} more)" if len(own) > 1 else ""
        return "changed", own[0] + more
    fields = {difference.split()[0].removeprefix("inputs.") for difference in differences}
    names = {name for field, name in input_names(step).items() if field in fields}
    followed = [name for name in planned if name in names]
    return "follows", followed[0] if followed else "another input"


def _damage(folder: Path, identity: Identity) -> str:
    """Tell what is wrong with a finished folder; empty when nothing is."""
    record = read_record(folder)
    if record is None:
        return f"no readable {RECORD}"
    if record.identity.digest != identity.digest:
        return f"{RECORD} is of another step"
    found = list_files(folder)
    wrong = sorted(name for name, size in record.files.items() if found.get(name) != size)
    return f"{wrong[0]} is not as it was written" if wrong else ""


def _nearest(name: str, identity: Identity, folder: Path) -> list[str] | None:
    """Differences to the finished step of that name that has fewest of them, the newest of equals."""
    best: tuple[int, float, str, list[str]] | None = None
    for other in folder.glob(f"{name}-*") if folder.is_dir() else ():
        record = read_record(other)
        if record is None or record.step != name or other.name.endswith(PARTIAL):
            continue
        differences = _differences(record.identity, identity)
        found = (len(differences), -(other / RECORD).stat().st_mtime, other.name, differences)
        best = found if best is None or found[:3] < best[:3] else best
    return None if best is None else best[3]


def _differences(old: Identity, new: Identity) -> list[str]:
    """`field old -> new` for whatever differs, in the order of `Identity`; the inputs come last."""
    before, after = _flat(as_json(old)), _flat(as_json(new))
    fields = [*after, *(field for field in before if field not in after)]
    changed = [field for field in fields if before.get(field) != after.get(field)]
    changed.sort(key=lambda field: field.startswith("inputs."))
    return [f"{_called(field)} {_short(before.get(field))} -> {_short(after.get(field))}" for field in changed]


def _flat(value: object, path: str = "") -> dict[str, object]:
    if isinstance(value, dict) and value:
        parts = [_flat(inner, f"{path}.{key}" if path else str(key)) for key, inner in value.items()]
        return {key: inner for part in parts for key, inner in part.items()}
    return {path: value}


def _called(field: str) -> str:
    for prefix in ("knobs.", "uses."):
        if field.startswith(prefix):
            return field.removeprefix(prefix)
    return "files" if field == "outside" else field


def _short(value: object) -> str:
    if isinstance(value, str) and len(value) == 64:  # a digest
        return value[:8]
    text = value if isinstance(value, str) and value else msgspec.json.encode(value).decode()
    return text if len(text) <= 40 else f"{text[:37]}..."
