"""Who, which modality, which visit, which side and when: the records of a pretraining, read from attributes.

- A record is (patient, visit, modality, side, picture, measures, time); any modality, visit, time or measure may be
  missing, and a patient with one modality alone still teaches measures and reconstruction.
- What a loss needs and no patient has is refused before any training (`check_records`).
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from datetime import date

import msgspec
import numpy as np
from numpy.typing import NDArray

from ....runtime.errors import FoveolaError, UsageError
from ....runtime.task import Task
from ...data.dataset import Dataset, Sample
from ...data.faults import Faults, did_you_mean
from .knobs import Aims, Roles

DAYS = 365.25  # a year
NO_SIDE = -1


class Scans(msgspec.Struct, frozen=True, kw_only=True, eq=False):
    """All pictures of one modality, N in the order of the data set.

    Args:
        dataset: the pictures and their targets.
        subject: (N,) number of the patient, the same in every modality.
        visit: (N,) number of the visit, the same text the same number.
        years: (N,) time in years; NaN where it is not known.
        turn: (N,) by which visits are ordered where years are not known: the visit's own number; NaN where it has none.
        side: (N,) number of the side; -1 where it is not known.
    """

    dataset: Dataset
    subject: NDArray[np.int64]
    visit: NDArray[np.int64]
    years: NDArray[np.float64]
    turn: NDArray[np.float64]
    side: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.subject)


class Records(msgspec.Struct, frozen=True, kw_only=True, eq=False):
    """All pictures, by modality.

    Args:
        patients: their names; a subject's number is its place here.
        visits: texts of the visits, by number.
        sides: names of the sides, by number.
        scans: by modality, in the order of the encoders.
    """

    patients: tuple[str, ...]
    visits: tuple[str, ...]
    sides: tuple[str, ...]
    scans: dict[str, Scans]

    def subset(self, *splits: str) -> Records:
        """The pictures of these splits; subjects without any keep their number."""
        return msgspec.structs.replace(self, scans={name: _of(scans, splits) for name, scans in self.scans.items()})

    def counted(self) -> str:
        """How many pictures and patients each modality has, in words."""
        return "; ".join(
            f"{name}: {len(scans)} pictures of {len(np.unique(scans.subject))} patients"
            for name, scans in self.scans.items()
        )


def read_records(dataset: Dataset, modalities: Collection[str], roles: Roles) -> Records:
    """Read who, when and what from the attributes of a data set.

    Args:
        dataset: all pictures.
        modalities: names of the encoders; pictures of another modality take no part.
        roles: which attribute says what.

    Raises:
        FoveolaError: an attribute is not there, a time is none; one line with all faults.
        UsageError: no attribute tells several modalities apart.
    """
    names = list(modalities)
    if not roles.modality and len(names) > 1:
        raise UsageError("roles.modality", f"no attribute tells {' from '.join(names)}", "name it")
    _check_attributes(dataset, roles)
    patients = tuple(sorted({sample.patient for sample in dataset.samples}))
    visits = tuple(sorted({_text(sample, roles.visit) for sample in dataset.samples}))
    sides = tuple(sorted({_text(sample, roles.side) for sample in dataset.samples} - {""}))
    numbers = {name: {word: i for i, word in enumerate(words)} for name, words in
               (("patient", patients), ("visit", visits), ("side", sides))}  # fmt: skip
    faults, scans = Faults(), {}
    for name in names:
        places = [i for i, s in enumerate(dataset.samples) if not roles.modality or _text(s, roles.modality) == name]
        chosen = dataset.take(places)
        scans[name] = Scans(
            dataset=chosen,
            subject=np.array([numbers["patient"][s.patient] for s in chosen.samples], np.int64),
            visit=np.array([numbers["visit"][_text(s, roles.visit)] for s in chosen.samples], np.int64),
            years=np.array([_years(s, roles.years, faults) for s in chosen.samples], np.float64),
            turn=np.array([_number(_text(s, roles.visit)) for s in chosen.samples], np.float64),
            side=np.array([numbers["side"].get(_text(s, roles.side), NO_SIDE) for s in chosen.samples], np.int64),
        )
    faults.refuse(str(dataset.root))
    _check_mirror(roles, sides)
    return Records(patients=patients, visits=visits, sides=sides, scans=scans)


def check_records(train: Records, aims: Aims, roles: Roles) -> None:
    """Refuse losses for which no train patient has what they need.

    Raises:
        FoveolaError: a modality without a picture, no pair in the whole set, one visit only for a temporal loss.
        UsageError: no loss is in, or a temporal one without a part.
    """
    measured = aims.measures > 0 and aims.measured
    if not (aims.multimodal > 0 or aims.temporal > 0 or measured or aims.reconstruction > 0):
        raise UsageError("aims", "no loss is in, so that nothing would be learned", "give one a weight")
    empty = [name for name, scans in train.scans.items() if not len(scans)]
    if empty:
        fault = f"no train picture of {', '.join(empty)} ({train.counted()})"
        raise FoveolaError("encoders", fault, f"look at attribute {roles.modality!r}, or leave the encoder out")
    if aims.multimodal > 0 and len(paired_subjects(train, roles)) < 2:
        what = "two modalities at one visit" if roles.pairs == "modalities" else "both sides at one visit"
        fault = f"fewer than two train patients have {what} ({train.counted()})"
        raise FoveolaError("multimodal", fault, "a contrast needs pairs of two patients; set aims.multimodal to 0")
    if aims.temporal > 0:
        _check_visits(train, aims)


def _check_visits(train: Records, aims: Aims) -> None:
    if not (aims.contrast > 0 or aims.order > 0 or aims.gap > 0):
        raise UsageError(
            "aims.temporal", "contrast, order and gap are all 0", "give one a weight, or set temporal to 0"
        )
    if len(returned_subjects(train)) < 2:
        fault = f"fewer than two train patients have a second visit ({len(train.visits)} visit(s) in all)"
        raise FoveolaError("temporal", fault, "name the attribute in roles.visit, or set aims.temporal to 0")
    every = train.scans.values()
    if aims.order > 0 and not any(_differs(scans, scans.years) or _differs(scans, scans.turn) for scans in every):
        fault = "no patient's visits have a time or a number"
        raise FoveolaError("order", fault, "name the attribute in roles.years, or set aims.order to 0")
    if aims.gap > 0 and not any(_differs(scans, scans.years) for scans in every):
        raise FoveolaError(
            "gap", "no patient's visits have a time", "name the attribute in roles.years, or set aims.gap to 0"
        )


def check_measured(dataset: Dataset, measured: Collection[str]) -> None:
    """Refuse a measure that is no task, a task of masks, boxes or an embedding, or one of one kind only.

    Raises:
        UsageError: which is none.
        FoveolaError: which shows one kind only in the train pictures.
    """
    for name in measured:
        if dataset.task(name).kind in ("segmentation", "detection", "embedding"):
            raise UsageError("aims.measured", f"{name} is a task of kind {dataset.task(name).kind}", "leave it out")
    train = dataset.subset("train")
    for task in (train.task(name) for name in measured):
        if task.kind != "regression":  # constant values have no scale, which is refused by itself
            check_varied(task, train.scalars[task.name])


def check_varied(task: Task, target_NT: NDArray[np.floating]) -> None:
    """Refuse targets of one kind only.

    Args:
        task: neither masks, boxes nor an embedding.
        target_NT: of the train pictures, NaN where not known.

    Raises:
        FoveolaError: which.
    """
    names = task.classes if target_NT.shape[1] > 1 else (task.name,)
    for name, column in zip(names, target_NT.T, strict=True):
        known = column[~np.isnan(column)]
        if not len(known) or known.min() == known.max():
            fault = (
                "all train pictures with a target have the same one" if len(known) else "no train picture has a target"
            )
            raise FoveolaError(f"task {task.name!r}", f"{name}: {fault}", "there is nothing to tell apart: drop it")


def paired_subjects(records: Records, roles: Roles) -> set[int]:
    """Subjects with two modalities (or two sides of one) at one visit."""
    found: set[int] = set()
    if roles.pairs == "sides":
        for scans in records.scans.values():
            sides = _together(scans.subject, scans.visit, scans.side, scans.side != NO_SIDE)
            found |= {subject for (subject, _), kinds in sides.items() if len(kinds) > 1}
        return found
    kinds: dict[tuple[int, int], set[int]] = {}
    for number, scans in enumerate(records.scans.values()):
        for key in set(zip(scans.subject.tolist(), scans.visit.tolist(), strict=True)):
            kinds.setdefault(key, set()).add(number)
    return {subject for (subject, _), modalities in kinds.items() if len(modalities) > 1}


def returned_subjects(records: Records) -> set[int]:
    """Subjects with two visits in one modality."""
    found: set[int] = set()
    for scans in records.scans.values():
        found |= {subject for subject, own in by_subject(scans).items() if len(np.unique(scans.visit[own])) > 1}
    return found


def by_subject(scans: Scans) -> dict[int, NDArray[np.int64]]:
    """Places of each subject's pictures."""
    order = np.argsort(scans.subject, kind="stable")
    subjects, starts = np.unique(scans.subject[order], return_index=True)
    return dict(zip(subjects.tolist(), np.split(order, starts[1:]), strict=True)) if len(subjects) else {}


