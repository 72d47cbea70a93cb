"""Laws of reading a recipe: strict YAML, every fault at once with its line, nothing outside the table of stages."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, ClassVar

import msgspec
import pytest
import yaml

from foveola.devices.profile import FOLDER, load_profile
from foveola.runtime.errors import UsageError
from foveola.toolkit.recipe import Recipe, find_recipe, parse_recipe, read_recipe, shipped_recipes
from foveola.toolkit.recipe_schema import recipe_schema
from foveola.toolkit.stage import DataStage, Stage
from foveola.toolkit.stages.table import STAGES as SHIPPED_STAGES
from foveola.toolkit.yaml12 import FaultsError, parse_yaml

DEVICES = ("generic-x86", "intel-n100")


class Size(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    height: int = 8
    width: int = 8


class Folder(DataStage, frozen=True, kw_only=True):
    PATHS = ("root",)
    root: str


class Phantom(DataStage, frozen=True, kw_only=True):
    patients: int = 10


class Train(Stage, frozen=True, kw_only=True):
    epochs: Annotated[int, msgspec.Meta(ge=1)] = 3
    rate: float = 1e-3
    size: Size = Size()
    widths: tuple[int, ...] = ()


class Prune(Stage, frozen=True, kw_only=True):
    INPUTS = ("of",)
    ACCEPTS: ClassVar[Mapping[str, tuple[str, ...]]] = {"of": ("train", "prune")}
    of: str
    ratio: Annotated[float, msgspec.Meta(gt=0, lt=1)] = 0.5


class Prove(Stage, frozen=True, kw_only=True):
    INPUTS = ("bundle", "against")
    bundle: str
    against: str = ""


STAGES: dict[str, type[Stage]] = {"folder": Folder, "phantom": Phantom, "train": Train, "prune": Prune, "prove": Prove}

VALID = """\
name: tiny
device: generic-x86
seed: 7
data: {stage: phantom, patients: 4}
tasks:
  lung: {kind: binary, classes: [no, yes], margins: {auc: 0.05}}
  view: {kind: multiclass, classes: [PA, AP]}
steps:
  teacher: {stage: train, epochs: 2}
  slim:
    stage: prune
    of: teacher
    ratio: 0.3
  proof: {stage: prove, bundle: slim, against: teacher}
