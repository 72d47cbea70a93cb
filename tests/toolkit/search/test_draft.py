"""Laws of a candidate's recipe: it says what it is, needs nothing else, and is read back as it was meant."""

from __future__ import annotations

from pathlib import Path

import pytest
import searching
from hypothesis import given
from hypothesis import strategies as st

from foveola.runtime.errors import UsageError
from foveola.toolkit.recipe import read_recipe
from foveola.toolkit.search.draft import dump_yaml, made_by
from foveola.toolkit.stages.table import STAGES
from foveola.toolkit.yaml12 import parse_yaml

SIZE = "steps.student.input.height, steps.student.input.width"


def test_a_trial_is_short_and_ends_with_the_artefact(tmp_path: Path) -> None:
    draft, path = searching.draft(tmp_path), tmp_path / "trials/0007/trial.yaml"

    recipe = draft.read(draft.trial({"steps.student.width": 16, SIZE: 32}), path, "Seven")

    assert [step.name for step in recipe.steps] == ["teacher", "student", "int8"]
    fields = ("width", "epochs", "input.height", "input.width")
    assert [searching.knob(recipe, "student", field) for field in fields] == [16, 1, 32, 32]
    assert path.read_text().startswith("# Seven\n")


def test_a_whole_candidate_is_at_full_length_and_goes_on_to_the_signature(tmp_path: Path) -> None:
    draft = searching.draft(tmp_path)

    recipe = draft.read(draft.whole({"steps.student.width": 16}, alpha=0.0125))

    names = [step.name for step in recipe.steps]
    assert names == ["protocol", "teacher", "student", "int8", "bundle", "proof", "ship"]  # `more` serves nothing here
    assert searching.knob(recipe, "student", "epochs") == 2
    assert searching.knob(recipe, "protocol", "alpha") == 0.0125


def test_the_road_decides_which_steps_a_candidate_needs(tmp_path: Path) -> None:
    draft = searching.draft(tmp_path)

    assert draft.steps_of({}) == {"teacher", "student", "int8"}
    assert draft.steps_of({"steps.int8.of": "more"}) == {"teacher", "more", "int8"}


def test_a_relative_path_holds_wherever_the_trial_is_written(tmp_path: Path) -> None:
    (tmp_path / "start.safetensors").write_bytes(b"weights")
    draft = searching.draft(tmp_path, ("    epochs: 2\n", "    epochs: 2\n    weights: start.safetensors\n"))

    recipe = draft.read(draft.trial({}), tmp_path / "elsewhere/trial.yaml")

    assert searching.knob(recipe, "student", "weights") == str(tmp_path / "start.safetensors")
    assert read_recipe(tmp_path / "elsewhere/trial.yaml", STAGES).digest == recipe.digest


def test_the_step_that_makes_the_network_is_found_behind_the_quantiser(tmp_path: Path) -> None:
    step = made_by(searching.draft(tmp_path).recipe, "int8")

    assert step is not None
    assert step.name == "student"


NO_PROTOCOL = ("against: teacher, protocol: protocol", "against: teacher")
ROLES = {
    "no protocol": ((NO_PROTOCOL,), "proof has no protocol"),
    "no proof": ((("stage: parity", "stage: parity"), ("  trials: 2\n", "  proof: int8\n")), "int8 is a quantize step"),
}


@pytest.mark.parametrize(("changes", "told"), ROLES.values(), ids=ROLES)
def test_a_recipe_that_cannot_confirm_is_refused(
    tmp_path: Path, changes: tuple[tuple[str, str], ...], told: str
) -> None:
    with pytest.raises(UsageError, match=told):
        searching.draft(tmp_path, *changes)


TEXTS = st.text(alphabet=st.characters(blacklist_categories=("Cs", "Cc")), max_size=12)
SCALARS = st.one_of(st.booleans(), st.integers(-(2**40), 2**40), st.floats(-1e6, 1e6), TEXTS, st.none())
TRICKY = st.sampled_from(
    ["1e-3", "no", "on", "12:30", "0x1f", "0o7", "~", "null", "True", ".5", "- a", "a: b", "# c", ""]
)
VALUES = st.one_of(SCALARS, TRICKY)


@given(st.dictionaries(TEXTS.filter(bool), st.one_of(VALUES, st.lists(VALUES)), max_size=5))
def test_what_is_written_is_read_back_as_it_was(document: dict[str, object]) -> None:
    read = parse_yaml(dump_yaml(document, "a comment"), "x.yaml").value or {}  # type: ignore[arg-type]

    assert read == document
