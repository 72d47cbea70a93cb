"""Laws of the stage: its knobs are those of the plain functions, and the shipped recipes read."""

from __future__ import annotations

import msgspec
import pytest

from foveola.runtime.manifest import InputSpec
from foveola.toolkit.recipe import read_recipe, shipped_recipes
from foveola.toolkit.stages.mtcool import Cooperate
from foveola.toolkit.stages.network import TEACHERS
from foveola.toolkit.stages.table import STAGES
from foveola.toolkit.teachers.mtcool.course import Play
from foveola.toolkit.teachers.mtcool.learn import Build
from foveola.toolkit.teachers.mtcool.objective import Flat

STAGE = Cooperate(backbone="test_resnet", input=InputSpec(height=32, width=32, channels=1))


def test_its_knobs_are_those_of_the_plain_functions_with_the_same_defaults() -> None:
    assert STAGE.flat() == Flat()
    assert STAGE.play() == Play()
    assert STAGE.build() == Build(backbone="test_resnet", input=STAGE.input)
    assert STAGE.plan().ema == 0
    for field in ("epochs", "batch_size", "learning_rate", "optimizer", "clip", "warmup", "schedule", "augment"):
        assert getattr(STAGE.plan(), field) == getattr(STAGE, field)


def test_whatever_takes_a_teacher_takes_this_one() -> None:
    assert STAGES["cooperate"] is Cooperate
    assert "cooperate" in TEACHERS


@pytest.mark.parametrize("name", sorted(name for name in shipped_recipes() if name.startswith("mtcool-")))
def test_a_shipped_recipe_reads_and_goes_from_a_cooperation_to_a_signed_bundle(name: str) -> None:
    recipe = read_recipe(shipped_recipes()[name], STAGES)

    kinds = [step.kind for step in recipe.steps]
    wanted = "protocol cooperate review distill quantize export parity sign bench"
    assert kinds == wanted.split()
    teacher = next(step.stage for step in recipe.steps if step.kind == "cooperate")
    assert isinstance(teacher, Cooperate)
    assert len(recipe.tasks) == 3


def test_a_knob_that_is_none_is_refused() -> None:
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert({"backbone": "x", "input": {"height": 32, "width": 32}, "rho": -1}, Cooperate)
