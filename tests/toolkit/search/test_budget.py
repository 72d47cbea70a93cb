"""Laws of the budget: figures with units, the first one made small, a mistyped one told."""

from __future__ import annotations

import pytest

from foveola.devices.profile import load_profile
from foveola.runtime.errors import UsageError
from foveola.toolkit.search.budget import parse_budget
from foveola.toolkit.search.row import Cost

DEVICE = load_profile("generic-x86")


def test_the_first_figure_is_made_small() -> None:
    budget = parse_budget(["size_mb=8", "latency_ms=25"], DEVICE)

    assert budget.figure == "size_mb"
    assert budget.limits == {"size_mb": 8.0, "latency_ms": 25.0}


def test_without_a_budget_the_devices_own_holds() -> None:
    assert parse_budget([], DEVICE).limits["latency_ms"] == DEVICE.budget.latency_ms


def test_what_is_over_is_told_with_its_figure() -> None:
    budget = parse_budget(["latency_ms=10,size_mb=8"], DEVICE)

    assert budget.over(Cost(latency_ms=10.5, size_mb=1)) == "10.5 ms, the budget is 10 ms"
    assert budget.over(Cost(latency_ms=10.5, size_mb=1), tolerance=0.1) == ""
    assert budget.over(Cost(latency_ms=None, size_mb=9)) == "9 MB, the budget is 8 MB"
    assert budget.excess(Cost(latency_ms=5, size_mb=8)) == {"latency_ms": -0.5, "size_mb": 0.0}


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("latency=25", "no figure 'latency'; did you mean 'latency_ms'?"),
        ("latency_ms", "not of the form NAME=NUMBER"),
        ("latency_ms=quick", "'quick' is not a number above 0; for example latency_ms=25"),
        ("latency_ms=3,latency_ms=4", "latency_ms is given twice; give it once"),
        ("size_mb=-1", "'-1' is not a number above 0"),
        ("size_mb=nan", "'nan' is not a number above 0"),
    ],
)
def test_a_wrong_budget_is_one_line(text: str, told: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_budget([text], DEVICE)

    assert told in str(caught.value)