def gap_scale(records: Records) -> float:
    """Root mean square of the years between two visits of a patient; 1 where none is known."""
    squares: list[float] = []
    for scans in records.scans.values():
        for places in by_subject(scans).values():
            own = np.unique(scans.years[places])
            own = own[~np.isnan(own)]
            squares += [float((b - a) ** 2) for i, a in enumerate(own) for b in own[i + 1 :]]
    return float(np.sqrt(np.mean(squares))) if squares else 1.0


def _of(scans: Scans, splits: tuple[str, ...]) -> Scans:
    places = np.array([i for i, sample in enumerate(scans.dataset.samples) if sample.split in splits], np.int64)
    columns = {name: getattr(scans, name)[places] for name in ("subject", "visit", "years", "turn", "side")}
    return Scans(dataset=scans.dataset.take(places), **columns)


def _together(
    subject: NDArray[np.int64], visit: NDArray[np.int64], kind: NDArray[np.int64], known: NDArray[np.bool_]
) -> Mapping[tuple[int, int], set[int]]:
    found: dict[tuple[int, int], set[int]] = {}
    for s, v, k, there in zip(subject.tolist(), visit.tolist(), kind.tolist(), known.tolist(), strict=True):
        if there:
            found.setdefault((s, v), set()).add(k)
    return found


