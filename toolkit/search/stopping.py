"""When a training is hopeless: an own rule, since Optuna's pruners know one objective only.

After an epoch a candidate is given up when both are true:
- its best slack so far is below the median that the finished candidates had at this epoch (the median rule of Golovin
  et al., Google Vizier, KDD 2017, sec. 3.2.2);
- one of them costs no more, was better at this epoch and ended better: it would dominate this one if nothing changed.

A cheap candidate is thus never stopped for being worse than dear ones: it may be the front's fast end.
"""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median

from .budget import Figure, cost_of
from .row import Cost, Row

FEWEST = 3  # finished candidates before anyone is stopped


def hopeless(curve: Sequence[float], step: str, cost: Cost | None, rows: Sequence[Row], figure: Figure) -> str:
    """Say why a training should be given up; empty where it should go on.

    Args:
        curve: its slack after each epoch so far.
        step: that is trained.
        cost: of the candidate, before its training.
        rows: all trials.
        figure: what the search makes small.
    """
    epoch, own = len(curve), max(curve, default=0.0)
    peers = [row for row in rows if row.state == "done" and len(row.curves.get(step, ())) >= epoch]
    if len(peers) < FEWEST or not curve:
        return ""
    then = {row.number: max(row.curves[step][:epoch]) for row in peers}
    middle, price = median(then.values()), None if cost is None else cost_of(cost, figure)
    if own >= middle or price is None:
        return ""
    for row in sorted(peers, key=lambda row: -(row.slack or 0.0)):
        theirs = None if row.cost is None else cost_of(row.cost, figure)
        cheaper = theirs is not None and theirs <= price
        if cheaper and then[row.number] > own and (row.slack or -1.0) > own:
            return (
                f"stopped after epoch {epoch} of {step}: slack {own:.2f}, the median was {middle:.2f} by then, "
                f"and trial {row.number} costs no more"
            )
    return ""
