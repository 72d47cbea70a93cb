"""Laws of the `search:` section: it is checked with the recipe, told line by line, and no part of what a run does."""

from __future__ import annotations

from pathlib import Path

import pytest
import searching

from foveola.runtime.errors import UsageError
from foveola.toolkit.recipe import parse_recipe, read_recipe
from foveola.toolkit.recipe_schema import recipe_schema
from foveola.toolkit.search.draft import read_draft
from foveola.toolkit.search.section import Range, fields_of
from foveola.toolkit.stages.table import STAGES
from foveola.toolkit.yaml12 import FaultsError

WIDTH = "    steps.student.width: {low: 8, high: 16, step: 8}\n"
FAULTS = {
    "an unknown field": (WIDTH, "    steps.student.widht: [8]\n", "no field 'widht' in Distill; did you mean"),
    "an unknown field inside": (
        WIDTH,
        "    steps.student.input.hight: [8]\n",
        "no field 'hight' in input; did you",
    ),
    "an unknown step": (
        WIDTH,
        "    steps.studnet.width: [8]\n",
        "no step 'studnet' in the recipe; did you mean",
    ),
    "no step at all": (WIDTH, "    seed: [1, 2]\n", "'seed' is no field of a step; for example"),
    "the teacher": (WIDTH, "    steps.teacher.epochs: [1, 2]\n", "teacher comes before the teacher's answers"),
    "an empty range": (WIDTH, "    steps.student.width: {low: 16, high: 8}\n", "low 16 is not below high 8"),
    "one value twice": (WIDTH, "    steps.student.width: [8, 8]\n", "has no value, or one twice"),
    "a mistyped knob": ("  trials: 2\n", "  trails: 2\n", "no field 'trails' in search; did you mean 'trials'?"),
    "a short field that varies": ("steps.student.epochs: 1}", "steps.student.width: 8}", "stands in the space too"),
    "no such student": ("  trials: 2\n", "  student: int9\n", "no step 'int9'; did you mean 'int8'?"),
}


@pytest.mark.parametrize(("old", "new", "told"), FAULTS.values(), ids=FAULTS)
def test_a_fault_of_the_section_is_told_with_its_line(old: str, new: str, told: str) -> None:
    text = searching.RECIPE.replace(old, new)

    with pytest.raises(FaultsError) as caught:
        parse_recipe(text.encode(), STAGES)

    assert told in str(caught.value)
    assert "recipe.yaml:" in str(caught.value)


def test_a_recipe_with_a_search_is_the_same_recipe(tmp_path: Path) -> None:
    plain = searching.RECIPE[: searching.RECIPE.index("search:")]

    searched = read_recipe(searching.write_recipe(tmp_path), STAGES)

    assert searched.search is not None
    assert searched.digest == parse_recipe(plain.encode(), STAGES).digest


def test_the_schema_knows_the_section() -> None:
    schema = recipe_schema(STAGES, ["generic-x86"])

    section = schema["properties"]["search"]

    assert section["required"] == ["space"]
    assert "trials" in section["properties"]
    assert section["properties"]["trials"]["description"]


def test_a_key_may_name_several_fields() -> None:
    assert fields_of("steps.a.b, steps.a.c.d") == (("steps", "a", "b"), ("steps", "a", "c", "d"))


def test_a_range_counts_both_its_ends() -> None:
    assert Range(low=32, high=96, step=32).values() == (32, 64, 96)
    assert Range(low=1, high=3).values() == (1, 2, 3)
    assert Range(low=0.5, high=2.0).values() == (0.5, 2.0)


def test_a_recipe_without_a_search_cannot_be_searched(tmp_path: Path) -> None:
    path = tmp_path / "plain.yaml"
    path.write_text(searching.RECIPE[: searching.RECIPE.index("search:")], encoding="utf-8")

    with pytest.raises(UsageError, match="no `search:` section"):
        read_draft(path)
