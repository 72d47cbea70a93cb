"""What stands beside the endpoints of a proof and judges nothing: operating points, and drift of images and scores."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import msgspec
import numpy as np

from ...runtime.bundle import Bundle
from ...runtime.manifest import Manifest
from ...runtime.predict import Predictor
from ...runtime.task import Task
from ..data.dataset import Dataset
from ..parity.cases import Answers, Cases
from ..parity.drift import drifts
from ..parity.evidence import Drift, Transfer
from ..parity.prove import Beside
from ..parity.transfer import carried_over, check_apart, transfers
from .collect import Gathered, cases_of, collect, references_of
from .predictions import bundle_predictions

LOCKED_ON = "val"  # where `export` locks the thresholds that ship


class Other(msgspec.Struct, frozen=True, kw_only=True):
    """Cases that are not of the proof."""

    cases: Dataset
    split: str


def stand_beside(
    tasks: Sequence[Task],
    shown: Cases,
    gathered: Gathered,
    bundle: Bundle,
    predictors: Mapping[str, Predictor],
    other: Other | None,
) -> Beside:
    """Compare thresholds, and these cases with those that the bundle was made with.

    Args:
        tasks: those that were asked.
        shown: in the order of all answers; an image that is there twice counts once.
        gathered: what everybody said.
        bundle: without histograms in it nothing is said of drift.
        predictors: of the bundle, by engine.
        other: cases on which thresholds are fitted again.

    Raises:
        FoveolaError: a patient or image of the proof is among the other cases.
    """
    told = "" if bundle.manifest.reference else "the bundle brings no histograms, so nothing is said of drift"
    decided = [task for task in tasks if task.kind in ("binary", "multilabel")]
    if other is not None:
        check_apart(shown, cases_of(other.cases), f"split {other.split!r}")
    return Beside(
        transfers=tuple(_transfers(decided, gathered, predictors, other)),
        drifts=tuple(_drifts(tasks, shown, gathered, bundle.manifest)),
        notes=(told,) if told else (),
    )


def _transfers(
    tasks: Sequence[Task], gathered: Gathered, predictors: Mapping[str, Predictor], other: Other | None
) -> Iterator[Transfer]:
    """Yield the teacher's thresholds beside the bundle's, then the bundle's beside some that were fitted again."""
    for engine, student in gathered.students.items():
        for task in tasks:
            yield from carried_over(engine, task, (gathered.references, student), gathered.teacher, LOCKED_ON)
        if other is None or not tasks:
            continue
        elsewhere = references_of(other.cases), _answers(tasks, other.cases, predictors[engine], student)
        for task in tasks:
            yield from transfers(
                engine, task, task.operating_point, (gathered.references, student), elsewhere, other.split
            )


def _answers(tasks: Sequence[Task], cases: Dataset, predictor: Predictor, student: Answers) -> Answers:
    return collect(tasks, cases, bundle_predictions(predictor, cases), student.thresholds)


def _drifts(tasks: Sequence[Task], shown: Cases, gathered: Gathered, manifest: Manifest) -> Iterator[Drift]:
    before = manifest.reference
    if before is None:
        return
    first = np.unique(np.asarray(shown.images, dtype=str), return_index=True)[1]
    patients = len(set(shown.patients))
    names = {task.name for task in tasks}
    for engine, seen in gathered.seen.items():
        known = {name: one for name, one in before.answers.items() if name.partition("/")[0] in names}
        yield from drifts(
            engine,
            known if engine else before.inputs,
            {name: values[first] for name, values in seen.items()},
            prefix="score" if engine else "input",
            patients=patients,
            reference_patients=before.patients,
        )
