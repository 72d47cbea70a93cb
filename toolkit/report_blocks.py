"""A proof arranged task by task for the report: rows, curves and subgroups, drawn and written but not computed.

for block in blocks_of(evidence, manifest, scale, ("teacher", "onnxruntime")):
    block.primary  # the lines of the forest plot
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
from markupsafe import Markup

from ..runtime.manifest import Manifest, TaskOutput
from ..runtime.task import Kind, Task
from . import figures, wording
from .parity.evidence import Curve, Endpoint, Evidence, Subgroup

PANELS_SHOWN = 4  # labels of a task whose curves are not folded away
FEW_CASES = 20  # a subgroup below this is marked as too small to read

KIND_WORDS: dict[Kind, str] = {
    "binary": "binary classification",
    "multilabel": "multilabel classification",
    "multiclass": "multiclass classification",
    "ordinal": "ordinal grading",
    "regression": "regression",
    "segmentation": "segmentation",
    "detection": "detection",
}


class Row(msgspec.Struct, frozen=True):
    """An endpoint as a line of the forest plot."""

    endpoint: Endpoint
    title: str
    teacher: str
    student: str
    difference: str
    interval: str
    margin: str
    count: str  # of cases
    plot: Markup


class Panel(msgspec.Struct, frozen=True):
    """The curves of one label."""

    label: str
    roc: Markup | None
    calibration: Markup | None


class Stratum(msgspec.Struct, frozen=True):
    """One subgroup on all engines."""

    attribute: str
    value: str
    cases: int
    few: bool
    differences: tuple[tuple[str, str, Markup], ...]  # engine, number, drawing


class Block(msgspec.Struct, frozen=True):
    """All that the report knows about one task."""

    name: str
    kind: str
    facts: tuple[tuple[str, str], ...]
    primary: tuple[Row, ...]
    others: tuple[Row, ...]
    axis: Markup  # of `others`
    panels: tuple[Panel, ...]
    more_panels: tuple[Panel, ...]
    strata: tuple[Stratum, ...]


def blocks_of(evidence: Evidence, manifest: Manifest, scale: figures.Scale, series: Sequence[str]) -> list[Block]:
    """Arrange a proof task by task.

    Args:
        evidence: the proof.
        manifest: of the bundle; a task that it does not know is shown without its classes.
        scale: the axis of the primary endpoints, common to all tasks.
        series: `teacher`, then the engines: the order that decides line and colour of each curve.
    """
    outputs = {output.task.name: output for output in manifest.outputs}
    names = dict.fromkeys(endpoint.task for endpoint in evidence.endpoints)
    return [_block(name, evidence, outputs.get(name), scale, series) for name in names]


def _block(
    name: str, evidence: Evidence, output: TaskOutput | None, scale: figures.Scale, series: Sequence[str]
) -> Block:
    endpoints = wording.in_reading_order([endpoint for endpoint in evidence.endpoints if endpoint.task == name])
    task = output.task if output else None
    others = [endpoint for endpoint in endpoints if not endpoint.primary]
    wide = figures.forest_scale(others)
    panels = _panels(name, evidence, endpoints, series)
    return Block(
        name=name,
        kind=KIND_WORDS[task.kind] if task else "",
        facts=_facts(output, endpoints),
        primary=tuple(_row(endpoint, task, scale) for endpoint in endpoints if endpoint.primary),
        others=tuple(_row(endpoint, task, wide) for endpoint in others),
        axis=figures.forest_axis(wide),
        panels=panels[:PANELS_SHOWN],
        more_panels=panels[PANELS_SHOWN:],
        strata=_strata([group for group in evidence.subgroups if group.task == name], _judged(endpoints, task)),
    )


def _row(endpoint: Endpoint, task: Task | None, scale: figures.Scale) -> Row:
    count = wording.digits(endpoint)
    name = wording.metric_name(endpoint.metric, task.kind if task else None, endpoint.label)
    if endpoint.metric == "mae" and task and task.unit:
        name = f"{name}, {task.unit}"
    fine = wording.bound_digits(endpoint)
    known = endpoint.low is not None and endpoint.high is not None
    return Row(
        endpoint=endpoint,
        title=name if endpoint.label or name.startswith("mAP") else name[:1].upper() + name[1:],
        teacher=wording.number(endpoint.teacher, count),
        student=wording.number(endpoint.student, count),
        difference=wording.signed(endpoint.difference, count),
        interval=f"{wording.signed(endpoint.low, fine)} to {wording.signed(endpoint.high, count)}" if known else "",
        margin=wording.number(endpoint.margin, fine),
        count=_count(endpoint, task),
        plot=figures.forest_row(endpoint, scale),
    )


def _count(endpoint: Endpoint, task: Task | None) -> str:
    """Cases and, where they are of one label, positives among them."""
    text = f"{wording.thousands(endpoint.cases)} cases"
    one_label = endpoint.label or (task is not None and task.kind == "binary")
    return (
        f"{text}, {wording.thousands(endpoint.positives)} positive"
        if one_label and endpoint.positives is not None
        else text
    )


def _facts(output: TaskOutput | None, endpoints: Sequence[Endpoint]) -> tuple[tuple[str, str], ...]:
    """Collect what a reader must know of a task before its numbers."""
    cases = sorted({endpoint.cases for endpoint in endpoints if endpoint.primary})
    patients = sorted({endpoint.patients for endpoint in endpoints if endpoint.primary})
    facts = [("cases", _range(cases)), ("patients", _range(patients))]
    if output is None:
        return tuple(facts)
    task = output.task
    facts.append(("classes", wording.listed(task.classes)))
    if output.thresholds:
        positives = task.classes[1:] if task.kind == "binary" else task.classes
        pairs = zip(positives, output.thresholds, strict=True)
        facts.append(("locked thresholds", ", ".join(f"{label} {wording.number(value)}" for label, value in pairs)))
    return tuple(facts)


def _range(values: Sequence[int]) -> str:
    ends = dict.fromkeys(wording.thousands(value) for value in (*values[:1], *values[-1:]))
    return " to ".join(ends) or "0"


def _panels(name: str, evidence: Evidence, endpoints: Sequence[Endpoint], series: Sequence[str]) -> tuple[Panel, ...]:
    curves = [curve for curve in evidence.curves if curve.task == name and curve.x]
    labels = list(dict.fromkeys(curve.label for curve in curves))
    panels: list[Panel] = []
    for label in labels:
        # The endpoints of a binary task have no label, its curves bear the positive class.
        named = {label, ""} if len(labels) == 1 else {label}
        points = _operating_points([endpoint for endpoint in endpoints if endpoint.label in named])
        panels.append(_panel(label, [curve for curve in curves if curve.label == label], points, series))
    return tuple(panels)


def _panel(label: str, curves: Sequence[Curve], points: Sequence[figures.Point], series: Sequence[str]) -> Panel:
    roc = [curve for curve in curves if curve.kind == "roc"]
    calibration = [curve for curve in curves if curve.kind == "calibration"]
    return Panel(
        label=label,
        roc=figures.roc_figure(roc, points, series) if roc else None,
        calibration=figures.calibration_figure(calibration, series) if calibration else None,
    )


def _operating_points(endpoints: Sequence[Endpoint]) -> list[figures.Point]:
    """Where the locked thresholds lie on the ROC curves of one label, teacher first."""
    values = {(e.engine, e.metric): e for e in endpoints}
    points: list[figures.Point] = []
    for engine in dict.fromkeys(e.engine for e in endpoints):
        sensitivity, specificity = values.get((engine, "sensitivity")), values.get((engine, "specificity"))
        if sensitivity is None or specificity is None:
            continue
        if not points and sensitivity.teacher is not None and specificity.teacher is not None:
            points.append(figures.Point(figures.TEACHER, 1 - specificity.teacher, sensitivity.teacher))
        if sensitivity.student is not None and specificity.student is not None:
            points.append(figures.Point(engine, 1 - specificity.student, sensitivity.student))
    return points


def _judged(endpoints: Sequence[Endpoint], task: Task | None) -> Endpoint | None:
    """Find the endpoint whose metric the subgroups describe."""
    primary = [endpoint for endpoint in endpoints if endpoint.primary]
    wanted = [endpoint for endpoint in primary if task is None or endpoint.metric == task.metric]
    return next(iter(wanted or primary), None)


def _strata(groups: Sequence[Subgroup], judged: Endpoint | None) -> tuple[Stratum, ...]:
    if judged is None or judged.margin <= 0:
        return ()
    count = wording.digits(judged)
    scale = figures.scale_of([g.difference / judged.margin for g in groups if g.difference is not None], ())
    strata: list[Stratum] = []
    for attribute, value in dict.fromkeys((group.attribute, group.value) for group in groups):
        same = [group for group in groups if (group.attribute, group.value) == (attribute, value)]
        drawn = tuple(
            (g.engine, wording.signed(g.difference, count), figures.difference_row(g.difference, judged.margin, scale))
            for g in same
        )
        cases = max(group.cases for group in same)
        strata.append(Stratum(attribute, value, cases, cases < FEW_CASES, drawn))
    return tuple(strata)
