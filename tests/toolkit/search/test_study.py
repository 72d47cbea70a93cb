"""Laws of the study: it knows what it was begun with, outlives its workers, and forgets no candidate."""

from __future__ import annotations

from pathlib import Path

import msgspec
import optuna
import pytest
import searching
from optuna.trial import TrialState

from foveola.devices.profile import load_profile
from foveola.runtime.errors import FoveolaError, UsageError
from foveola.toolkit.search.budget import parse_budget
from foveola.toolkit.search.draft import Draft
from foveola.toolkit.search.row import Cost
from foveola.toolkit.search.section import Sampler
from foveola.toolkit.search.study import DEATHS, bury, identity_of, keep_row, open_study, read_rows, tell, this_host
from foveola.toolkit.search.worker import alive, begin, counted, propose, slot

BUDGET = parse_budget(searching.BUDGET, load_profile("generic-x86"))


def opened(
    draft: Draft, folder: Path, storage: str = "", sampler: Sampler = "random", images: str = "0a1b"
) -> optuna.study.Study:
    identity = identity_of(draft, BUDGET, "predicted", images)
    return open_study("tiny", storage, folder, sampler, 1, identity, trials=8)


def nobody(worker: str) -> bool:
    return False


def test_a_search_resumed_with_another_recipe_is_refused_field_by_field(tmp_path: Path) -> None:
    opened(searching.draft(tmp_path), tmp_path)
    other = searching.draft(tmp_path, ("    epochs: 2\n", "    epochs: 9\n"), ("step: 8}", "step: 4}"))

    with pytest.raises(FoveolaError) as caught:
        opened(other, tmp_path)

    assert "steps.student.epochs 2 -> 9" in str(caught.value)
    assert "search.space.steps.student.width.step 8 -> 4" in str(caught.value)


def test_a_search_resumed_on_other_images_is_refused(tmp_path: Path) -> None:
    opened(searching.draft(tmp_path), tmp_path)

    with pytest.raises(FoveolaError, match="begun otherwise: images 0a1b -> 2c3d;"):
        opened(searching.draft(tmp_path), tmp_path, images="2c3d")


def test_more_trials_are_no_other_recipe(tmp_path: Path) -> None:
    opened(searching.draft(tmp_path), tmp_path)

    opened(searching.draft(tmp_path, ("  trials: 2\n", "  trials: 9\n")), tmp_path)


@pytest.mark.parametrize("sampler", ["tpe", "nsga2", "random"])
def test_every_sampler_searches_the_whole_space_and_then_says_so(tmp_path: Path, sampler: Sampler) -> None:
    draft = searching.draft(tmp_path)
    study = opened(draft, tmp_path, sampler=sampler)
    begin(study, draft)
    seen = []
    while (proposed := propose(study, draft, "here:1")) is not None:
        trial, row = proposed
        seen.append(row.values)
        slack = 0.1 * len(seen)
        cost = Cost(latency_ms=float(len(seen)), size_mb=1)
        tell(study, trial, msgspec.structs.replace(row, state="done", cost=cost, slacks={"lungs": slack}), BUDGET)

    assert len(seen) == 8  # 2 backbones x 2 widths x 2 sizes
    assert len({repr(sorted(values.items())) for values in seen}) == 8
    assert seen[0]["steps.student.width"] == 8  # the recipe as written comes first
    assert counted(read_rows(study)) == 8


def test_the_candidate_of_a_dead_worker_is_done_again(tmp_path: Path) -> None:
    draft = searching.draft(tmp_path)
    study = opened(draft, tmp_path)
    proposed = propose(study, draft, f"{this_host()}:7")
    assert proposed is not None

    assert bury(study, lambda worker: True) == 0
    assert bury(study, nobody) == 1
    again = propose(study, draft, f"{this_host()}:1")

    assert again is not None
    assert again[1].values == proposed[1].values
    assert again[1].again == proposed[1].number
    assert [row.state for row in read_rows(study)] == ["failed", "running"]
    assert counted(read_rows(study)) == 1


def test_a_candidate_that_kills_its_process_is_left_alone_at_last(tmp_path: Path) -> None:
    draft = searching.draft(tmp_path)
    study = opened(draft, tmp_path)
    for _ in range(DEATHS):
        assert propose(study, draft, f"{this_host()}:1") is not None
        bury(study, nobody)

    assert not study.get_trials(states=(TrialState.WAITING,))


def test_a_worker_elsewhere_that_gave_a_sign_is_not_buried(tmp_path: Path) -> None:
    draft = searching.draft(tmp_path)
    study = opened(draft, tmp_path)
    propose(study, draft, "elsewhere:1")

    assert bury(study, nobody) == 0


def test_what_is_over_a_budget_is_a_broken_constraint_for_the_sampler(tmp_path: Path) -> None:
    draft = searching.draft(tmp_path)
    study = opened(draft, tmp_path)
    trial, row = propose(study, draft, "here:1") or pytest.fail("nothing was proposed")
    keep_row(trial, row)

    tell(study, trial, msgspec.structs.replace(row, state="over", cost=Cost(latency_ms=50.0, size_mb=4)), BUDGET)

    (told,) = study.trials
    assert told.state == TrialState.PRUNED
    assert told.constraints == {"latency_ms": 1.0, "size_mb": -0.5}


def test_a_database_serves_as_storage(tmp_path: Path) -> None:
    draft = searching.draft(tmp_path)
    url = f"sqlite:///{tmp_path / 'search.db'}"

    propose(opened(draft, tmp_path, url), draft, "here:1")

    assert len(read_rows(opened(draft, tmp_path, url))) == 1


def test_a_storage_that_is_none_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="--storage: cannot be opened"):
        opened(searching.draft(tmp_path), tmp_path, "nosuch://here/db")


@pytest.mark.parametrize("text", ["id,name\n1,x\n", '{"trials": 3}\n'])
def test_a_file_that_is_no_journal_is_one_line(tmp_path: Path, text: str) -> None:
    other = tmp_path / "other.txt"
    other.write_text(text, encoding="utf-8")

    with pytest.raises(UsageError, match="is no journal of a search; name a new file"):
        opened(searching.draft(tmp_path), tmp_path, str(other))


def test_a_slot_is_free_when_its_holder_is_gone(tmp_path: Path) -> None:
    with slot(tmp_path) as first, slot(tmp_path) as second:
        assert (first, second) == (1, 2)
        assert alive(tmp_path, f"{this_host()}:2", own=1)
        assert not alive(tmp_path, f"{this_host()}:1", own=1)
    assert not alive(tmp_path, f"{this_host()}:2", own=1)
