"""A data set: images, patients, splits and targets with gaps, read from one CSV and checked as it is read.

- Paths in the manifest are relative to its folder and stay inside it.
- An empty cell is a gap ("not known"), never a "no": NaN in `scalars`, None in `masks` and `boxes`.
- A patient is in one split only, and so is an image (by the SHA-256 of its file), whatever the manifest says.
- All faults are told at once.

    dataset = read_dataset(Path("data/cxr"), tasks, columns=Columns(attributes=("sex", "view")), calibration=0.2)
    train, val = dataset.subset("train"), dataset.subset("val")

Shapes: N images, M boxes, C classes, H and W of the stored image.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path

import msgspec
import numpy as np
from numpy.typing import NDArray

from ...runtime.errors import FoveolaError, UsageError
from ...runtime.image import read_image
from ...runtime.task import Task
from .cells import plain_task, spellings
from .faults import Faults, did_you_mean
from .hashing import file_sha256
from .masks import IGNORE, Size, read_inside, read_label_map
from .samples import Columns, Sample, find_leaks, present_columns, read_samples, with_calibration
from .table import Table, read_table
from .targets import Boxes, Files, read_box_lists, read_files, read_scalars, with_none

__all__ = ["Boxes", "Columns", "Dataset", "Files", "Sample", "load_mask", "plain_task", "read_dataset", "scan_dataset"]


class Dataset(msgspec.Struct, frozen=True, kw_only=True, eq=False):
    """Images and targets, all in the order of the manifest.

    Args:
        root: folder of the manifest.
        tasks: the tasks with each class under its shown name.
        samples: N images.
        scalars: by task that is neither segmentation nor detection: (N, columns) float32; NaN is a gap. Binary,
            multiclass and ordinal hold the class's index, embedding its conditions; it may have none: (N, 0).
        masks: by segmentation task: for each image its files, one a column; None is a gap, `masks.NOTHING` is "none".
        ignores: by segmentation task with an ignore column: for each image that file.
        boxes: by detection task: for each image its boxes; None is a gap, an empty array is "none".
        digest: of the content: manifest, image files, mask files; not of the folder's name. `take` keeps it.
    """

    root: Path
    tasks: tuple[Task, ...]
    samples: tuple[Sample, ...]
    scalars: dict[str, NDArray[np.float32]]
    masks: dict[str, tuple[Files, ...]]
    ignores: dict[str, Files]
    boxes: dict[str, tuple[Boxes | None, ...]]
    digest: str

    def __len__(self) -> int:
        return len(self.samples)

    def task(self, name: str) -> Task:
        """Find the task of that name.

        Raises:
            UsageError: there is none.
        """
        for task in self.tasks:
            if task.name == name:
                return task
        raise UsageError("tasks", f"no task {name!r}", did_you_mean(name, [task.name for task in self.tasks]))

    def take(self, indices: Sequence[int] | NDArray[np.integer]) -> Dataset:
        """Choose these images, in this order."""
        chosen = [int(index) for index in indices]
        return msgspec.structs.replace(
            self,
            samples=tuple(self.samples[i] for i in chosen),
            scalars={name: values[chosen] for name, values in self.scalars.items()},
            masks={name: tuple(files[i] for i in chosen) for name, files in self.masks.items()},
            ignores={name: tuple(files[i] for i in chosen) for name, files in self.ignores.items()},
            boxes={name: tuple(found[i] for i in chosen) for name, found in self.boxes.items()},
        )

    def subset(self, *splits: str) -> Dataset:
        """Choose the images of these splits, in the manifest's order; may be empty."""
        return self.take([i for i, sample in enumerate(self.samples) if sample.split in splits])

    def having(self, attributes: Mapping[str, str]) -> Dataset:
        """Keep the images that have these attributes.

        Raises:
            FoveolaError: no image says such an attribute, or none has the value.
        """
        kept = list(range(len(self)))
        for name, value in attributes.items():
            found = {self.samples[i].attributes[name] for i in kept if name in self.samples[i].attributes}
            if value not in found:
                fault = f"no image has {name} {value!r}"
                mend = f"there are {', '.join(sorted(found))}" if found else "name the column among columns.attributes"
                raise FoveolaError(f"{self.root}: only", fault, mend)
            kept = [i for i in kept if self.samples[i].attributes.get(name) == value]
        return self.take(kept) if attributes else self

    def only(self, tasks: Sequence[str], *, labelled: bool = True) -> Dataset:
        """Keep these tasks alone.

        Args:
            tasks: names, in the order wanted.
            labelled: leave out the images that have no target for any of them.

        Raises:
            UsageError: a task that is not there.
        """
        chosen = tuple(self.task(name) for name in dict.fromkeys(tasks))
        few = msgspec.structs.replace(
            self,
            tasks=chosen,
            scalars={name: values for name, values in self.scalars.items() if name in tasks},
            masks={name: files for name, files in self.masks.items() if name in tasks},
            ignores={name: files for name, files in self.ignores.items() if name in tasks},
            boxes={name: found for name, found in self.boxes.items() if name in tasks},
        )
        if not labelled:
            return few
        return few.take(np.flatnonzero(np.any([few.known(task.name) for task in chosen], axis=0)))

    def known(self, name: str) -> NDArray[np.bool_]:
        """Which images have a target (or part of one) for the task, (N,); an embedding's is whose image it is."""
        if self.task(name).kind == "embedding":
            return np.ones(len(self), np.bool_)
        if name in self.scalars:
            return np.asarray(~np.isnan(self.scalars[name]).all(axis=1))
        if name in self.masks:
            return np.array([any(file is not None for file in files) for files in self.masks[name]], np.bool_)
        return np.array([found is not None for found in self.boxes[name]], np.bool_)