"""


def parse(text: str, *changes: str, folder: Path | None = None) -> Recipe:
    return parse_recipe(text.encode(), STAGES, changes, DEVICES, folder=folder)


def faults(text: str, *changes: str) -> list[str]:
    with pytest.raises(FaultsError) as caught:
        parse(text, *changes)
    return str(caught.value).splitlines()


# --- a valid recipe ---


def test_a_valid_recipe_becomes_typed_steps_in_order() -> None:
    recipe = parse(VALID)

    assert (recipe.name, recipe.device, recipe.seed) == ("tiny", "generic-x86", 7)
    assert [task.name for task in recipe.tasks] == ["lung", "view"]
    assert recipe.tasks[0].classes == ("no", "yes")
    assert [(step.name, step.kind) for step in recipe.road] == [
        ("data", "phantom"),
        ("teacher", "train"),
        ("slim", "prune"),
        ("proof", "prove"),
    ]
    assert recipe.steps[1].stage == Prune(of="teacher", ratio=0.3)


def test_the_digest_of_a_recipe_is_of_what_it_says_and_not_of_how() -> None:
    spaced = VALID.replace("{stage: train, epochs: 2}", "\n    epochs: 2 # quick\n    stage: 'train'")

    assert parse(spaced).digest == parse(VALID).digest
    assert parse(VALID, "steps.teacher.epochs=3").digest != parse(VALID).digest
    assert parse(VALID, "tasks.lung.margins.auc=0.1").digest != parse(VALID).digest


def test_the_digest_of_a_recipe_does_not_depend_on_where_its_data_are(tmp_path: Path) -> None:
    text = VALID.replace("stage: phantom, patients: 4", "stage: folder, root: a")

    assert parse(text).digest == parse(text, "data.root=/elsewhere").digest


def test_a_path_starts_at_the_recipe_and_one_from_the_command_line_at_the_working_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    text = VALID.replace("stage: phantom, patients: 4", "stage: folder, root: images")

    written, told = parse(text, folder=Path("/recipes")), parse(text, "data.root=mine/x", folder=Path("/recipes"))

    assert written.data.stage == Folder(root="/recipes/images")
    assert told.data.stage == Folder(root=str(tmp_path / "mine/x"))


# --- everything wrong, at once and with its line ---


def replaced(old: str, new: str) -> str:
    assert VALID.count(old) == 1, old
    return VALID.replace(old, new)


BAD = {
    "unknown field of a recipe": (
        VALID + "stepz: 1\n",
        "recipe.yaml:15: no field 'stepz' in a recipe; did you mean 'steps'?",
    ),
    "no data": (
        replaced("data: {stage: phantom, patients: 4}\n", ""),
        "recipe.yaml: a recipe without data; add data: {stage: manifest, root: FOLDER}",
    ),
    "unknown knob": (
        replaced("    ratio: 0.3", "    ration: 0.3"),
        "recipe.yaml:13: steps.slim: no field 'ration' in prune; did you mean 'ratio'?",
    ),
    "unknown stage": (
        replaced("stage: prune", "stage: prun"),
        "recipe.yaml:11: steps.slim: no stage 'prun'; did you mean 'prune'?",
    ),
    "dotted path as stage": (
        replaced("stage: prune", "stage: os.system"),
        "recipe.yaml:11: steps.slim: no stage 'os.system'; known: train, prune, prove",
    ),
    "no stage": (
        replaced("    stage: prune\n", ""),
        "recipe.yaml:10: steps.slim: no stage is named; known: train, prune, prove",
    ),
    "a later step": (
        replaced("of: teacher", "of: proof"),
        "recipe.yaml:12: steps.slim.of: 'proof' comes later; move proof above slim",
    ),
    "a missing step": (
        replaced("of: teacher", "of: teecher"),
        "recipe.yaml:12: steps.slim.of: no step 'teecher'; did you mean 'teacher'?",
    ),
    "itself": (
        replaced("of: teacher", "of: slim"),
        "recipe.yaml:12: steps.slim.of: the step names itself; name an earlier step",
    ),
    "a step of the wrong stage": (
        VALID + "  more: {stage: prune, of: proof}\n",
        "recipe.yaml:15: steps.more.of: 'proof' is a prove step; name a step of: train, prune",
    ),
    "an input left out": (
        replaced("    of: teacher\n", ""),
        "recipe.yaml:10: steps.slim: field 'of' of prune is missing",
    ),
    "text for a number": (
        replaced("ratio: 0.3", "ratio: much"),
        'recipe.yaml:13: steps.slim.ratio: "much": expected `float`, got `str`',
    ),
    "number out of range": (
        replaced("ratio: 0.3", "ratio: 3"),
        "recipe.yaml:13: steps.slim.ratio: 3: expected `float` < 1.0",
    ),
    "fault inside a nested knob": (
        replaced("epochs: 2", "size: {hight: 3}"),
        "recipe.yaml:9: steps.teacher.size: no field 'hight' in Size; did you mean 'height'?",
    ),
    "fault inside a list": (
        replaced("epochs: 2", "widths: [1, two]"),
        'recipe.yaml:9: steps.teacher.widths.1: "two": expected `int`, got `str`',
    ),
    "task name": (
        replaced("  view:", "  1st-view:"),
        "recipe.yaml:7: tasks.1st-view: the name is not made of letters, digits and underscores",
    ),
    "task kind": (
        replaced("kind: multiclass", "kind: multi-class"),
        "recipe.yaml:7: tasks.view.kind: no kind 'multi-class'; did you mean 'multiclass'?",
    ),
    "task field": (
        replaced("kind: multiclass,", "kind: multiclass, wieght: 2,"),
        "recipe.yaml:7: tasks.view: no field 'wieght' in a task; did you mean 'weight'?",
    ),
    "task of one class": (
        replaced("classes: [PA, AP]", "classes: [PA]"),
        "recipe.yaml:7: tasks.view: multiclass needs at least 2 classes, has 1",
    ),
    "a number as class": (
        replaced("classes: [PA, AP]", "classes: [PA, 1]"),
        "recipe.yaml:7: tasks.view.classes.1: 1: expected `str`, got `int`; put it in quotes",
    ),
    "margin of no metric": (
        replaced("margins: {auc: 0.05}", "margins: {aucc: 0.05}"),
        "recipe.yaml:6: tasks.lung.margins.aucc: binary has no metric 'aucc'; did you mean 'auc'?",
    ),
    "margin that is none": (
        replaced("margins: {auc: 0.05}", "margins: {auc: 0}"),
        "recipe.yaml:6: tasks.lung: margin of auc is 0.0; a margin is a positive number",
    ),
    "critical class": (
        replaced("classes: [PA, AP]", "classes: [PA, AP], critical: [PPA]"),
        "recipe.yaml:7: tasks.view.critical: no class 'PPA' in the task; did you mean 'PA'?",
    ),
    "operating point": (
        replaced("classes: [PA, AP]", "classes: [PA, AP], operating_point: best"),
        "recipe.yaml:7: tasks.view.operating_point: no rule 'best'; "
        "write youden, fixed:0.5, sensitivity:0.9 or specificity:0.9",
    ),
    "device": (
        replaced("generic-x86", "generic-x68"),
        "recipe.yaml:2: device: no device 'generic-x68'; did you mean 'generic-x86'?",
    ),
    "name that is no folder": (
        replaced("name: tiny", "name: ../tiny"),
        "recipe.yaml:1: name: '../tiny' is not made of letters, digits, _ and - (at most 40); it names a folder",
    ),
    "step name that is no folder": (
        replaced("  slim:", "  sl/im:"),
        "recipe.yaml:10: steps.sl/im: the name is not made of letters, digits, _ and - (at most 40); it names a folder",
    ),
    "a step called data": (
        replaced("  proof:", "  data:"),
        "recipe.yaml:14: steps.data: the name 'data' belongs to the recipe's data; choose another name",
    ),
    "negative seed": (replaced("seed: 7", "seed: -7"), "recipe.yaml:3: seed: -7 is negative; a seed is 0 or more"),
    "training as data": (
        replaced("{stage: phantom, patients: 4}", "{stage: train}"),
        "recipe.yaml:4: data.stage: train makes no data; "
        "a stage that makes data stands under `data`, any other under `steps`",
    ),
    "data as a step": (
        replaced("{stage: train, epochs: 2}", "{stage: phantom}"),
        "recipe.yaml:9: steps.teacher.stage: phantom makes data and is no step; "
        "a stage that makes data stands under `data`, any other under `steps`",
    ),
    "a path left out": (
        replaced("{stage: phantom, patients: 4}", "{stage: folder}"),
        "recipe.yaml:4: data: field 'root' of folder is missing; give it by --set data.root=PATH",
    ),
    "a step that is no mapping": (
        replaced("{stage: train, epochs: 2}", "train"),
        "recipe.yaml:9: steps.teacher: a step is a mapping; give at least its stage",
    ),
    "an empty file": (
        "",
        "recipe.yaml: a recipe is a mapping; its fields: name, device, seed, data, tasks, steps, search",
    ),
}


@pytest.mark.parametrize(("text", "line"), BAD.values(), ids=BAD.keys())
def test_a_fault_is_told_in_one_line_with_place_fault_and_mend(text: str, line: str) -> None:
    assert line in faults(text)


def test_a_fault_of_a_step_is_not_told_again_of_those_that_follow() -> None:
    assert len(faults(replaced("stage: prune", "stage: prun"))) == 1
    assert len(faults(replaced("{stage: train, epochs: 2}", "train"))) == 1


def test_all_faults_are_told_at_once() -> None:
    text = replaced("device: generic-x86", "device: toaster").replace("epochs: 2", "epochs: 0, wdith: 3")

    told = faults(text.replace("    ratio: 0.3", "    ration: 0.3"), "steps.proof.bundle=slimm")

    assert [line.split(" ")[0] for line in told] == [
        "recipe.yaml:2:",
        "recipe.yaml:9:",
        "recipe.yaml:9:",
        "recipe.yaml:13:",
        "--set",
    ]


def test_a_refused_recipe_is_a_usage_error_of_exit_code_two() -> None:
    with pytest.raises(UsageError) as caught:
        parse("")

    assert caught.value.exit_code == 2


# --- changes from the command line ---


def test_a_change_is_made_before_anything_is_checked() -> None:
    recipe = parse(
        VALID, "steps.slim.ratio=0.25", "tasks.lung.margins.sensitivity=0.1", "steps.teacher.widths=[8, 16]", "seed=1"
    )

    assert recipe.steps[1].stage == Prune(of="teacher", ratio=0.25)
    assert recipe.tasks[0].margins == {"auc": 0.05, "sensitivity": 0.1}
    assert recipe.steps[0].stage == Train(epochs=2, widths=(8, 16))
    assert recipe.seed == 1


BAD_CHANGES = {
    "no equals sign": ("steps.slim.ratio", "--set steps.slim.ratio: not of the form FIELD=VALUE"),
    "no such step": (
        "steps.slem.ratio=1",
        "--set steps.slem.ratio: no step 'slem' in the recipe; did you mean 'slim'?",
    ),
    "no such task": (
        "tasks.long.weight=1",
        "--set tasks.long.weight: no task 'long' in the recipe; did you mean 'lung'?",
    ),
    "no such knob": ("steps.slim.ration=1", "--set steps.slim.ration: steps.slim: no field 'ration' in prune"),
    "below a value": ("seed.low=1", "--set seed.low: seed has no fields"),
    "bad value": ("steps.slim.ratio=lots", '--set steps.slim.ratio: "lots": expected `float`, got `str`'),
    "not finite": ("steps.slim.ratio=.inf", "--set steps.slim.ratio: the number .inf is not finite"),
    "broken list": ("steps.teacher.widths=[1,", "--set steps.teacher.widths:1: not YAML"),
}


@pytest.mark.parametrize(("change", "line"), BAD_CHANGES.values(), ids=BAD_CHANGES.keys())
def test_a_bad_change_is_told_by_its_own_name(change: str, line: str) -> None:
    assert any(told.startswith(line) for told in faults(VALID, change)), faults(VALID, change)


# --- files and shipped recipes ---


def test_a_valid_recipe_says_the_same_to_another_yaml_reader() -> None:
    plain = VALID.replace("[no, yes]", "['no', 'yes']")  # where YAML 1.1 differs

    assert parse_yaml(VALID.encode(), "x").value == yaml.safe_load(plain)


def test_a_recipe_file_is_named_in_its_faults(tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text(VALID.replace("ratio", "ration"))

    with pytest.raises(FaultsError) as caught:
        read_recipe(file, STAGES, (), DEVICES)

    assert str(caught.value).startswith(f"{file}:13: steps.slim: no field 'ration'")


def test_a_recipe_is_found_by_path_or_by_the_name_of_a_shipped_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shipped = tmp_path / "demo.yaml"
    shipped.write_text(VALID)
    monkeypatch.setattr("foveola.toolkit.recipe.shipped_recipes", lambda: {"demo": shipped})

    assert find_recipe("demo") == shipped
    assert find_recipe(str(shipped)) == shipped
    with pytest.raises(UsageError, match=r"^demi: no file and no shipped recipe .* did you mean 'demo'\?$"):
        find_recipe("demi")
    with pytest.raises(UsageError, match=r"^demi\.yaml: there is no such file"):
        find_recipe("demi.yaml")


def test_shipped_recipes_are_named_after_their_files() -> None:
    assert all(path.name == f"{name}.yaml" for name, path in shipped_recipes().items())


# --- the schema for editors ---


def schema_errors(text: str) -> list[str]:
    jsonschema = pytest.importorskip("jsonschema")
    schema = recipe_schema(STAGES, DEVICES)
    jsonschema.Draft202012Validator.check_schema(schema)
    value = parse_yaml(text.encode(), "x").value
    return [error.message for error in jsonschema.Draft202012Validator(schema).iter_errors(value)]


def test_the_schema_accepts_what_the_reader_accepts() -> None:
    assert schema_errors(VALID) == []


NOT_IN_A_SCHEMA = {
    "a later step",
    "a missing step",
    "itself",
    "a step of the wrong stage",
    "task name",
    "task of one class",
}
NOT_IN_A_SCHEMA |= {"margin of no metric", "margin that is none", "critical class", "operating point"}


@pytest.mark.parametrize("name", sorted(BAD.keys() - NOT_IN_A_SCHEMA))
def test_the_schema_refuses_what_the_reader_refuses_by_itself(name: str) -> None:
    assert schema_errors(BAD[name][0])


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ("data.sources.cxr.foldr=x", r"data\.sources\.cxr: no field 'foldr' in Source; did you mean 'folder'\?"),
        ("data.sources.cxr.columns.patiend=x", r"no field 'patiend' in Columns; did you mean 'patient'\?"),
        ("data.sources.cxr.calibration=2", r"data\.sources\.cxr\.calibration: 2: expected `float` < 1\.0"),
        ("data.sources.cxr.folder=../x", r"data\.sources\.cxr: '\.\./x' is not inside of root"),
        ("steps.visits.input.heigth=3", r"steps\.visits\.input: no field 'heigth' in InputSpec; did you mean 'heig"),
    ],
)
def test_a_fault_deep_inside_a_recipe_names_its_place_and_the_nearest_field(change: str, words: str) -> None:
    with pytest.raises(FaultsError, match=words):
        read_recipe(shipped_recipes()["mtpret-real"], SHIPPED_STAGES, [change])


def test_a_device_of_ones_own_is_a_file_beside_the_recipe(tmp_path: Path) -> None:
    own = tmp_path / "scanner.yaml"
    own.write_text((FOLDER / "generic-x86.yaml").read_text().replace("id: generic-x86", "id: scanner"))
    text = replaced("device: generic-x86", "device: scanner.yaml")

    recipe = parse(text, folder=tmp_path)

    assert load_profile(recipe.device).id == "scanner"
    with pytest.raises(FaultsError, match=r"device: .*elsewhere.yaml is not there"):
        parse(replaced("device: generic-x86", "device: elsewhere.yaml"), folder=tmp_path)
