"""One candidate of a search as a recipe: the recipe's own text with a few values changed, and the steps that it needs.

- A trial's recipe ends with the student's artefact; a whole recipe goes on to bundle, proof and signature.
- Both are files that `foveola run` takes as they are; a relative path in the recipe is written out, since the files
  stand elsewhere.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from pathlib import Path

import msgspec
import yaml

from ...runtime.errors import UsageError
from ..plan import input_names
from ..recipe import Recipe, Step, parse_recipe, read_recipe
from ..recipe_changes import apply_change
from ..recipe_reader import Reader
from ..stages.table import STAGES
from ..work import write_atomic
from ..yaml12 import Value, parse_scalar, read_yaml
from .section import SECTION, Scalar, Search, closure, fields_of

Values = Mapping[str, Scalar]  # by key of the space


class Roles(msgspec.Struct, frozen=True, kw_only=True):
    """Which step of the recipe does what in a search, by name."""

    student: str  # leaves the artefact that is measured
    bundle: str
    proof: str
    teacher: str
    protocol: str


class Draft(msgspec.Struct, frozen=True, kw_only=True, eq=False):
    """The recipe that a search varies, as read and as text."""

    recipe: Recipe
    document: dict[str, Value]  # with its changes, its device and its paths written out; without the section
    search: Search
    roles: Roles

    def steps_of(self, values: Values) -> set[str]:
        """Names of the steps that a candidate's artefact rests on, whatever else the recipe has."""
        return _needed(self.varied(values), {self.roles.student})

    def varied(self, values: Values) -> dict[str, Value]:
        """The document with some values of the space."""
        changed = copy.deepcopy(self.document)
        for key, value in values.items():
            for field in fields_of(key):
                _put(changed, field, value)
        return changed

    def trial(self, values: Values) -> dict[str, Value]:
        """A trial's recipe: short, and no longer than to its artefact."""
        return _only(self.varied({**self.search.short, **values}), {self.roles.student})

    def whole(self, values: Values, *, alpha: float | None = None) -> dict[str, Value]:
        """A candidate's recipe at full length with all that comes after the student; `alpha` of its protocol."""
        changed = self.varied(values)
        if alpha is not None:
            _put(changed, ("steps", self.roles.protocol, "alpha"), alpha)
        return _only(changed, _after(changed, self.roles.student))

    @property
    def shared(self) -> Recipe:
        """What every trial begins with: data, protocol and teacher."""
        roles = self.roles
        return self.read(_only(copy.deepcopy(self.document), {roles.protocol, roles.teacher}))

    def read(self, document: dict[str, Value], path: Path | None = None, comment: str = "") -> Recipe:
        """A document checked like any recipe; written to a file where there is a path."""
        data = dump_yaml(document, comment)
        if path is None:
            return parse_recipe(data, STAGES, place=f"{self.recipe.name}.yaml", folder=self.recipe.folder)
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(path, data)
        return read_recipe(path, STAGES)


def read_draft(path: Path, changes: tuple[str, ...] = (), device: str = "") -> Draft:
    """Read a recipe that has a `search:` section.

    Args:
        path: the recipe's file.
        changes: `field=value` each, applied before anything is checked.
        device: id of a profile; empty: the recipe's.

    Raises:
        FaultsError: the recipe is wrong.
        UsageError: it has no section, or no bundle and proof.
    """
    if device:
        changes = (*changes, f"device={device}")
    recipe = read_recipe(path, STAGES, changes)
    if recipe.search is None:
        raise UsageError(str(path), "has no `search:` section", "see `foveola recipes show demo-search`")
    document = read_yaml(path).value
    assert isinstance(document, dict)
    reader = Reader(str(path), {})
    for change in changes:
        apply_change(reader, document, change)
    document.pop(SECTION)
    document["device"] = recipe.device  # a file's path written out
    for step in recipe.road:
        for field in step.stage.PATHS:
            if getattr(step.stage, field):
                place = ("data",) if step is recipe.data else ("steps", step.name)
                _put(document, (*place, field), getattr(step.stage, field))
    return Draft(recipe=recipe, document=document, search=recipe.search, roles=_roles(recipe, recipe.search, path))


