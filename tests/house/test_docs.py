"""The documents tell the truth: every command is explained, every recipe is valid, every example runs."""

from __future__ import annotations

import doctest
import importlib
import pkgutil
from pathlib import Path

import click
import pytest

import foveola.runtime
import foveola.toolkit.parity
from foveola.devices.profile import load_profile, profile_ids
from foveola.toolkit.commands.table import foveola as main
from foveola.toolkit.recipe import read_recipe, shipped_recipes
from foveola.toolkit.stages.table import STAGES

ROOT = Path(__file__).resolve().parents[2]
DOCS = "\n".join(
    path.read_text(encoding="utf-8") for path in [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
)


def commands(group: click.Command, name: str = "foveola") -> list[tuple[str, click.Command]]:
    found = [(name, group)]
    if isinstance(group, click.Group):
        context = click.Context(group)
        for child in group.list_commands(context):
            command = group.get_command(context, child)
            assert command is not None
            found += commands(command, f"{name} {child}")
    return found


@pytest.mark.parametrize(
    ("name", "command"), commands(main)[1:], ids=lambda value: value if isinstance(value, str) else ""
)
def test_every_command_is_documented_and_teaches(name: str, command: click.Command) -> None:
    assert command.help, f"{name} has no help"
    assert name in DOCS, f"{name} stands in no document"


@pytest.mark.parametrize("name", sorted(shipped_recipes()))
def test_every_shipped_recipe_is_valid(name: str) -> None:
    recipe = read_recipe(shipped_recipes()[name], STAGES)

    assert recipe.steps
    assert name in DOCS


@pytest.mark.parametrize("name", profile_ids())
def test_every_device_profile_is_valid(name: str) -> None:
    assert load_profile(name).id == name


@pytest.mark.parametrize("stage", sorted(STAGES))
def test_every_stage_is_documented(stage: str) -> None:
    assert STAGES[stage].__doc__
    assert f"`{stage}`" in DOCS


@pytest.mark.parametrize(
    "module",
    [
        f"{package.__name__}.{info.name}"
        for package in (foveola.runtime, foveola.toolkit.parity)
        for info in pkgutil.iter_modules(package.__path__)
        if info.name != "__main__"
    ],
)
def test_examples_in_docstrings_run(module: str) -> None:
    assert doctest.testmod(importlib.import_module(module)).failed == 0
