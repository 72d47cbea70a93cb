"""A review arranged for its page: tables and pictures, drawn and written but not computed."""

from __future__ import annotations

import math
from collections.abc import Sequence

import msgspec
from markupsafe import Markup

from ...runtime.task import Task
from ..report import wording
from ..report.blocks import EMBEDDING_WORDS, KIND_WORDS
from ..teachers.measure import Measure
from .figures import Axis, axis_of, interval_axis, interval_row
from .record import Attention, Review

METRICS = {
    "ovr_auc": "macro one-vs-rest AUC",
    "miou": "mean IoU with background",
    "iou": "IoU",
    "map": "mAP, mean over IoU 0.5 to 0.95",
}


class Cell(msgspec.Struct, frozen=True):
    """One teacher's number in the table of main metrics."""

    value: str
    interval: str
    noted: bool


class MainRow(msgspec.Struct, frozen=True):
    """One task's main metric of all teachers."""

    task: str
    kind: str
    metric: str
    count: str
    cells: tuple[Cell | None, ...]


class MetricRow(msgspec.Struct, frozen=True):
    """One metric of one teacher as a line with its drawing."""

    new: bool  # the first line of its metric
    title: str
    label: str
    teacher: str
    value: str
    interval: str
    count: str
    note: str
    plot: Markup


class MetricTable(msgspec.Struct, frozen=True):
    """Lines that share one axis."""

    axis: Markup
    ground: Markup  # a row without an interval
    rows: tuple[MetricRow, ...]


class TaskBlock(msgspec.Struct, frozen=True):
    """All metrics of one task."""

    name: str
    kind: str
    facts: tuple[tuple[str, str], ...]
    whole: MetricTable
    labels: MetricTable | None
    methods: tuple[str, ...]


class Look(msgspec.Struct, frozen=True):
    """An attention picture with its words."""

    attention: Attention
    probability: str
    threshold: str
    png: bytes


class LookBlock(msgspec.Struct, frozen=True):
    """The pictures of one task, teacher by teacher."""

    task: str
    kind: str
    teachers: tuple[tuple[str, tuple[Look, ...]], ...]


def main_rows(review: Review) -> list[MainRow]:
    """The table that is read first: tasks down, teachers across."""
    rows = []
    for task in review.tasks:
        keys = dict.fromkeys(m.label for one in review.teachers for m in one.measures if m.task == task.name and m.main)
        for label in keys:
            cells, found = [], None
            for teacher in review.teachers:
                measure = next(
                    (m for m in teacher.measures if m.task == task.name and m.main and m.label == label), None
                )
                found = found or measure
                cells.append(None if measure is None else _cell(measure))
            assert found is not None
            rows.append(
                MainRow(
                    task.name, KIND_WORDS[task.kind], _title(found, task, whole=True), _count(found, task), tuple(cells)
                )
            )
    return rows


def main_notes(review: Review) -> list[str]:
    """What must be known of the main metrics and of the teachers; teachers of whom the same is said share a line."""
    said: dict[str, list[str]] = {}
    for teacher in review.teachers:
        for measure in teacher.measures:
            if measure.main and measure.note:
                said.setdefault(f"{' '.join(filter(None, (measure.task, measure.label)))}: {measure.note}", []).append(
                    teacher.name
                )
        for note in teacher.notes:
            said.setdefault(note, []).append(teacher.name)
    return [f"{note} ({wording.listed(names)})" for note, names in said.items()]


def task_blocks(review: Review) -> list[TaskBlock]:
    """Every metric of every task, the teachers of one metric beneath each other."""
    return [_task_block(task, review) for task in review.tasks]


