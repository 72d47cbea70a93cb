"""What compression forgets, arranged for the report: rare labels first, subgroups, and how many of them are flagged.

for table in label_tables(evidence):
    table.rows  # the rarest label first, each on all engines
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
from markupsafe import Markup

from ..parity.evidence import Evidence, Subgroup
from ..parity.subgroups import LABEL, TWICE, Forgetting, forgetting, frequency
from . import figures, wording


class Cell(msgspec.Struct, frozen=True):
    """One group on one engine."""

    engine: str
    difference: str
    interval: str
    holm: str
    flag: str  # why it is flagged; empty if it is not
    plot: Markup


class Line(msgspec.Struct, frozen=True):
    """One group or label on all engines."""

    attribute: str
    value: str
    count: str  # of cases; of positives, for a label
    patients: str
    few: bool
    cells: tuple[Cell, ...]


class Table(msgspec.Struct, frozen=True):
    """All groups, or all labels, of one task."""

    task: str
    metric: str
    engines: tuple[str, ...]
    axis: Markup
    counted: str  # what `Line.count` counts
    rows: tuple[Line, ...]
    correlations: tuple[tuple[str, str], ...] = ()  # engine, Spearman's rank correlation

    @property
    def flagged(self) -> int:
        """How many rows are flagged on some engine."""
        return sum(any(cell.flag for cell in row.cells) for row in self.rows)


def label_tables(evidence: Evidence) -> list[Table]:
    """Give the change by label frequency, the rarest label first, of each task with several labels."""
    tables: list[Table] = []
    found = forgetting(evidence)
    for task in dict.fromkeys(one.task for one in found):
        mine = [one for one in found if one.task == task]
        groups = [group for group in evidence.subgroups if group.task == task and group.attribute == LABEL]
        tables.append(
            msgspec.structs.replace(
                _table(groups, evidence.alpha, [(LABEL, row.label) for row in mine[0].rows], _positives(mine)),
                correlations=tuple(
                    (one.engine, wording.signed(one.correlation, 2)) for one in mine if one.correlation is not None
                ),
            )
        )
    return tables


def group_tables(evidence: Evidence) -> list[Table]:
    """Give the subgroups of each task, and of each measure where it has several, in the order of the proof."""
    groups = [group for group in evidence.subgroups if group.attribute != LABEL]
    tables: list[Table] = []
    for task, label in dict.fromkeys((group.task, group.label) for group in groups):
        same = [group for group in groups if (group.task, group.label) == (task, label)]
        tables.append(_table(same, evidence.alpha, list(dict.fromkeys((g.attribute, g.value) for g in same)), {}))
    return tables


def _positives(found: Sequence[Forgetting]) -> dict[str, int]:
    """Give the positives of each label; nothing where they are not counted, as for masks."""
    return {row.label: frequency(row) for one in found for row in one.rows if row.positives is not None}


def _table(
    groups: Sequence[Subgroup], alpha: float, order: Sequence[tuple[str, str]], positives: dict[str, int]
) -> Table:
    scale = figures.group_scale(groups)
    first = groups[0]
    engines = tuple(dict.fromkeys(group.engine for group in groups))
    rows: list[Line] = []
    for attribute, value in order:
        same = {g.engine: g for g in groups if (g.attribute, g.value) == (attribute, value)}
        count = positives.get(value, max(group.cases for group in same.values()))
        rows.append(
            Line(
                attribute=attribute,
                value=value,
                count=wording.thousands(count),
                patients=wording.thousands(max(group.patients for group in same.values())),
                few=any(group.few for group in same.values()),
                cells=tuple(_cell(engine, same.get(engine), alpha, scale) for engine in engines),
            )
        )
    name = wording.metric_name(first.metric, None)
    return Table(
        task=f"{first.task} {first.label}".strip(),
        metric=name,
        engines=engines,
        axis=figures.forest_axis(scale),
        counted="Positives" if positives else "Cases",
        rows=tuple(rows),
    )


def _cell(engine: str, group: Subgroup | None, alpha: float, scale: figures.Scale) -> Cell:
    if group is None:
        return Cell(engine, wording.NOTHING, "", wording.NOTHING, "", Markup(""))
    count = wording.digits_of(group.metric, group.margin)
    return Cell(
        engine=engine,
        difference=wording.signed(group.difference, count),
        interval=wording.span(group.low, group.high, count),
        holm=wording.p_value(group.holm),
        flag=_flag(group, alpha),
        plot=figures.group_row(group, scale),
    )


def _flag(group: Subgroup, alpha: float) -> str:
    """Say why a group is flagged."""
    if not group.flagged:
        return ""
    return "beyond chance" if group.holm is not None and group.holm < 2 * alpha else f"{TWICE:g} margins"
