"""The protocol of a proof: what will be claimed, on which cases, by which margins; written before any answer is seen.

A protocol is a plain description; its digest (SHA-256 of its canonical JSON) names it, and stands in the evidence.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from ...runtime.errors import UsageError
from ...runtime.task import Kind, Task
from .metrics import METRICS, metrics_of

FORMAT = 1
Share = Annotated[float, Meta(ge=0, le=1)]


class Rule(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """How one endpoint is judged.

    Args:
        margin: the loss that must be excluded, positive, in the metric's own units; None takes the usual one.
        primary: it counts for the verdict; otherwise it describes.
        floor: what the student must reach by itself (its own bound must lie above; below, for errors); None asks
            nothing.
    """

    margin: float | None = None
    primary: bool = True
    floor: float | None = None


class TaskRules(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """How one task is judged.

    Args:
        endpoints: by metric; one that is not named is not measured.
        critical: classes whose lost positives have a bound of their own (`critical_loss`).
        operating_point: the rule by which thresholds were or will be locked, for the reader.
        tolerance: segmentation: distance within which two surfaces agree (NSD).
        spacing: segmentation: millimetres a pixel; 0 measures in pixels.
        false_positives: detection: an image, for `sensitivity_at_fp`.
        kind: of the task, and
        classes: in order, as the bundle must have them; None and empty allow any (a protocol's file names both).
    """

    endpoints: dict[str, Rule]
    critical: tuple[str, ...] = ()
    operating_point: str = ""
    tolerance: Annotated[float, Meta(gt=0)] = 2.0
    spacing: Annotated[float, Meta(ge=0)] = 0.0
    false_positives: Annotated[float, Meta(gt=0)] = 1.0
    kind: Kind | None = None
    classes: tuple[str, ...] = ()


class Biomarker(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A number computed from a segmentation's masks, judged like a regression.

    Args:
        kind: `cardiothoracic_ratio` (widest extent of heart over that of the lungs) or `cup_disc_ratio` (vertical).
        task: the segmentation.
        inner: its classes that make the heart, or the cup.
        outer: its classes that make the lungs, or the disc (with the cup, where classes exclude each other).
        endpoints: `mae` and `bias`, with margins as ratios.
    """

    kind: Literal["cardiothoracic_ratio", "cup_disc_ratio"]
    task: str
    inner: tuple[str, ...]
    outer: tuple[str, ...]
    endpoints: dict[str, Rule] = msgspec.field(
        default_factory=lambda: {"mae": Rule(margin=0.02), "bias": Rule(margin=0.02)}
    )


class CaseRules(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """On which cases.

    Args:
        digest: of the data set (`foveola data check` prints it); empty allows any, and the evidence says so.
        split: which part of it.
        subgroups: attributes that are screened.
    """

    digest: str = ""
    split: str = "test"
    subgroups: tuple[str, ...] = ()


class Protocol(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """All that is fixed before.

    Args:
        format: of this description.
        name: of the bundle that will be proved.
        teacher: digest of the teacher; empty allows any.
        data: on which cases.
        tasks: how each is judged; a task that is not named is not proved.
        biomarkers: numbers from masks, by name.
        alpha: one-sided error of each endpoint; 0.025 gives 95 % intervals.
        power: planned.
        resamples: of the bootstrap.
        seed: of the bootstrap.
    """

    format: int = FORMAT
    name: str = ""
    teacher: str = ""
    data: CaseRules = CaseRules()
    tasks: dict[str, TaskRules]
    biomarkers: dict[str, Biomarker] = {}
    alpha: Annotated[float, Meta(gt=0, lt=0.5)] = 0.025
    power: Annotated[float, Meta(gt=0, lt=1)] = 0.8
    resamples: Annotated[int, Meta(ge=100)] = 2000
    seed: int = 0

    @property
    def digest(self) -> str:
        """SHA-256 of the canonical JSON."""
        return hashlib.sha256(msgspec.json.encode(self, order="sorted")).hexdigest()


def usual_rules(task: Task) -> TaskRules:
    """The rules of a task where nobody wrote others: the recipe's margins, the primary metrics primary."""
    pointless = {"critical_loss": not task.critical, "probe_auc": not task.classes}
    wanted = [name for name in metrics_of(task.kind) if not pointless.get(name, False)]
    return TaskRules(
        endpoints={
            name: Rule(margin=task.margins.get(name, METRICS[name].margin), primary=METRICS[name].primary)
            for name in wanted
        },
        critical=task.critical,
        operating_point=task.operating_point if task.kind in ("binary", "multilabel") else "",
    )


def task_of(name: str, rules: TaskRules) -> Task | None:
    """Give a task as its rules describe it; None where they say no kind.

    How long an embedding is they do not say: nothing that is judged depends on it, so it has the least length here.

    Raises:
        UsageError: no task can be so.
    """
    if rules.kind is None:
        return None
    return Task(name=name, kind=rules.kind, classes=rules.classes, size=2 if rules.kind == "embedding" else 0)


def usual_protocol(tasks: Sequence[Task], name: str = "") -> Protocol:
    """The protocol where nobody wrote another."""
    return Protocol(name=name, tasks={task.name: usual_rules(task) for task in tasks})


def check_protocol(protocol: Protocol, tasks: Sequence[Task], place: str = "protocol") -> None:
    """Refuse a protocol that does not fit the bundle's tasks, all faults in one line.

    Raises:
        UsageError: a task that is not in the bundle, a metric that its kind has not, a margin that is not positive, a
            class that the task has not.
    """
    kinds = {task.name: task for task in tasks}
    faults: list[str] = []
    if not 0.0 < protocol.alpha < 0.5:
        faults.append(f"alpha {protocol.alpha} is not between 0 and 0.5")
    if not 0.0 < protocol.power < 1.0:
        faults.append(f"power {protocol.power} is not between 0 and 1")
    if protocol.resamples < 100:
        faults.append(f"resamples {protocol.resamples}: at least 100")
    for name, rules in protocol.tasks.items():
        task = kinds.get(name)
        if task is None:
            faults.append(f"tasks.{name}: the bundle has no such task (it has {', '.join(kinds)})")
            continue
        for metric, rule in rules.endpoints.items():
            where = f"tasks.{name}.endpoints.{metric}"
            if metric not in metrics_of(task.kind):
                faults.append(f"{where}: {task.kind} has no such metric (it has {', '.join(metrics_of(task.kind))})")
            elif metric == "probe_auc" and not task.classes:
                faults.append(f"{where}: the embedding has no classes that a probe could read")
            elif rule.margin is not None and not rule.margin > 0:
                faults.append(f"{where}: margin {rule.margin} is not positive; a margin is the loss that is tolerated")
        faults += [
            f"tasks.{name}.critical: the task has no class {label!r}"
            for label in rules.critical
            if label not in task.classes
        ]
    for name, marker in protocol.biomarkers.items():
        task = kinds.get(marker.task)
        if task is None or task.kind != "segmentation":
            faults.append(f"biomarkers.{name}: the bundle has no segmentation {marker.task!r}")
            continue
        absent = [label for label in (*marker.inner, *marker.outer) if label not in task.classes]
        faults += [f"biomarkers.{name}: {marker.task} has no class {label!r}" for label in absent]
        faults += [
            f"biomarkers.{name}.endpoints.{metric}: margin {rule.margin} is not positive"
            for metric, rule in marker.endpoints.items()
            if rule.margin is None or not rule.margin > 0
        ]
    if faults:
        raise UsageError(place, "; ".join(faults), "mend the protocol before it is locked")
