"""The tables that `foveola search` prints."""

from __future__ import annotations

from collections.abc import Sequence

from rich.table import Table

from .budget import Budget
from .confirm import Confirmed
from .front import Standing
from .row import Cost
from .space import named


def trial_table(trials: Sequence[Standing], budget: Budget) -> Table:
    """All candidates: finalists first, then the front, then the others as they came."""
    limits = ", ".join(f"{figure} {limit:g}" for figure, limit in budget.limits.items())
    table = Table(title=f"Candidates (budget: {limits})", title_justify="left")
    for name, justify in (("trial", "right"), ("ms", "right"), ("MB", "right"), ("slack", "right")):
        table.add_column(name, justify=justify, no_wrap=True)  # type: ignore[arg-type]
    for name in ("worst task", "what it is", "place, or why it lost"):
        table.add_column(name)
    for one in sorted(trials, key=lambda one: (not one.finalist, not one.front, one.row.number)):
        row = one.row
        slack = "" if row.slack is None else f"{row.slack:.2f}"
        table.add_row(str(row.number), *_cost(row.cost), slack, row.worst_task, named(row.values), one.why)
    return table


def final_table(finalists: Sequence[Confirmed]) -> Table:
    """The finalists with their verdicts."""
    table = Table(title="Final, on the test split", title_justify="left")
    for name in ("trial", "ms", "MB", "verdict", "what stands in the way"):
        table.add_column(name)
    for one in finalists:
        way = "; ".join(filter(None, (one.why, *one.missed[:3])))
        more = f" and {len(one.missed) - 3} more" if len(one.missed) > 3 else ""
        verdict = f"{one.verdict}, winner" if one.winner else one.verdict or "not proved"
        table.add_row(str(one.number), *_cost(one.cost), verdict, way + more or "nothing")
    return table


def _cost(cost: Cost | None) -> tuple[str, str]:
    if cost is None:
        return "", ""
    return "" if cost.latency_ms is None else f"{cost.latency_ms:.2f}", f"{cost.size_mb:.2f}"
