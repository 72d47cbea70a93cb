"""The account of a search, as a page, a picture, and figures for machines."""

from __future__ import annotations

from pathlib import Path

import msgspec
from markupsafe import Markup

from ..report.page import page_environment
from ..report.wording import listed
from ..work import write_atomic
from .budget import UNITS, Budget, amount, cost_of
from .confirm import Confirmed
from .figure import MARKS, front_figure, front_svg, legend
from .front import Standing
from .section import Range, Search
from .space import short_name

PAGE, PICTURE, TRIALS, FOUND = "search.html", "front.svg", "trials.jsonl", "found.json"
TEMPLATE = "search.html.j2"


class Account(msgspec.Struct, frozen=True, kw_only=True):
    """All that the page shows."""

    recipe: str
    device: str
    budget: Budget
    timing: str
    trials: tuple[Standing, ...]
    finalists: tuple[Confirmed, ...]
    search: Search


class Line(msgspec.Struct, frozen=True, kw_only=True):
    """One trial in the table."""

    number: int
    values: tuple[str, ...]  # by key of the space; a dash where its step is not on the road
    latency: str
    size: str
    slack: str
    worst: str
    minutes: str
    place: str  # front, finalist, winner, or what became of it
    why: str


def write_report(account: Account, folder: Path) -> Path:
    """Write all four files; give the page's path."""
    folder.mkdir(parents=True, exist_ok=True)
    rows = b"".join(msgspec.json.encode(one, order="sorted", enc_hook=str) + b"\n" for one in account.trials)
    write_atomic(folder / TRIALS, rows)
    whole = msgspec.json.encode(account, order="sorted", enc_hook=str)
    write_atomic(folder / FOUND, msgspec.json.format(whole, indent=1) + b"\n")
    write_atomic(folder / PICTURE, front_svg(account.trials, account.budget, account.timing).encode())
    write_atomic(folder / PAGE, render_search(account).encode())
    return folder / PAGE


def render_search(account: Account) -> str:
    """One HTML page, self-contained, without a script."""
    return (
        page_environment()
        .get_template(TEMPLATE)
        .render(
            account=account,
            limits=listed([amount(figure, limit) for figure, limit in account.budget.limits.items()]),
            said=headline(account),
            verdict=_verdict(account),
            proved=sum(one.verdict is not None for one in account.finalists),
            tiles=_tiles(account),
            keys=[short_name(key) for key in account.search.space],
            lines=[_line(one, account) for one in _ordered(account)],
            finalists=account.finalists,
            space=_space(account.search),
            figure=front_figure(account.trials, account.budget, account.timing),
            legend=legend(),
            marks=Markup(MARKS),
            amount=amount,
            unit=UNITS[account.budget.figure],
            footer="",
        )
    )


def headline(account: Account) -> str:
    """What a reader must know first, in one sentence."""
    winner = next((one for one in account.finalists if one.winner), None)
    count = len(account.trials)
    if winner is not None:
        return f"Trial {winner.number} is the fastest of {count} candidates that passes: {_costs(winner)}."
    if account.finalists:
        shown = listed([f"trial {one.number}: {one.verdict or 'not proved'}" for one in account.finalists])
        return f"No finalist of {count} candidates passes ({shown})."
    chosen = [one.row.number for one in account.trials if one.finalist]
    if not chosen:
        return f"None of {count} candidates keeps budget and margins."
    return f"{count} candidates were looked at; not confirmed: {listed([f'trial {one}' for one in chosen])}."


def _verdict(account: Account) -> str:
    """The best that a finalist reached; empty where none was proved."""
    verdicts = [one.verdict for one in account.finalists if one.verdict is not None]
    return next((word for word in ("pass", "underpowered", "fail") if word in verdicts), "")


def _costs(one: Confirmed) -> str:
    latency = (
        "" if one.cost.latency_ms is None else f"{amount('latency_ms', one.cost.latency_ms)} ({one.cost.source}), "
    )
    return f"{latency}{amount('size_mb', one.cost.size_mb)}"


def _tiles(account: Account) -> list[tuple[str, str]]:
    states = [one.row.state for one in account.trials]
    seconds = sum(one.row.seconds for one in account.trials)
    return [
        ("candidates", str(len(states))),
        ("trained to the end", str(states.count("done"))),
        ("stopped in training", str(states.count("stopped"))),
        ("over before training", str(states.count("over"))),
        ("refused", str(states.count("refused"))),
        ("on the front", str(sum(one.front for one in account.trials))),
        ("time of all trials", f"{seconds / 60:.0f} min"),
    ]


def _ordered(account: Account) -> list[Standing]:
    """Finalists and then the front by cost, the other finished ones by slack, the rest."""
    rank = {"done": 0, "stopped": 1, "over": 2}
    figure = account.budget.figure

    def key(one: Standing) -> tuple[bool, bool, int, float, int]:
        row = one.row
        price = cost_of(row.cost, figure) if row.cost is not None else None
        if row.state != "done":
            return True, True, rank.get(row.state, 3), 0.0, row.number
        return not one.finalist, not one.front, 0, (price or 0.0) if one.front else -(row.slack or 0.0), row.number

    return sorted(account.trials, key=key)


def _line(standing: Standing, account: Account) -> Line:
    row, cost = standing.row, standing.row.cost
    winners = {one.number for one in account.finalists if one.winner}
    place = (
        "winner" if row.number in winners else "finalist" if standing.finalist else "front" if standing.front else ""
    )
    words = {"done": "", "over": "over", "stopped": "stopped", "refused": "refused"}
    return Line(
        number=row.number,
        values=tuple(str(row.values.get(key, "–")) for key in account.search.space),
        latency="–" if cost is None or cost.latency_ms is None else f"{cost.latency_ms:.2f}",
        size="–" if cost is None else f"{cost.size_mb:.2f}",
        slack="–" if row.slack is None else f"{row.slack:.2f}".replace("-", "−"),
        worst=row.worst_task,
        minutes=f"{row.seconds / 60:.1f}",
        place=place or words.get(row.state, row.state),
        why=standing.why,
    )


def _space(search: Search) -> list[tuple[str, str]]:
    found = []
    for key, dimension in search.space.items():
        if isinstance(dimension, Range):
            step = f" in steps of {dimension.step:g}" if dimension.step else ""
            told = f"{dimension.low:g} to {dimension.high:g}{step}{', logarithmic' if dimension.log else ''}"
        else:
            told = ", ".join(map(str, dimension))
        found.append((key, told))
    return found
