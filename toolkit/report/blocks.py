"""A proof arranged task by task for the report: rows and curves, drawn and written but not computed.

for block in blocks_of(evidence, manifest, scales_of(evidence), ("teacher", "onnxruntime")):
    block.primary  # the lines of the forest plot
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
from markupsafe import Markup

from ...runtime.manifest import Manifest, TaskOutput
from ...runtime.task import Kind, Task
from ..parity.evidence import Curve, Endpoint, Evidence
from . import figures, wording

PANELS_SHOWN = 4  # labels of a task whose curves are not folded away

KIND_WORDS: dict[Kind, str] = {
    "binary": "binary classification",
    "multilabel": "multilabel classification",
    "multiclass": "multiclass classification",
    "ordinal": "ordinal grading",
    "regression": "regression",
    "segmentation": "segmentation",
    "detection": "detection",
    "embedding": "embedding",
}
# What the numbers of an embedding mean to somebody who treats patients.
EMBEDDING_WORDS = (
    "an embedding is a list of numbers by which images are compared: images that resemble each other lie close. Pair "
    "percentile: of all images of other patients, the share that lies farther than the patient's own other image (1 "
    "perfect, 0.5 chance). Nearest image: how often the very nearest one is of the same patient. AUC of a probe: how "
    "well a condition can be read from the numbers by a simple rule that was fitted on other patients"
)


class Row(msgspec.Struct, frozen=True):
    """An endpoint as a line of the forest plot."""

    endpoint: Endpoint
    title: str
    teacher: str
    student: str
    difference: str
    interval: str
    limits: str  # of agreement
    resampled: str  # the plain bootstrap's interval
    margin: str
    floor: str
    provable: str  # the smallest margin that these cases could prove
    needed: str  # cases
    count: str  # of cases
    plot: Markup


class Panel(msgspec.Struct, frozen=True):
    """The curves of one label."""

    label: str
    drawings: tuple[Markup, ...]


class Block(msgspec.Struct, frozen=True):
    """All that the report knows about one task."""

    name: str
    kind: str
    facts: tuple[tuple[str, str], ...]
    primary: tuple[Row, ...]
    secondary: tuple[Row, ...]  # of the whole task, or of a measure
    labels: tuple[Row, ...]
    axis: Markup  # of `labels`
    panels: tuple[Panel, ...]
    more_panels: tuple[Panel, ...]


class Scales(msgspec.Struct, frozen=True):
    """The axes that all tasks have in common."""

    primary: figures.Scale
    secondary: figures.Scale


def scales_of(evidence: Evidence) -> Scales:
    """Choose the axes of the primary and of the secondary endpoints."""
    primary = [endpoint for endpoint in evidence.endpoints if endpoint.primary]
    secondary = [endpoint for endpoint in evidence.endpoints if not endpoint.primary and not endpoint.label]
    return Scales(figures.forest_scale(primary), figures.forest_scale(secondary))


def blocks_of(evidence: Evidence, manifest: Manifest, scales: Scales, series: Sequence[str]) -> list[Block]:
    """Arrange a proof task by task.

    Args:
        evidence: the proof.
        manifest: of the bundle; a task that it does not know is shown without its classes.
        scales: the axes common to all tasks.
        series: `teacher`, then the engines: the order that decides line and colour of each curve.
    """
    outputs = {output.task.name: output for output in manifest.outputs}
    names = dict.fromkeys(endpoint.task for endpoint in evidence.endpoints)
    return [_block(name, evidence, outputs.get(name), scales, series) for name in names]


def _block(name: str, evidence: Evidence, output: TaskOutput | None, scales: Scales, series: Sequence[str]) -> Block:
    endpoints = wording.in_reading_order([endpoint for endpoint in evidence.endpoints if endpoint.task == name])
    task = output.task if output else None
    secondary = [endpoint for endpoint in endpoints if not endpoint.primary and _is_whole(endpoint, task)]
    labels = [endpoint for endpoint in endpoints if not endpoint.primary and not _is_whole(endpoint, task)]
    wide = figures.forest_scale(labels)
    panels = _panels(name, evidence, endpoints, series)
    return Block(
        name=name,
        kind=KIND_WORDS[task.kind] if task else "",
        facts=_facts(output, endpoints),
        primary=tuple(_row(endpoint, task, scales.primary) for endpoint in endpoints if endpoint.primary),
        secondary=tuple(_row(endpoint, task, scales.secondary) for endpoint in secondary),
        labels=tuple(_row(endpoint, task, wide) for endpoint in labels),
        axis=figures.forest_axis(wide),
        panels=panels[:PANELS_SHOWN],
        more_panels=panels[PANELS_SHOWN:],
    )


def _is_whole(endpoint: Endpoint, task: Task | None) -> bool:
    """Whether a row is of the whole task; a measure of several is not a label among others."""
    return not endpoint.label or (task is not None and task.kind == "regression")


def _row(endpoint: Endpoint, task: Task | None, scale: figures.Scale) -> Row:
    count = wording.digits(endpoint)
    name = wording.metric_name(endpoint.metric, task.kind if task else None, endpoint.label)
    if endpoint.metric in ("mae", "bias") and task and task.unit:
        name = f"{name}, {task.unit}"
    fine = wording.bound_digits(endpoint)
    limits = wording.span(*endpoint.limits, count) if endpoint.limits else ""
    resampled = wording.span(*endpoint.resampled, count) if endpoint.resampled else ""
    return Row(
        endpoint=endpoint,
        title=name if endpoint.label else wording.title(name),
        teacher=wording.number(endpoint.teacher, count),
        student=wording.number(endpoint.student, count),
        difference=wording.signed(endpoint.difference, count),
        interval=wording.span(endpoint.low, endpoint.high, count, fine),
        limits=limits,
        resampled=resampled,
        margin=wording.number(endpoint.margin, fine),
        floor="" if endpoint.floor is None else wording.number(endpoint.floor, count),
        provable=wording.number(endpoint.provable_margin, fine),
        needed="" if endpoint.needed_cases is None else wording.thousands(endpoint.needed_cases),
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
    if task.kind == "embedding":
        facts += [("numbers", wording.thousands(task.size)), ("how to read it", EMBEDDING_WORDS)]
    if task.classes:
        facts.append(("conditions probed" if task.kind == "embedding" else "classes", wording.listed(task.classes)))
    if task.critical:
        facts.append(("critical", wording.listed(task.critical)))
    if output.thresholds:
        positives = task.classes[1:] if task.kind == "binary" else task.classes
        pairs = zip(positives, output.thresholds, strict=True)
        facts.append(("locked thresholds", ", ".join(f"{label} {wording.number(value)}" for label, value in pairs)))
    if output.temperature != 1.0:
        facts.append(("temperature", f"{output.temperature:.4g}"))
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
    drawn: list[Markup] = []
    for kind in ("roc", "calibration", "froc"):
        same = [curve for curve in curves if curve.kind == kind]
        match kind if same else "":
            case "roc":
                drawn.append(figures.roc_figure(same, points, series))
            case "calibration":
                drawn.append(figures.calibration_figure(same, series))
            case "froc":
                drawn.append(figures.froc_figure(same, series))
            case _:
                pass
    return Panel(label, tuple(drawn))


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
