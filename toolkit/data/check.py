"""Looks a data set over before anybody trains on it, and tells all that is wrong at once.

Beyond what `read_dataset` refuses, every image and mask is decoded here. What is looked for:

- errors: files that are missing, empty or broken; columns that are absent; cells that do not say what their task needs;
  a patient or an image in two splits; masks of another size than their image, or with labels that no class has; boxes
  outside their image;
- warnings: an image twice in one split; a flat image; a split without images, or without any target for a task; a task
  with one class only in a split; box labels that belong to no task.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import msgspec
import numpy as np

from ...runtime.errors import FoveolaError
from ...runtime.image import read_image
from ...runtime.task import Task
from .cells import BoxCell, spellings
from .dataset import Boxes, Columns, Dataset, load_mask, scan_dataset
from .faults import Fault, Faults, did_you_mean
from .masks import NOTHING
from .splits import SPLITS
from .table import Table, read_table

OUTSIDE = 0.5  # pixels that a box may reach over the border: coordinates were rounded
NOT_KNOWN = "not known"
PAIRED = "images with another of their patient"
NONE_THERE = "none there"  # images of which it is said, without a mask file, that no structure is in the picture

Progress = Callable[[int, int], None]  # images done, total


class Survey(msgspec.Struct, frozen=True, kw_only=True):
    """What a data set is, and what is wrong with it.

    Args:
        faults: errors first, both in the order of the manifest.
        images: by split.
        patients: by split.
        targets: by task and split: how many images say what. Classes by name (multilabel: positives by label),
            segmentation and detection by label or structure, regression by measure; `not known` counts gaps, `none
            there` images that are said to have nothing to draw.
        digest: of the data set's content, as `Dataset.digest`.
    """

    faults: tuple[Fault, ...]
    images: dict[str, int]
    patients: dict[str, int]
    targets: dict[str, dict[str, dict[str, int]]]
    digest: str

    @property
    def errors(self) -> tuple[Fault, ...]:
        """The faults for which the data set is refused."""
        return tuple(fault for fault in self.faults if fault.severity == "error")

    @property
    def warnings(self) -> tuple[Fault, ...]:
        """The faults that somebody should look at."""
        return tuple(fault for fault in self.faults if fault.severity == "warning")


def check_dataset(
    root: Path,
    tasks: Sequence[Task] = (),
    *,
    manifest: str = "manifest.csv",
    columns: Columns | None = None,
    progress: Progress | None = None,
) -> tuple[Fault, ...]:
    """List all that is wrong with a data set; empty when nothing is. See `survey_dataset`."""
    return survey_dataset(root, tasks, manifest=manifest, columns=columns, progress=progress).faults


def survey_dataset(
    root: Path,
    tasks: Sequence[Task] = (),
    *,
    manifest: str = "manifest.csv",
    columns: Columns | None = None,
    calibration: float = 0.0,
    seed: int = 0,
    progress: Progress | None = None,
) -> Survey:
    """Check a data set and count what it holds.

    Args:
        root: folder that holds the manifest.
        tasks: what is to be asked; where there are none, columns named `mask_...` and `boxes` are looked at.
        manifest: name of the CSV.
        columns: which columns say what.
        calibration: share of the train patients that a recipe sets apart, as `read_dataset` has it.
        seed: of the recipe.
        progress: called with how many images were looked at and how many there are.

    Raises:
        FoveolaError: there is no manifest, or it is no table at all.
        UsageError: a task or `calibration` is wrong.
    """
    table = read_table(root / manifest, Faults())
    asked = tuple(tasks) or usual_tasks(table)
    dataset, faults = scan_dataset(root, asked, manifest=manifest, columns=columns, calibration=calibration, seed=seed)
    return look_over(str(root / manifest), dataset, faults, [(table, asked)], progress)


def look_over(
    place: str,
    dataset: Dataset,
    faults: Faults,
    labels: Sequence[tuple[Table, Sequence[Task]]],
    progress: Progress | None = None,
) -> Survey:
    """Check what was read, pictures and all, and count what it holds.

    Args:
        place: the data set's name in faults.
        dataset: as `scan_dataset` or `read_joined` gives it.
        faults: found so far; those found here are added.
        labels: the tables that it comes from, each with the tasks that it labels.
        progress: called with how many images were looked at and how many there are.
    """
    _look_at_images(dataset, faults, progress)
    for table, tasks in labels:
        _look_at_labels(table, tasks, faults)
    targets = {task.name: _counts(dataset, task) for task in dataset.tasks}
    images = {split: len(dataset.subset(split)) for split in SPLITS}
    patients = {split: len({sample.patient for sample in dataset.subset(split).samples}) for split in SPLITS}
    _look_at_splits(place, dataset, images, targets, faults)
    return Survey(
        faults=tuple(sorted(faults.found, key=lambda fault: fault.severity == "warning")),
        images=images,
        patients=patients,
        targets=targets,
        digest=dataset.digest,
    )


def usual_tasks(table: Table) -> tuple[Task, ...]:
    """Guess tasks from the names of columns, for a look before there is a recipe: `mask_...` and `boxes`."""
    masks = [
        Task(name=name, kind="segmentation", exclusive=False, classes=(name,))
        for name in table.columns
        if name.startswith("mask_") and name.isidentifier()
    ]
    labels = sorted(_box_labels(table, "boxes"))
    boxes = [Task(name="boxes", kind="detection", classes=tuple(labels))] if labels else []
    return (*masks, *boxes)


def _look_at_images(dataset: Dataset, faults: Faults, progress: Progress | None) -> None:
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for done, found in enumerate(pool.map(lambda index: _image_faults(dataset, index), range(len(dataset))), 1):
            faults.found.extend(found)
            if progress is not None:
                progress(done, len(dataset))


def _image_faults(dataset: Dataset, index: int) -> list[Fault]:
    sample, faults = dataset.samples[index], Faults()
    try:
        pixels = read_image(sample.path)
    except FoveolaError as error:
        faults.add(error)
        return faults.found
    if pixels.min() == pixels.max():
        faults.warn(str(sample.path), f"all pixels are {int(pixels.min())}", "was it exported empty?")
    size = (pixels.shape[0], pixels.shape[1])
    for name in dataset.masks:
        try:
            load_mask(dataset, name, index, size)
        except FoveolaError as error:
            faults.add(error)
    for name, found in dataset.boxes.items():
        boxes = found[index]
        for outside in [] if boxes is None else _boxes_outside(boxes, size):
            place = f"{sample.key} (line {sample.row}), task {name!r}"
            faults.error(
                place, f"box {outside} is outside the image of {size[1]}x{size[0]}", "pixels of the stored image"
            )
    return faults.found


def _boxes_outside(boxes: Boxes, size: tuple[int, int]) -> Iterator[str]:
    height, width = size
    for x1, y1, x2, y2, _ in boxes.tolist():
        if min(x1, y1) < -OUTSIDE or x2 > width + OUTSIDE or y2 > height + OUTSIDE:
            yield f"{x1:g},{y1:g} to {x2:g},{y2:g}"


def _look_at_labels(table: Table, tasks: Sequence[Task], faults: Faults) -> None:
    """Warn of box labels that no task claims: another finding perhaps, or a misspelling."""
    claimed: dict[str, set[str]] = {}
    for task in tasks:
        if task.kind == "detection":
            claimed.setdefault(task.manifest_columns[0], set()).update(spellings(task))
    for column, known in claimed.items():
        for label, count in sorted(_box_labels(table, column).items()):
            if label not in known:
                near = did_you_mean(label, known)
                mend = near if near.startswith("did you mean") else ""
                faults.warn(f"{table.place}, column {column}", f"{count} boxes {label!r} belong to no task", mend)


def _box_labels(table: Table, column: str) -> Counter[str]:
    labels: Counter[str] = Counter()
    for row in table.rows:
        if cell := row.cells.get(column, ""):
            try:
                labels.update(box.label for box in msgspec.json.decode(cell, type=list[BoxCell]))
            except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
                continue  # a fault of the cell, told where it is read
    return labels


def _counts(dataset: Dataset, task: Task) -> dict[str, dict[str, int]]:
    """Count by split what the images say about a task."""
    known = dataset.known(task.name)
    counts: dict[str, dict[str, int]] = {}
    for split in SPLITS:
        chosen = np.array([sample.split == split for sample in dataset.samples], np.bool_)
        if not chosen.any():
            continue
        counts[split] = said(dataset, task, np.flatnonzero(chosen)) | {NOT_KNOWN: int((chosen & ~known).sum())}
    return counts


def said(dataset: Dataset, task: Task, chosen: np.ndarray[tuple[int], np.dtype[np.intp]]) -> dict[str, int]:
    """Count what the chosen images say about a task: by class, label, structure or measure."""
    match task.kind:
        case "binary" | "multiclass" | "ordinal":
            values = dataset.scalars[task.name][chosen, 0]
            return {name: int((values == index).sum()) for index, name in enumerate(task.classes)}
        case "multilabel":
            positive = (dataset.scalars[task.name][chosen] == 1).sum(axis=0)
            return {name: int(count) for name, count in zip(task.classes, positive, strict=True)}
        case "regression":
            measured = (~np.isnan(dataset.scalars[task.name][chosen])).sum(axis=0)
            return {name: int(count) for name, count in zip(task.classes, measured, strict=True)}
        case "segmentation":
            files = [dataset.masks[task.name][index] for index in chosen]
            names = ("masks",) if task.exclusive else task.classes
            drawn = {name: sum(one[i] not in (None, NOTHING) for one in files) for i, name in enumerate(names)}
            none = sum(all(file == NOTHING for file in one) for one in files)
            return drawn | ({NONE_THERE: none} if none else {})
        case "detection":
            found = [boxes for index in chosen if (boxes := dataset.boxes[task.name][index]) is not None]
            labels = Counter(int(label) for boxes in found for label in boxes[:, 4])
            return {name: labels[index] for index, name in enumerate(task.classes)}
        case "embedding":
            positive = (dataset.scalars[task.name][chosen] == 1).sum(axis=0)
            conditions = {name: int(count) for name, count in zip(task.classes, positive, strict=True)}
            images = Counter(dataset.samples[int(index)].patient for index in chosen)
            return conditions | {PAIRED: sum(count for count in images.values() if count > 1)}


def _look_at_splits(
    place: str,
    dataset: Dataset,
    images: dict[str, int],
    targets: dict[str, dict[str, dict[str, int]]],
    faults: Faults,
) -> None:
    for split in ("train", "val", "test"):
        if images[split] == 0 and len(dataset):
            faults.warn(place, f"no images in split {split}")
    for task in dataset.tasks:
        for split, counts in targets[task.name].items():
            where = f"{place}, task {task.name!r}, split {split}"
            if counts[NOT_KNOWN] == images[split]:
                faults.warn(where, "no image has a target", "the task cannot be learned or judged here")
            elif reason := _one_class(dataset, task, split, counts):
                faults.warn(where, reason, "it cannot be judged here")


def _one_class(dataset: Dataset, task: Task, split: str, counts: dict[str, int]) -> str:
    """Say which classes have no counterpart in the split; empty when all is well."""
    if task.kind == "embedding" and not counts[PAIRED]:
        return "no patient has two images"
    if task.kind in ("multilabel", "embedding"):
        values = dataset.subset(split).scalars[task.name]
        flat = [
            name
            for name, column in zip(task.classes, values.T, strict=True)
            if len(np.unique(column[~np.isnan(column)])) == 1
        ]
        return f"always the same: {', '.join(flat)}" if flat else ""
    if task.kind in ("binary", "multiclass", "ordinal"):
        there = [name for name in task.classes if counts[name]]
        return f"one class only: {there[0]}" if len(there) == 1 else ""
    if task.kind == "detection":
        missing = [name for name in task.classes if not counts[name]]
        return f"no boxes: {', '.join(missing)}" if missing else ""
    return ""