def _differs(scans: Scans, when: NDArray[np.float64]) -> bool:
    """Whether a subject has pictures of two known times."""
    own = (when[places] for places in by_subject(scans).values())
    return any(len(np.unique(times[~np.isnan(times)])) > 1 for times in own)


def _check_attributes(dataset: Dataset, roles: Roles) -> None:
    known = list(dataset.samples[0].attributes) if len(dataset) else []
    for field in ("modality", "visit", "years", "side"):
        name = getattr(roles, field)
        if name and name not in known:
            mend = did_you_mean(name, known) or f"list it in data.columns.attributes, or leave roles.{field} empty"
            raise FoveolaError(f"roles.{field}", f"the images have no attribute {name!r}", mend)


def _check_mirror(roles: Roles, sides: tuple[str, ...]) -> None:
    if roles.mirror and roles.mirror not in sides:
        raise FoveolaError("roles.mirror", f"no image is of side {roles.mirror!r}", did_you_mean(roles.mirror, sides))


def _text(sample: Sample, attribute: str) -> str:
    return sample.attributes[attribute] if attribute else ""


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return np.nan


def _years(sample: Sample, attribute: str, faults: Faults) -> float:
    """A number, or a date as years since the year 1; NaN where the cell is empty."""
    text = _text(sample, attribute)
    if not text:
        return np.nan
    value = _number(text)
    if np.isfinite(value):
        return value
    try:
        return date.fromisoformat(text).toordinal() / DAYS
    except ValueError:
        mend = "give years as a number, or a date such as 2024-03-18"
        faults.error(f"line {sample.row}, column {attribute}", f"{text!r} is no time", mend)
        return np.nan
