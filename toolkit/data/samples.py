"""Which images a manifest names, whose they are and in which split; leaks are found here.

What is faulty is added to `Faults` and left out, so that the rest can still be looked at.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path, PurePosixPath
from typing import Annotated

import msgspec

from ...runtime.errors import UsageError
from ...runtime.task import Task
from .faults import Faults, did_you_mean
from .hashing import file_sha256
from .splits import SPLITS, by_hash, set_apart
from .table import Row, Table

DATASET = "dataset"  # the attribute that names the source of an image of joined data sets
SourceName = Annotated[str, msgspec.Meta(pattern="^[A-Za-z0-9][A-Za-z0-9_-]*$")]  # stands in keys and patients


class Columns(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Which columns of the manifest say what (the targets' columns are named by the tasks).

    Args:
        file: path of the image.
        patient: who it is; an empty cell makes the image its own patient, and so does an empty name for all images.
        split: train, val, calibration or test; where there is no such column, or the name is empty, patients are split
            70/10/20 by hash.
        attributes: columns kept as text for subgroups.
        none: by column of masks or boxes the column that is 0 where there is nothing to draw: an empty cell is then no
            gap but says "none".
    """

    file: str = "file"
    patient: str = "patient_id"
    split: str = "split"
    attributes: tuple[str, ...] = ()
    none: dict[str, str] = {}


