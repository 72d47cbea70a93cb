"""The recipes of docs/import.md fit what the import writes, layout by layout."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from made_eyes import EYE_MAKERS, archive

from foveola.toolkit import cli
from foveola.toolkit.data.layouts.importing import import_layout
from foveola.toolkit.data.layouts.read import LAYOUTS
from foveola.toolkit.recipe import read_recipe, shipped_recipes
from foveola.toolkit.stages.table import STAGES

PAGE = Path(__file__).resolve().parents[4] / "docs" / "import.md"
BLOCKS = dict(re.findall(r"```yaml\n# ([^\n]+)\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.S))
STEPS = "steps:\n  protocol: {stage: protocol}\n"


def made(title: str, root: Path) -> None:
    name, _, file = title.partition(", ")
    if file:
        archive(root / file, classes=11 if "organ" in file else 5, colour="organ" not in file)
    else:
        EYE_MAKERS[name][1](root)


@pytest.mark.parametrize("title", BLOCKS)
def test_a_recipe_of_the_page_reads_what_was_imported(
    title: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root, recipe = tmp_path / "data", tmp_path / "recipe.yaml"
    made(title, root)
    import_layout(title.partition(", ")[0], root)
    recipe.write_text(f"name: recipe\ndevice: generic-x86\nseed: 1\n{BLOCKS[title]}{STEPS}")

    code = cli.main(["data", "check", str(root), "--recipe", str(recipe), "--json"])

    said = json.loads(capsys.readouterr().out)
    assert said["errors"] == []
    assert code == 0
    asked = re.findall(r"^  (\w+):", BLOCKS[title], re.M)
    assert {task for task in asked if said["targets"].get(task, {}).get("train")} == set(asked)


@pytest.mark.parametrize(
    ("name", "title"),
    [
        ("sepl-odir", "odir"),
        ("sepl-odir", "odir, OIA"),
        ("mtcool-fundus", "idrid"),
        ("mtcool-organ", "medmnist, organcmnist_64.npz"),
    ],
)
def test_a_shipped_recipe_for_public_data_finds_its_tasks_in_what_was_imported(
    name: str, title: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = tmp_path / "data"
    if title in EYE_MAKERS:
        EYE_MAKERS[title][1](root)
    else:
        made(title, root)
    import_layout(title.partition(", ")[0], root)

    code = cli.main(["data", "check", str(root), "--recipe", str(shipped_recipes()[name]), "--json"])

    said = json.loads(capsys.readouterr().out)
    recipe = read_recipe(shipped_recipes()[name], STAGES)
    assert said["errors"] == []
    assert code == 0
    assert all(said["targets"][task.name]["train"] for task in recipe.tasks)


def test_every_fundus_layout_and_medmnist_have_a_recipe() -> None:
    assert {title.partition(", ")[0] for title in BLOCKS} == {name for name, _ in EYE_MAKERS.values()}
    assert all(f"`{name}`" in PAGE.read_text(encoding="utf-8") for name in LAYOUTS)
