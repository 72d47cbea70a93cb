"""What the trials say together: the Pareto front, who goes to the final, and why each other one lost."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from .budget import Budget, amount, cost_of
from .row import Row
from .section import Search


class Standing(msgspec.Struct, frozen=True, kw_only=True):
    """One trial among the others."""

    row: Row
    front: bool = False  # no other trial is both cheaper and better
    finalist: bool = False
    why: str = ""  # it lost, or is where it is


def standings(rows: Sequence[Row], budget: Budget, search: Search) -> tuple[Standing, ...]:
    """Every trial with its place; trials that a dead process left and proposals that came twice are left out.

    Args:
        rows: all trials.
        budget: of the device.
        search: gives how many finalists there are, and their least slack.
    """
    shown = [row for row in rows if row.state not in ("failed", "repeated")]
    front = pareto(shown, budget)
    able = [row for row in shown if row.number in front and _able(row, budget, search)]
    able.sort(key=lambda row: (_price(row, budget), -(row.slack or 0.0)))
    if (
        search.short
    ):  # a short training may fall short where a whole one does not: the best of the rest get their chance
        rest = [row for row in shown if row.number in front and row not in able and _within(row, budget)]
        able += sorted(rest, key=lambda row: -(row.slack or 0.0))
    finalists = [row.number for row in able[: search.finalists]]
    return tuple(
        Standing(
            row=row,
            front=row.number in front,
            finalist=row.number in finalists,
            why=_why(row, shown, budget, search, front, finalists),
        )
        for row in shown
    )


def pareto(rows: Sequence[Row], budget: Budget) -> frozenset[int]:
    """Numbers of the finished trials that no other one dominates."""
    done = [row for row in rows if row.state == "done" and row.slack is not None]
    return frozenset(row.number for row in done if not any(dominates(other, row, budget) for other in done))


def dominates(one: Row, other: Row, budget: Budget) -> bool:
    """Whether one costs no more and is no worse, and is better in either; of equals the earlier one.

    One that breaks any limit of the budget dominates none that keeps them all: it could not take its place.
    """
    if _within(other, budget) and not _within(one, budget):
        return False
    price, slack = (_price(one, budget), _price(other, budget)), (one.slack or 0.0, other.slack or 0.0)
    if price[0] > price[1] or slack[0] < slack[1]:
        return False
    return price[0] < price[1] or slack[0] > slack[1] or one.number < other.number


def hypervolume(rows: Sequence[Row], budget: Budget, *, floor: float = 0.0) -> float:
    """Share of the box between free and the budget, and between a slack and 1, that the front dominates (Zitzler 1999).

    Args:
        rows: trials.
        budget: costs count as a share of its limit, so that searches under one budget can be compared.
        floor: the box's lower end; 0 counts only what keeps its margins.
    """
    limit = budget.limits[budget.figure]
    inside = [row for row in rows if row.state == "done" and row.cost is not None and not budget.over(row.cost)]
    area, height = 0.0, floor
    for price, slack in sorted((_price(row, budget) / limit, min(row.slack or 0.0, 1.0)) for row in inside):
        if slack > height:
            area += (1 - price) * (slack - height)
            height = slack
    return area / (1 - floor)


def nearest(rows: Sequence[Row], budget: Budget, search: Search) -> str:
    """Name the candidate that comes closest, where none may go to the final."""
    costed = [row for row in rows if row.cost is not None and budget.excess(row.cost)]
    within = [row for row in costed if row.cost and not budget.over(row.cost) and row.slack is not None]
    if within:
        best = max(within, key=lambda row: row.slack or 0.0)
        worst = f"{best.worst_task} has {best.slack:.2f} of its margin left, {search.least_slack:g} is asked for"
        return f"none of {len(rows)} candidates keeps its margins; the nearest is trial {best.number}: {worst}"
    if not costed:
        first = next((row.reason for row in rows if row.reason), "there were none")
        return f"none of {len(rows)} candidates could be measured: {first}"
    best = min(costed, key=lambda row: max(budget.excess(row.cost).values()) if row.cost else 0.0)
    assert best.cost is not None
    over = budget.over(best.cost)
    if not over:
        reason = best.reason or "it was not judged"
        return f"none of {len(rows)} candidates was trained to its end; the nearest is trial {best.number}: {reason}"
    return f"none of {len(rows)} candidates keeps the budget; the nearest is trial {best.number}: {over}"


def _able(row: Row, budget: Budget, search: Search) -> bool:
    return _within(row, budget) and (row.slack or 0.0) >= search.least_slack


def _within(row: Row, budget: Budget) -> bool:
    return row.cost is not None and not budget.over(row.cost)


def _price(row: Row, budget: Budget) -> float:
    value = None if row.cost is None else cost_of(row.cost, budget.figure)
    return float("inf") if value is None else value


def _why(
    row: Row, rows: Sequence[Row], budget: Budget, search: Search, front: frozenset[int], finalists: Sequence[int]
) -> str:
    if row.state in ("over", "stopped", "refused", "running"):
        return {"refused": f"refused: {row.reason}", "running": "not over yet"}.get(row.state, row.reason)
    over = "" if row.cost is None else budget.over(row.cost)
    if over:
        return f"over the budget: {over}"
    if row.number in finalists:
        return "goes to the final"
    if row.slack is not None and row.slack < search.least_slack:
        lost = f"{row.worst_task} has {row.slack:.2f} of its margin left"
        return f"{lost}, {search.least_slack:g} is asked for"
    if row.number in front:
        return f"on the front; the finalists are faster ({', '.join(f'trial {one}' for one in finalists)})"
    better = [other for other in rows if other.state == "done" and dominates(other, row, budget)]
    best = max(better, key=lambda other: (other.number in front, other.slack or 0.0))
    price = amount(budget.figure, _price(best, budget))
    return f"dominated by trial {best.number} ({price}, slack {best.slack:.2f})"