def read_dataset(
    root: Path,
    tasks: Sequence[Task],
    *,
    manifest: str = "manifest.csv",
    columns: Columns | None = None,
    calibration: float = 0.0,
    seed: int = 0,
) -> Dataset:
    """Read a manifest and check it as it is read; the images' pixels are not looked at (see `check_dataset`).

    Args:
        root: folder that holds the manifest; all paths in it are relative to it.
        tasks: what is asked; a class may list other spellings after `|`.
        manifest: name of the CSV.
        columns: which columns say what.
        calibration: share of the train patients that become the split `calibration` (whole patients, by hash).
        seed: of the hashes.

    Raises:
        FoveolaError: anything is wrong with the data set; one line with all faults, the first ones quoted.
        UsageError: a task or `calibration` is wrong.
    """
    dataset, faults = scan_dataset(root, tasks, manifest=manifest, columns=columns, calibration=calibration, seed=seed)
    faults.refuse(str(root / manifest))
    return dataset


def scan_dataset(
    root: Path,
    tasks: Sequence[Task],
    *,
    manifest: str = "manifest.csv",
    columns: Columns | None = None,
    calibration: float = 0.0,
    seed: int = 0,
) -> tuple[Dataset, Faults]:
    """As `read_dataset`, but faults are handed over: what is faulty is left out or reads as a gap.

    Raises:
        FoveolaError: the manifest is not there or is no table.
        UsageError: a task or `calibration` is wrong.
    """
    faults, plain = Faults(), _plain_tasks(tasks)
    table = read_table(root / manifest, faults)
    columns = present_columns(table, columns or Columns(), plain, faults)
    pairs = read_samples(root, table, columns, seed=seed, faults=faults)
    samples = with_calibration(table.place, [sample for _, sample in pairs], calibration, seed=seed)
    find_leaks(table.place, samples, faults)
    rows = with_none(table, [row for row, _ in pairs], columns.none, plain, faults)

    scalars: dict[str, NDArray[np.float32]] = {}
    masks: dict[str, tuple[Files, ...]] = {}
    ignores: dict[str, Files] = {}
    boxes: dict[str, tuple[Boxes | None, ...]] = {}
    for task, spelled in zip(plain, tasks, strict=True):
        if task.kind == "segmentation":
            masks[task.name] = read_files(root, table, rows, task.manifest_columns, faults)
            if task.ignore_column:
                files = read_files(root, table, rows, (task.ignore_column,), faults)
                ignores[task.name] = tuple(file for (file,) in files)
        elif task.kind == "detection":
            boxes[task.name] = read_box_lists(table, rows, task, spelled, faults)
        else:
            scalars[task.name] = read_scalars(table, rows, task, spelled, faults)
    dataset = Dataset(
        root=root,
        tasks=plain,
        samples=tuple(samples),
        scalars=scalars,
        masks=masks,
        ignores=ignores,
        boxes=boxes,
        digest=_digest(table, samples, [*masks.values(), *(tuple((f,) for f in files) for files in ignores.values())]),
    )
    return dataset, faults


