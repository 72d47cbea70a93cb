"""Laws of the front: Optuna's own front is the oracle; every trial that lost is told why; the nearest is named."""

from __future__ import annotations

import msgspec
import numpy as np
import optuna
import pytest
import searching

from foveola.toolkit.search.budget import Budget
from foveola.toolkit.search.front import hypervolume, nearest, pareto, standings
from foveola.toolkit.search.section import Search

BUDGET = Budget(limits={"latency_ms": 10.0, "size_mb": 8.0})
SEARCH = Search(space={"steps.student.width": (1, 2)}, finalists=2)
ROWS = (
    searching.row(0, 4.0, 0.2),
    searching.row(1, 5.0, 0.1),  # dominated by 0
    searching.row(2, 6.0, 0.6),
    searching.row(3, 8.0, 0.9),
    searching.row(4, 12.0, 0.95),  # over the budget
    searching.row(5, 30.0, None, reason="over before training: 30 ms, the budget is 10 ms"),
    searching.row(6, 2.0, -0.5),  # has lost its margin
    searching.row(7, 3.0, None, state="refused", reason="no such thing"),
    searching.row(8, 3.0, None, state="failed"),
)


@pytest.mark.parametrize("seed", range(5))
def test_the_front_is_that_of_optuna(seed: int) -> None:
    rng = np.random.default_rng(seed)
    points = [(float(x), float(y)) for x, y in rng.integers(0, 12, (40, 2))]
    study = optuna.create_study(directions=["minimize", "maximize"])
    study.add_trials([optuna.create_trial(values=point) for point in points])

    front = pareto([searching.row(i, *point) for i, point in enumerate(points)], BUDGET)

    # Optuna keeps equals, we the first of them.
    assert {points[i] for i in front} == {tuple(trial.values) for trial in study.best_trials}
    assert len(front) == len({points[i] for i in front})


def test_every_trial_is_told_why_it_lost() -> None:
    found = {one.row.number: one for one in standings(ROWS, BUDGET, SEARCH)}

    assert 8 not in found
    assert [number for number, one in found.items() if one.finalist] == [0, 2]
    assert found[1].why == "dominated by trial 0 (4 ms, slack 0.20)"
    assert found[3].why == "on the front; the finalists are faster (trial 0, trial 2)"
    assert found[4].why == "over the budget: 12 ms, the budget is 10 ms"
    assert found[5].why.startswith("over before training")
    assert found[6].why == "lungs has -0.50 of its margin left, 0 is asked for"
    assert found[7].why == "refused: no such thing"


def test_a_candidate_over_any_limit_keeps_none_within_the_budget_from_the_final() -> None:
    heavy = searching.row(0, 4.0, 0.9)
    assert heavy.cost is not None
    heavy = msgspec.structs.replace(heavy, cost=msgspec.structs.replace(heavy.cost, size_mb=8.5))
    light = searching.row(1, 5.0, 0.8)  # slower and worse, but small enough

    found = standings([heavy, light], BUDGET, SEARCH)

    assert [one.row.number for one in found if one.finalist] == [1]
    assert found[0].why == "over the budget: 8.5 MB, the budget is 8 MB"
    assert found[1].why == "goes to the final"


def test_after_short_trials_the_best_of_the_rest_get_their_chance() -> None:
    short = Search(space=SEARCH.space, short={"steps.student.epochs": 1}, finalists=2)

    found = standings(
        [searching.row(0, 4.0, -3.0), searching.row(1, 5.0, -1.0), searching.row(2, 12.0, 1.0)], BUDGET, short
    )

    assert [one.row.number for one in found if one.finalist] == [0, 1]


def test_the_area_under_the_front_is_that_of_a_hand_example() -> None:
    rows = [
        searching.row(0, 4.0, 0.5),
        searching.row(1, 8.0, 1.2),
        searching.row(2, 9.0, 0.2),
        searching.row(3, 12.0, 1.0),
    ]

    assert hypervolume(rows, BUDGET) == pytest.approx(0.6 * 0.5 + 0.2 * 0.5)


def test_the_nearest_candidate_is_named() -> None:
    over = [searching.row(0, 30.0, None), searching.row(1, 11.0, None), searching.row(2, 40.0, 0.5)]
    lost = [searching.row(0, 4.0, -2.0), searching.row(1, 5.0, -0.3)]

    assert nearest(over, BUDGET, SEARCH) == (
        "none of 3 candidates keeps the budget; the nearest is trial 1: 11 ms, the budget is 10 ms"
    )
    assert nearest(lost, BUDGET, SEARCH).endswith(
        "the nearest is trial 1: lungs has -0.30 of its margin left, 0 is asked for"
    )


def test_where_every_candidate_is_refused_the_reason_is_told_and_no_budget_blamed() -> None:
    refused = searching.row(0, 4.0, None, state="refused", reason="int8: no engine computes int8")

    assert nearest([refused], BUDGET, SEARCH) == (
        "none of 1 candidates was trained to its end; the nearest is trial 0: int8: no engine computes int8"
    )