def _roles(recipe: Recipe, search: Search, path: Path) -> Roles:
    steps = {step.name: step for step in recipe.steps}
    proofs = [step.name for step in recipe.steps if step.kind == "parity"]
    if not search.proof and len(proofs) != 1:
        fault = f"has {len(proofs)} steps that could confirm"
        raise UsageError(str(path), fault, "name one parity step: search: {proof: NAME}")
    proof = steps[search.proof or proofs[0]]
    if proof.kind != "parity":
        raise UsageError(
            str(path), f"{proof.name} is a {proof.kind} step", "name a parity step in search: {proof: NAME}"
        )
    named = input_names(proof)
    if "protocol" not in named:
        fault = f"{proof.name} has no protocol, so that its error cannot be shared among finalists"
        raise UsageError(str(path), fault, "add a step {stage: protocol}, and name it")
    if getattr(steps[named["protocol"]].stage, "file", ""):
        fault = f"the protocol of {named['protocol']} is a locked file, whose error cannot be shared among finalists"
        raise UsageError(str(path), fault, "leave `file` out, and give the step alpha, subgroups and resamples")
    student = search.student
    if not student:
        student = input_names(steps[named["bundle"]])["of"]
        while steps[student].kind == "calibrate":  # it changes probabilities, not their order, and takes time
            student = input_names(steps[student])["of"]
    return Roles(
        student=student, bundle=named["bundle"], proof=proof.name, teacher=named["against"], protocol=named["protocol"]
    )


def _put(document: dict[str, Value], field: tuple[str, ...], value: Scalar) -> None:
    """Set one field, given by its parts."""
    node: Value = document
    for part in field[:-1]:
        assert isinstance(node, dict)
        node = node.setdefault(part, {})
    assert isinstance(node, dict)
    node[field[-1]] = value


def _reads(document: dict[str, Value]) -> dict[str, list[str]]:
    """For each step of a document the steps that it reads."""
    steps, found = document["steps"], {}
    assert isinstance(steps, dict)
    for name, fields in steps.items():
        assert isinstance(fields, dict)
        inputs = STAGES[str(fields["stage"])].INPUTS
        named = [fields.get(field) for field in inputs]
        flat = [one for value in named for one in (value if isinstance(value, list) else [value])]
        found[name] = [str(one) for one in flat if one]
    return found


def _needed(document: dict[str, Value], seeds: set[str]) -> set[str]:
    return closure(seeds, _reads(document))


def _after(document: dict[str, Value], student: str) -> set[str]:
    """The student's step and all that rest on it."""
    reads, found = _reads(document), {student}
    for name in reads:  # a step reads earlier ones only
        if found & set(reads[name]):
            found.add(name)
    return found


def _only(document: dict[str, Value], seeds: set[str]) -> dict[str, Value]:
    """Leave out the steps that these do not need."""
    needed, steps = _needed(document, seeds), document["steps"]
    assert isinstance(steps, dict)
    return {**document, "steps": {name: fields for name, fields in steps.items() if name in needed}}


def made_by(recipe: Recipe, student: str) -> Step | None:
    """The step that makes the network of an artefact: the first one back whose stage names a backbone."""
    steps = {step.name: step for step in recipe.steps}
    name = student
    while name:
        step = steps[name]
        if getattr(step.stage, "backbone", "") and getattr(step.stage, "input", None) is not None:
            return step
        name = getattr(step.stage, "of", "")
        name = name if isinstance(name, str) else ""
    return None


class _Dumper(yaml.SafeDumper):
    """YAML 1.1's writer, with quotes wherever `yaml12` would read something else than a text."""

    def ignore_aliases(self, data: object) -> bool:
        """Write everything out."""
        return True


def _text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    try:
        plain = parse_scalar(text) == text
    except ValueError:
        plain = False
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=None if plain else '"')


_Dumper.add_representer(str, _text)


def dump_yaml(document: dict[str, Value], comment: str = "") -> bytes:
    """A document as YAML that `yaml12` reads back, after a comment."""
    head = "".join(f"# {line}\n" for line in comment.splitlines())
    body: str = yaml.dump(document, Dumper=_Dumper, sort_keys=False, default_flow_style=None, width=120)
    return (head + body).encode()