def calibration_set(dataset: Dataset, split: str, images: int, min_images: int) -> Dataset:
    """The images that set the ranges, spread evenly over their split.

    Raises:
        FoveolaError: fewer than `min_images`, or an image (by its sha256) that training or the proof uses too.
    """
    found = dataset.subset(split)
    place = f"{dataset.root}: split {split!r}"
    if len(found) < min_images:
        mend = "set more patients apart with data.calibration, or name a smaller min_images, which the report will show"
        raise FoveolaError(place, f"{len(found)} calibration images, {min_images} are needed", mend)
    places = np.linspace(0, len(found) - 1, min(images, len(found))).round().astype(int)
    chosen = found.take(np.unique(places))
    used = {sample.sha256: sample for sample in dataset.subset("train", "test").samples}
    shared = [sample.key for sample in chosen.samples if sample.sha256 in used]
    if shared:
        fault = f"{len(shared)} image(s) are used in training or proof too, first {shared[0]}"
        raise FoveolaError(place, fault, "keep the splits apart by patient and by image")
    return chosen


def images_digest(dataset: Dataset) -> str:
    """Name a set of images, whatever their order: the sha256 over the sorted sha256 of their files."""
    hashes = "\n".join(sorted(sample.sha256 for sample in dataset.samples))
    return hashlib.sha256(hashes.encode()).hexdigest()


def proof_set(dataset: Dataset, split: str) -> Dataset:
    """The images of the proof.

    Raises:
        FoveolaError: there are none, or one of them (by its sha256) is in another split too.
    """
    cases = dataset.subset(split)
    place = f"{dataset.root}: split {split!r}"
    if len(cases) == 0:
        raise FoveolaError(place, "no images to prove anything on", "add some to the manifest")
    others = {sample.sha256 for sample in dataset.samples if sample.split != split}
    shared = [sample.key for sample in cases.samples if sample.sha256 in others]
    if shared:
        raise FoveolaError(
            place, f"{len(shared)} image(s) are in another split too, first {shared[0]}", "keep splits apart"
        )
    return cases


def load_mask(dataset: Dataset, task_name: str, index: int, size: Size | None = None) -> NDArray[np.uint8]:
    """Read the segmentation target of one image at the image's size; 255 is ignored.

    Args:
        dataset: holds the task.
        task_name: a segmentation task.
        index: of the image in `dataset`.
        size: height and width of the image where the caller knows them; otherwise the image is read for them.

    Returns:
        Exclusive: label map (H, W), all 255 where the mask is a gap. Otherwise (C, H, W) of 0 and 1; the channel of a
        gap is all 255.

    Raises:
        FoveolaError: a mask is broken, of another size than its image, or holds labels that the task has not.
    """
    task, files = dataset.task(task_name), dataset.masks[task_name][index]
    if size is None:
        height, width = read_image(dataset.samples[index].path).shape[:2]
        size = height, width
    if task.exclusive:
        target = _gap(size) if files[0] is None else read_label_map(files[0], len(task.classes), size)
    else:
        channels = [_gap(size) if file is None else read_inside(file, size).astype(np.uint8) for file in files]
        target = np.stack(channels)
    ignore = dataset.ignores[task_name][index] if task_name in dataset.ignores else None
    if ignore is not None:
        target[..., read_inside(ignore, size)] = IGNORE
    return target


def _plain_tasks(tasks: Sequence[Task]) -> tuple[Task, ...]:
    plain = tuple(plain_task(task) for task in tasks)
    if len({task.name for task in plain}) != len(plain):
        raise UsageError("tasks", "two tasks have the same name")
    for task in tasks:
        try:
            spellings(task)
        except ValueError as error:
            raise UsageError(f"task {task.name!r}", str(error.args[0])) from None
    return plain


def _digest(table: Table, samples: Sequence[Sample], columns: Sequence[tuple[Files, ...]]) -> str:
    """SHA-256 over the manifest and, row by row, the image's and the masks' own SHA-256."""
    digest = hashlib.sha256(hashlib.sha256(table.data).digest())
    for i, sample in enumerate(samples):
        files = [file for column in columns for file in column[i]]
        parts = [sample.sha256, *("-" if file is None else file_sha256(file) for file in files)]
        digest.update(" ".join(parts).encode() + b"\n")
    return digest.hexdigest()


def _gap(size: Size) -> NDArray[np.uint8]:
    return np.full(size, IGNORE, np.uint8)
