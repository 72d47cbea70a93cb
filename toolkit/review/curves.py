"""Trainings arranged for the page of a review: curves over epochs or visits, and what was forgotten."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import msgspec
from markupsafe import Markup

from ..report import wording
from .figures import Line, curve_figure
from .record import Review, TrainingReview

MOST_FENCES = 40  # rounds that are parted by a line
KINDS = {"pretrain": "contrastive pretraining", "continual": "continual learning", "train": "supervised training"}
MEASURES = {"drift": "since start", "visit_drift": "in the visit"}
PULL = "l2sp"  # name of the loss that is no task's
ENDS = "end/"  # prefix of a score that was taken at a visit's end


class Figure(msgspec.Struct, frozen=True):
    """A drawing with its words."""

    title: str
    words: str
    drawing: Markup


class TrainingBlock(msgspec.Struct, frozen=True):
    """One training's curves."""

    name: str
    kind: str
    facts: tuple[tuple[str, str], ...]
    figures: tuple[Figure, ...]
    forgot: tuple[tuple[str, str, str, str], ...]  # task, best, last, forgetting
    mean_forgetting: str


def training_blocks(review: Review) -> list[TrainingBlock]:
    """The curves of every training; a task has the same colour and dash in all of them."""
    tasks = dict.fromkeys(name for one in review.trainings for epoch in one.history for name in epoch.scores)
    styles = {name: number for number, name in enumerate(tasks)}
    return [_training_block(one, styles) for one in review.trainings]


def _training_block(one: TrainingReview, styles: Mapping[str, int]) -> TrainingBlock:
    history = one.history
    continual = one.kind == "continual"
    unit = "visit" if continual else "epoch"
    facts = [(f"{unit}s", wording.thousands(len(history))), ("weights kept", f"after {unit} {one.kept}")]
    if continual:
        facts.insert(0, ("rounds", str(max(epoch.round for epoch in history) + 1)))
    rates = [epoch.learning_rate for epoch in history]
    if len(set(rates)) == 1:
        facts.append(("learning rate at the cycle's minimum" if continual else "learning rate", f"{rates[0]:.3g}"))
    forgot = []
    for task, lost in one.forgetting.items():
        seen = [epoch.scores[task] for epoch in history if task in epoch.scores]
        forgot.append((task, wording.number(max(seen)), wording.number(seen[-1]), wording.number(lost)))
    return TrainingBlock(
        name=one.name,
        kind=KINDS[one.kind],
        facts=tuple(facts),
        figures=tuple(_visit_figures(one, styles) if continual else _epoch_figures(one, styles)),
        forgot=tuple(forgot),
        mean_forgetting=wording.number(one.mean_forgetting),
    )


def _epoch_figures(one: TrainingReview, styles: Mapping[str, int]) -> list[Figure]:
    """Losses, scores, whatever else was measured, and the rate, over epochs."""
    losses = _lines([epoch.losses for epoch in one.history], styles)
    figures = [_figure("Training loss", "mean over each epoch's steps", losses, "epoch", low=0.0)]
    scores = _lines([epoch.scores for epoch in one.history], styles)
    if scores:
        pretrained = one.kind == "pretrain"
        title = "Linear probe on validation data" if pretrained else "Validation score"
        words = "0 is chance, 1 perfect" + ("" if pretrained else "; dashed line: the epoch that was kept")
        kept = None if pretrained else one.kept
        figures.append(_figure(title, words, scores, "epoch", low=0.0, high=1.0, kept=kept))
    others = _lines([epoch.measures for epoch in one.history])
    if others:
        figures.append(_figure("Other measures", "as the training noted them", others, "epoch"))
    rate = _lines([{"": epoch.learning_rate} for epoch in one.history])
    if len(set(rate[0].y)) > 1:
        figures.append(_figure("Learning rate", "at each epoch's last step", rate, "epoch", low=0.0))
    return figures


def _visit_figures(one: TrainingReview, styles: Mapping[str, int]) -> list[Figure]:
    """One figure a task with its visits marked, then drift and losses, over visits."""
    history = one.history
    ends = [number + 0.5 for number in range(1, len(history)) if history[number].round != history[number - 1].round]
    fences = ends if len(ends) <= MOST_FENCES else []
    figures = []
    scored = _lines([epoch.scores for epoch in history])
    low = min([0.0, *(value for line in scored for value in line.y)])
    for number, line in enumerate(scored):
        dots = tuple(place for place, x in enumerate(line.x) if history[int(x) - 1].task == line.name)
        lines = [msgspec.structs.replace(line, name="", dots=dots, style=0)]
        late = _lines([{ENDS: epoch.measures.get(f"{ENDS}{line.name}")} for epoch in history])
        if late:
            lines[0] = msgspec.structs.replace(lines[0], name="minimum")
            lines.append(msgspec.structs.replace(late[0], name="visit's end", style=1))
        words = "validation score after each visit" if number else "validation score after each visit; dots: its own"
        figures.append(_figure(line.name, words, lines, "visit", low=low, high=1.0, fences=fences))
    drifts = _lines([{MEASURES[k]: v for k, v in epoch.measures.items() if k in MEASURES} for epoch in history])
    if drifts:
        words = "of the backbone's weights, relative to their length"
        figures.append(_figure("Drift", words, drifts, "visit", low=0.0, fences=fences))
    losses = _lines([{k: v for k, v in epoch.losses.items() if k != PULL} for epoch in history], styles)
    figures.append(_figure("Training loss", "mean over each visit", losses, "visit", low=0.0, fences=fences))
    pulls = _lines([{epoch.task: epoch.losses.get(PULL)} for epoch in history], styles)
    if pulls:
        words = "mean over each visit; a large head weighs more"
        figures.append(_figure("Pull to the anchor (L2-SP)", words, pulls, "visit", low=0.0, fences=fences))
    known = (*MEASURES,)
    others = [
        {k: v for k, v in epoch.measures.items() if k not in known and not k.startswith(ENDS)} for epoch in history
    ]
    if any(others):
        figures.append(_figure("Other measures", "as the training noted them", _lines(others), "visit"))
    rate = _lines([{"": epoch.learning_rate} for epoch in history])
    if len(set(rate[0].y)) > 1:
        figures.append(_figure("Learning rate", "at the cycle's minimum", rate, "visit", low=0.0))
    return figures


def _figure(
    title: str,
    words: str,
    lines: Sequence[Line],
    unit: str,
    *,
    low: float | None = None,
    high: float | None = None,
    kept: int | None = None,
    fences: Sequence[float] = (),
) -> Figure:
    ends = ", ".join(f"{line.name or title} {wording.compact(line.y[-1])}" for line in lines if line.y)
    drawing = curve_figure(
        lines,
        x_title=unit,
        described=f"{title} by {unit}; at the end: {ends}",
        low=low,
        high=high,
        kept=kept,
        fences=fences,
    )
    return Figure(title, words, drawing)


def _lines(rows: Sequence[Mapping[str, float | None]], styles: Mapping[str, int] | None = None) -> list[Line]:
    """One line a name, over the rows (from 1) that have a number for it; a known name has its own style."""
    order = dict(styles or {})
    for name in (name for row in rows for name in row):
        order.setdefault(name, len(order))
    lines: list[Line] = []
    for name, style in order.items():
        points = [(float(number), row.get(name)) for number, row in enumerate(rows, 1)]
        known = [(x, y) for x, y in points if y is not None and math.isfinite(y)]
        if known:
            lines.append(Line(name=name, x=tuple(x for x, _ in known), y=tuple(y for _, y in known), style=style))
    return lines
