"""`foveola protocol power`: protocol, manifest and the teacher's stored answers in; what each endpoint needs out."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from ...runtime.errors import FoveolaError
from ..parity.cases import Answers, Cases, References
from ..parity.power import CORRELATIONS, Planned, foresee, joint_power, plan_one
from ..parity.protocol import Protocol
from .check import check_fit
from .file import look_at
from .new import Origin, check_data, read_named
from .origin import find_origin

if TYPE_CHECKING:
    from ..data.dataset import Dataset
    from ..proof.kept_answers import StoredAnswers


class Plans(msgspec.Struct, frozen=True, kw_only=True):
    """A plan for the correlation that was asked for, and for others.

    Args:
        asked: one row an endpoint.
        joint: power of all that count together, as if they were independent; None where one is not known.
        others: the same rows by correlation.
        left_out: cases of the split for which the teacher stored no answer.
    """

    asked: tuple[Planned, ...]
    joint: float | None
    others: dict[float, tuple[Planned, ...]]
    left_out: int


def plan_files(
    file: Path,
    data: Path,
    answers: Path,
    *,
    origin: str | None = None,
    correlation: float,
    discordance: float | None = None,
    split: str | None = None,
) -> Plans:
    """Plan a protocol, locked or not yet.

    Args:
        file: the protocol.
        data: manifest, or its folder.
        answers: the teacher's, stored.
        origin: bundle or recipe, which names the manifest's columns; None: they are named as tasks or classes are.
        correlation: of teacher and student.
        discordance: share of decisions that will differ, where it is known.
        split: whose cases to plan from; None: the protocol's.

    Raises:
        FoveolaError: one of the files is wrong, or they do not fit together.
    """
    from ..proof.collect import collect
    from ..proof.stored_answers import read_answers

    protocol, stored = look_at(file).protocol, read_answers(answers)
    if protocol.teacher and protocol.teacher != stored.meta.teacher:
        fault = f"answers of the teacher {stored.meta.teacher[:12]}, the protocol is for {protocol.teacher[:12]}"
        raise FoveolaError(str(answers), fault, "give the answers of the protocol's teacher")
    found = find_origin(origin) if origin else Origin(name=protocol.name, tasks=stored.meta.tasks)
    check_fit(protocol, found.plain_tasks, str(file))
    dataset = read_named(found, data, protocol.data.subgroups)
    if split is None:
        check_data(protocol, dataset, str(file))
    cases = dataset.subset(split or protocol.data.split)
    kept = answered(cases, stored, str(answers))
    tasks = [task for task in kept.tasks if task.name in protocol.tasks]
    predictions = (stored.prediction(stored.places[sample.sha256]) for sample in kept.samples)
    return plan_cases(
        protocol,
        kept,
        collect(tasks, kept, predictions, stored.meta.thresholds, protocol=_without_markers(protocol)),
        correlation=correlation,
        discordance=discordance,
        left_out=len(cases) - len(kept),
    )


def plan_cases(
    protocol: Protocol,
    cases: Dataset,
    answers: Answers,
    *,
    correlation: float,
    discordance: float | None = None,
    left_out: int = 0,
) -> Plans:
    """Plan from cases and the teacher's answers to them, in one order."""
    named = [task for task in cases.tasks if task.name in protocol.tasks]
    material = Cases(
        keys=tuple(sample.key for sample in cases.samples),
        patients=tuple(sample.patient for sample in cases.samples),
        images=tuple(sample.sha256 for sample in cases.samples),
    )
    references = References(scores=dict(cases.scalars), boxes=dict(cases.boxes))
    foreseen = foresee(named, material, references, answers, _without_markers(protocol))

    def at(assumed: float) -> tuple[Planned, ...]:
        return tuple(plan_one(one, protocol, assumed, discordance=discordance) for one in foreseen)

    asked = at(correlation)
    return Plans(
        asked=asked, joint=joint_power(asked), others={one: at(one) for one in CORRELATIONS}, left_out=left_out
    )


def answered(cases: Dataset, stored: StoredAnswers, place: str) -> Dataset:
    """Choose the cases for which the file holds an answer, or says that the teacher gave none.

    Args:
        cases: of one split.
        stored: the teacher's answers.
        place: their name in faults.

    Raises:
        FoveolaError: there is an answer to none of the cases.
    """
    kept = [n for n, sample in enumerate(cases.samples) if sample.sha256 in stored.places]
    if not kept:
        mend = "give the answers to the images of this manifest"
        raise FoveolaError(place, f"there is an answer to none of the {len(cases)} cases", mend)
    return cases.take(kept)


def _without_markers(protocol: Protocol) -> Protocol:
    """Biomarkers are not planned: those of the reference would take all its masks."""
    return msgspec.structs.replace(protocol, biomarkers={})