def _task_block(task: Task, review: Review) -> TaskBlock:
    named = [(one.name, m) for one in review.teachers for m in one.measures if m.task == task.name]
    keys = list(dict.fromkeys((m.metric, m.label) for _, m in named))
    ordered = [pair for key in keys for pair in named if (pair[1].metric, pair[1].label) == key]
    whole = [pair for pair in ordered if not pair[1].label or pair[1].main]
    labels = [pair for pair in ordered if pair not in whole]
    facts = [("classes", wording.listed(task.classes))] if task.classes else []
    if task.kind == "embedding":
        facts.append(("how to read it", EMBEDDING_WORDS))
    facts.append(("answered by", wording.listed(list(dict(named)))))
    methods: dict[str, list[str]] = {}
    for metric in dict.fromkeys((m.metric, m.method) for _, m in whole):
        measure = next(m for _, m in whole if (m.metric, m.method) == metric)
        methods.setdefault(measure.method, []).append(_title(measure, task))
    return TaskBlock(
        name=task.name,
        kind=KIND_WORDS[task.kind],
        facts=tuple(facts),
        whole=_table(whole, task),
        labels=_table(labels, task) if labels else None,
        methods=tuple(f"{wording.listed(titles)}: {method}" for method, titles in methods.items()),
    )


def _table(named: Sequence[tuple[str, Measure]], task: Task) -> MetricTable:
    ends = [value for _, m in named for value in (m.value, m.low, m.high) if value is not None]
    axis = axis_of(ends)
    rows, before = [], None
    for teacher, measure in named:
        key = (measure.metric, measure.label)
        rows.append(_metric_row(teacher, measure, task, axis, new=key != before))
        before = key
    return MetricTable(interval_axis(axis), interval_row(None, None, None, axis), tuple(rows))


def _metric_row(teacher: str, measure: Measure, task: Task, axis: Axis, *, new: bool) -> MetricRow:
    cell = _cell(measure)
    return MetricRow(
        new=new,
        title=_title(measure, task),
        label=measure.label,
        teacher=teacher,
        value=cell.value,
        interval=cell.interval,
        count=_count(measure, task),
        note=measure.note,
        plot=interval_row(measure.value, measure.low, measure.high, axis),
    )


def _cell(measure: Measure) -> Cell:
    count = _decimals(measure)
    known = measure.low is not None and measure.high is not None
    interval = f"{wording.number(measure.low, count)} to {wording.number(measure.high, count)}" if known else ""
    return Cell(wording.number(measure.value, count), interval, bool(measure.note))


def _decimals(measure: Measure) -> int:
    """Three, or three significant figures where there is a unit."""
    if measure.metric != "mae" or not measure.value:
        return 3
    return min(max(2 - math.floor(math.log10(abs(measure.value))), 0), wording.MOST_DIGITS)


def _title(measure: Measure, task: Task, *, whole: bool = False) -> str:
    """Name a metric; an average over one structure is none."""
    name = METRICS.get(measure.metric)
    if name is None:
        averaged = len(task.classes) > 1 and not measure.label
        kind = task.kind if averaged or measure.metric == "map50" else None
        name = wording.metric_name(measure.metric, kind, measure.label)
    if measure.metric == "mae" and task.unit:
        name = f"{name}, {task.unit}"
    if measure.label and whole:
        return f"{measure.label}: {name}"
    return name if measure.label or name.startswith("mAP") else name[:1].upper() + name[1:]


def _count(measure: Measure, task: Task) -> str:
    text = f"{wording.thousands(measure.cases)} cases of {wording.thousands(measure.patients)} patients"
    if measure.positives is None:
        return text
    what = "boxes" if measure.metric.startswith("map") else "positive"
    if task.kind == "multilabel" and not measure.label:
        what = "positive labels"
    return f"{text}, {wording.thousands(measure.positives)} {what}"


def look_blocks(review: Review, pngs: Sequence[bytes]) -> list[LookBlock]:
    """Attention pictures, task by task; the teachers of one task beneath each other."""
    kinds = {task.name: KIND_WORDS[task.kind] for task in review.tasks}
    looks = [
        Look(
            one,
            wording.number(one.probability),
            "" if one.threshold is None else wording.number(one.threshold),
            png,
        )
        for one, png in zip(review.attention, pngs, strict=True)
    ]
    blocks = []
    for task in dict.fromkeys(look.attention.task for look in looks):
        own = [look for look in looks if look.attention.task == task]
        teachers = dict.fromkeys(look.attention.teacher for look in own)
        by_teacher = tuple((name, tuple(look for look in own if look.attention.teacher == name)) for name in teachers)
        blocks.append(LookBlock(task, kinds.get(task, ""), by_teacher))
    return blocks
