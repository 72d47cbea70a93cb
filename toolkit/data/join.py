"""Several data sets as one: chests from here, limbs from there, each with its own manifest and its own tasks.

- An image's key and its patient get the source's name in front, so that two sources never mix up theirs.
- The attribute `dataset` names the source. A task that a source does not label is a gap there.
- Splits are those of each source. An image in two splits is an error, also when two sources have it.
- All faults of all sources are told at once, each with its source in front.

    sources = {"cxr": Source(folder="cxr", calibration=0.2), "msk": Source(folder="msk", tasks=("fractured",))}
    dataset, faults = read_joined(Path("data"), sources, tasks)
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path

import msgspec
import numpy as np
from numpy.typing import NDArray

from ...runtime.errors import FoveolaError, UsageError
from ...runtime.task import Task
from .cells import plain_task
from .check import Progress, Survey, look_over
from .dataset import Dataset, scan_dataset
from .faults import Faults, did_you_mean
from .samples import DATASET, Sample, Source, SourceName, same_images, tell_copies
from .table import Table, read_table

__all__ = ["Source", "read_joined", "survey_joined"]


def read_joined(
    root: Path, sources: Mapping[SourceName, Source], tasks: Sequence[Task], *, seed: int = 0
) -> tuple[Dataset, Faults]:
    """Read every source and put them together; faults are handed over, as `scan_dataset` does.

    Args:
        root: the common folder; the sources' folders start there.
        sources: by the name that keys, patients and the attribute `dataset` get.
        tasks: what is asked; a class may list other spellings after `|`.
        seed: of the hashes that split and set apart.

    Returns:
        All images in the order of the sources, and the faults with the source's name in front of their places.

    Raises:
        UsageError: there are no sources.
    """
    if not sources:
        raise UsageError("sources", "there are none", "for example sources: {chest: {folder: chest}}")
    faults, parts, unread = Faults(), dict[str, Dataset](), False
    for name, source in sources.items():
        own = Faults()
        try:
            parts[name] = _renamed(name, _read_source(root / source.folder, source, tasks, seed, own))
        except FoveolaError as error:
            own.add(error)
            unread = True
        faults.found += [msgspec.structs.replace(fault, place=f"{name}: {fault.place}") for fault in own.found]
    _look_for_labels(parts, tasks if not unread else (), faults)
    joined = _together(root, parts, tasks)
    for found in same_images(joined.samples):
        if len({sample.attributes[DATASET] for sample in found}) > 1:  # the rest is told by the source itself
            tell_copies(str(root), found, faults)
    return joined, faults


def survey_joined(
    root: Path,
    sources: Mapping[SourceName, Source],
    tasks: Sequence[Task],
    *,
    seed: int = 0,
    progress: Progress | None = None,
) -> Survey:
    """Check a joined data set, pictures and all, and count what it holds; see `survey_dataset`.

    Raises:
        UsageError: there are no sources.
    """
    dataset, faults = read_joined(root, sources, tasks, seed=seed)
    labels: list[tuple[Table, Sequence[Task]]] = []
    for source in sources.values():
        try:
            table = read_table(root / source.folder / source.manifest, Faults())
        except FoveolaError:
            continue  # told by `read_joined`
        labels.append((table, _labelled(table, source, tasks, Faults())))
    return look_over(str(root), dataset, faults, labels, progress)


def _read_source(folder: Path, source: Source, tasks: Sequence[Task], seed: int, faults: Faults) -> Dataset:
    table = read_table(folder / source.manifest, Faults())  # its faults are told where it is scanned
    found, more = scan_dataset(
        folder,
        _labelled(table, source, tasks, faults),
        manifest=source.manifest,
        columns=source.columns,
        calibration=source.calibration,
        seed=seed,
    )
    faults.found += more.found
    return found


def _labelled(table: Table, source: Source, tasks: Sequence[Task], faults: Faults) -> tuple[Task, ...]:
    """The tasks that a source labels: those it names, or all whose columns it has."""
    known = [task.name for task in tasks]
    for name in source.tasks:
        if name not in known:
            faults.error("tasks", f"no task {name!r}", did_you_mean(name, known))
    if not source.labelled:
        return ()
    if source.tasks:
        return tuple(task for task in tasks if task.name in source.tasks)
    return tuple(task for task in tasks if set(task.manifest_columns) <= set(table.columns))


def _look_for_labels(parts: Mapping[str, Dataset], tasks: Sequence[Task], faults: Faults) -> None:
    answered = {task.name for part in parts.values() for task in part.tasks}
    for task in tasks:
        if task.name not in answered:
            columns = ", ".join(task.manifest_columns)
            faults.error(
                f"task {task.name!r}", "no source labels it", f"it needs the column(s) {columns} in one of them"
            )


def _renamed(name: str, part: Dataset) -> Dataset:
    """The data set with its source's name in keys, patients and attributes."""
    samples = tuple(
        msgspec.structs.replace(
            sample,
            key=f"{name}/{sample.key}",
            patient=f"{name}:{sample.patient}",
            attributes=sample.attributes | {DATASET: name},
        )
        for sample in part.samples
    )
    return msgspec.structs.replace(part, samples=samples)


def _together(root: Path, parts: Mapping[str, Dataset], tasks: Sequence[Task]) -> Dataset:
    plain = tuple(plain_task(task) for task in tasks)
    masked = [task for task in plain if task.kind == "segmentation"]
    boxed = [task for task in plain if task.kind == "detection"]
    valued = [task for task in plain if task.kind not in ("segmentation", "detection")]
    digest = hashlib.sha256("\n".join(f"{name} {part.digest}" for name, part in parts.items()).encode())
    each = tuple(parts.values())
    return Dataset(
        root=root,
        tasks=plain,
        samples=_all_samples(each),
        scalars={task.name: _all_scalars(each, task) for task in valued},
        masks={
            task.name: tuple(
                files
                for part in each
                for files in part.masks.get(task.name, ((None,) * task.column_count,) * len(part))
            )
            for task in masked
        },
        ignores={
            task.name: tuple(file for part in each for file in part.ignores.get(task.name, (None,) * len(part)))
            for task in masked
            if task.ignore_column
        },
        boxes={
            task.name: tuple(found for part in each for found in part.boxes.get(task.name, (None,) * len(part)))
            for task in boxed
        },
        digest=digest.hexdigest(),
    )


def _all_samples(parts: Sequence[Dataset]) -> tuple[Sample, ...]:
    """All samples, each with the attributes of all sources; what its own source has not is empty."""
    samples = [sample for part in parts for sample in part.samples]
    nothing = dict.fromkeys((key for sample in samples for key in sample.attributes), "")
    return tuple(msgspec.structs.replace(sample, attributes=nothing | sample.attributes) for sample in samples)


def _all_scalars(parts: Sequence[Dataset], task: Task) -> NDArray[np.float32]:
    gaps = [np.full((len(part), task.column_count), np.nan, np.float32) for part in parts]
    values = [part.scalars.get(task.name, gap) for part, gap in zip(parts, gaps, strict=True)]
    return np.concatenate(values) if values else np.empty((0, task.column_count), np.float32)