class Source(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One data set among several.

    Args:
        folder: of its manifest, inside the common folder; `.` is that folder itself.
        manifest: name of the CSV.
        columns: which columns hold file, patient, split and the attributes for subgroups.
        calibration: share of its train patients that are set apart for calibration.
        tasks: the tasks that it labels; empty means all whose columns it has.
        labelled: False leaves its targets unread: its pictures serve pretraining and distillation alone.
    """

    folder: str
    manifest: str = "manifest.csv"
    columns: Columns = Columns()
    calibration: Annotated[float, msgspec.Meta(ge=0, lt=1)] = 0.0
    tasks: tuple[str, ...] = ()
    labelled: bool = True

    def __post_init__(self) -> None:
        """Refuse what leads out of the common folder, and an attribute that is ours.

        Raises:
            UsageError: one of these.
        """
        relative = PurePosixPath(self.folder)
        if relative.is_absolute() or ".." in relative.parts or not self.folder:
            raise UsageError("folder", f"{self.folder!r} is not inside of root", "choose a root that holds all sources")
        if self.tasks and not self.labelled:
            raise UsageError("tasks", "named, but `labelled` is false", "leave one of the two out")
        if DATASET in self.columns.attributes:
            mend = "leave it out; it always names the source"
            raise UsageError("columns.attributes", f"the attribute {DATASET!r} is not the source's to give", mend)


class Sample(msgspec.Struct, frozen=True, kw_only=True):
    """One image."""

    key: str  # the file as the manifest writes it
    path: Path
    patient: str
    split: str
    sha256: str  # of the image file
    attributes: dict[str, str]
    row: int  # line in the manifest


def present_columns(table: Table, columns: Columns, tasks: Sequence[Task], faults: Faults) -> Columns:
    """Keep the columns that are there; each absent one that somebody named is a fault."""
    wanted = {columns.file: "file", columns.patient: "patient"} | dict.fromkeys(columns.attributes, "attribute")
    wanted |= {name: "none" for pair in columns.none.items() for name in pair}
    for task in tasks:
        wanted |= dict.fromkeys((*task.manifest_columns, task.ignore_column), f"task {task.name!r}")
    for name, user in wanted.items():
        if name and name not in table.columns:
            mend = did_you_mean(name, table.columns) or "line 1 names those that there are"
            faults.error(table.place, f"no column {name!r} ({user})", mend)
    split = columns.split
    if split and split not in table.columns:
        # A misspelt `splits` must not silently become a new split by hash.
        mend = did_you_mean(split, table.columns)
        if mend.startswith("did you mean") or split != Columns().split:
            faults.error(table.place, f"no column {split!r} (split)", mend)
        split = ""
    return Columns(
        file=columns.file if columns.file in table.columns else "",
        patient=columns.patient if columns.patient in table.columns else "",
        split=split,
        attributes=tuple(name for name in columns.attributes if name in table.columns),
        none={name: flag for name, flag in columns.none.items() if {name, flag} <= set(table.columns)},
    )


def read_samples(root: Path, table: Table, columns: Columns, *, seed: int, faults: Faults) -> list[tuple[Row, Sample]]:
    """Find the rows that name an image which is there, each with its sample; `columns` come from `present_columns`."""
    if not columns.file:
        return []
    pairs: list[tuple[Row, Sample]] = []
    first_line: dict[str, int] = {}
    for row in table.rows:
        key, place = row.cells[columns.file], table.at(row, columns.file)
        if not key:
            faults.error(place, "empty", "name the image or delete the row")
            continue
        if first_line.setdefault(key, row.line) != row.line:
            faults.error(place, f"{key} was already named in line {first_line[key]}", "keep one row an image")
            continue
        path = inside(root, key, place, faults)
        if path is not None:
            pairs.append((row, _sample(path, table, row, columns, seed, faults)))
    if not table.rows:
        faults.error(table.place, "no images", "one row names one image")
    return pairs


def inside(root: Path, cell: str, place: str, faults: Faults) -> Path | None:
    """Find the file that a cell names; None (and a fault) when there is no such file inside the data set's folder."""
    relative = PurePosixPath(cell)
    if relative.is_absolute() or ".." in relative.parts or "\0" in cell:
        faults.error(place, f"{cell!r} is not a path inside the data set's folder", "write it relative to the manifest")
        return None
    path = root / relative
    if not path.is_file():
        faults.error(place, f"{cell} is not there", "add the file or correct the entry")
        return None
    if path.stat().st_size == 0:
        faults.error(place, f"{cell} is empty (0 bytes)", "copy the file again")
        return None
    return path


def with_calibration(place: str, samples: Sequence[Sample], share: float, *, seed: int) -> list[Sample]:
    """Move that share of the train patients into the split `calibration`.

    Raises:
        UsageError: not a share, or the manifest has such a split already.
    """
    if not 0.0 <= share < 1.0:
        raise UsageError("calibration", f"{share} is not a share", "give a number from 0 up to, not including, 1")
    if share == 0.0:
        return list(samples)
    if any(sample.split == "calibration" for sample in samples):
        raise UsageError("calibration", f"{place} has a calibration split of its own", "set calibration to 0")
    apart = set_apart((sample.patient for sample in samples if sample.split == "train"), share, seed=seed)

    def moved(sample: Sample) -> Sample:
        to_move = sample.split == "train" and sample.patient in apart
        return msgspec.structs.replace(sample, split="calibration") if to_move else sample

    return [moved(sample) for sample in samples]


def find_leaks(place: str, samples: Sequence[Sample], faults: Faults) -> None:
    """Add an error for a patient or image in two splits, a warning for an image twice in one."""
    by_patient = defaultdict[str, list[Sample]](list)
    for sample in samples:
        by_patient[sample.patient].append(sample)
    for patient, found in by_patient.items():
        first = {sample.split: sample.row for sample in reversed(found)}
        if len(first) > 1:
            where = ", ".join(f"{split} (line {line})" for split, line in sorted(first.items()))
            faults.error(place, f"patient {patient} is in several splits: {where}", "put each patient in one split")
    for found in same_images(samples):
        tell_copies(place, found, faults)


def same_images(samples: Sequence[Sample]) -> list[list[Sample]]:
    """Find the samples that share an image file's content; those that stand alone are left out."""
    by_image = defaultdict[str, list[Sample]](list)
    for sample in samples:
        by_image[sample.sha256].append(sample)
    return [found for found in by_image.values() if len(found) > 1]


def tell_copies(place: str, found: Sequence[Sample], faults: Faults) -> None:
    """Add an error for samples of one image that stand in several splits, a warning where it is one split."""
    names = ", ".join(f"{sample.key} (line {sample.row}, {sample.split})" for sample in found[:4])
    if _count(sample.split for sample in found) > 1:
        faults.error(place, f"the same image is in several splits: {names}", "keep one of them")
    else:
        faults.warn(place, f"the same image is there {len(found)} times: {names}", "keep one of them")


def _sample(path: Path, table: Table, row: Row, columns: Columns, seed: int, faults: Faults) -> Sample:
    key = row.cells[columns.file]
    patient = row.cells.get(columns.patient, "") or key
    split = row.cells[columns.split] if columns.split else by_hash(patient, seed=seed)
    if split not in SPLITS:
        fault = f"{split!r} is no split" if split else "empty"
        faults.error(table.at(row, columns.split), fault, did_you_mean(split, SPLITS))
    return Sample(
        key=key,
        path=path,
        patient=patient,
        split=split,
        sha256=file_sha256(path),
        attributes={name: row.cells[name] for name in columns.attributes},
        row=row.line,
    )


def _count(values: Iterable[str]) -> int:
    return len(set(values))
