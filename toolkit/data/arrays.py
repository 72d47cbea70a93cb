"""A data set as arrays for training, fed by the very functions that feed the device (`runtime/image.py`).

- Nothing is augmented or normalised here.
- With a cache folder, images and masks are files of plain `.npy`, mapped into memory: they need not fit into it. A
  file's name carries a digest of all that its content depends on.
- A cache file is used only if its bytes are those that were written (`sealed.py`); any other is made anew.

Shapes: N images, C channels (or classes), H and W of the network's input, M boxes.
"""

from __future__ import annotations

import hashlib
import io
import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

import msgspec
import numpy as np
import PIL
from numpy.typing import NDArray

from ...runtime import image as feeding
from ...runtime.errors import FoveolaError
from ...runtime.image import Geometry, decode_image, prepare, prepare_mask
from ...runtime.manifest import InputSpec
from ...runtime.task import Task
from .dataset import Boxes, Dataset, load_mask
from .faults import Faults
from .masks import IGNORE
from .samples import Sample
from .sealed import is_whole, write_sealed

VERSION = 1  # raised whenever this file makes other arrays out of the same files
MIN_SIDE = 0.5  # input pixels: what is left of a box that lies outside the crop is no box

BATCH = 64  # images in the works at once

T = TypeVar("T", np.float32, np.uint8)
Progress = Callable[[int, int], None]  # done, total


class Arrays(msgspec.Struct, frozen=True, kw_only=True, eq=False):
    """Images and targets at the network's input size, in the order of the data set.

    Args:
        images: (N, C, H, W) float32 in 0..1; read-only and mapped from a file where there is a cache.
        scalars: by task: (N, columns) float32; NaN is a gap.
        masks: by segmentation task: uint8 (N, H, W), or (N, C, H, W) where not exclusive; 255 is ignore or a gap.
        boxes: by detection task: for each image (M, 5) x1, y1, x2, y2 in input pixels and the label index, or None.
        geometries: for each image where it lies in the input.
        samples: the images.
    """

    images: NDArray[np.float32]
    scalars: dict[str, NDArray[np.float32]]
    masks: dict[str, NDArray[np.uint8]]
    boxes: dict[str, tuple[Boxes | None, ...]]
    geometries: tuple[Geometry, ...]
    samples: tuple[Sample, ...]

    def __len__(self) -> int:
        return len(self.samples)


def prepare_arrays(
    dataset: Dataset, spec: InputSpec, *, cache: Path | None = None, progress: Progress | None = None
) -> Arrays:
    """Feed every image and its targets through the device's preprocessing.

    Args:
        dataset: what to read.
        spec: the network's input.
        cache: folder for the prepared images and masks; may be shared by many runs. None keeps all in memory.
        progress: called with how many images are done and how many there are.

    Raises:
        FoveolaError: images or masks that cannot be read; one line with all of them, the first ones quoted.
    """
    if cache is not None:
        cache.mkdir(parents=True, exist_ok=True)
    images, geometries = _images(dataset, spec, cache, progress)
    masks = {name: _masks(dataset, dataset.task(name), spec, geometries, cache) for name in dataset.masks}
    boxes = {
        name: tuple(
            None if one is None else _boxes_to_input(one, geometry)
            for one, geometry in zip(found, geometries, strict=True)
        )
        for name, found in dataset.boxes.items()
    }
    return Arrays(
        images=images,
        scalars=dict(dataset.scalars),
        masks=masks,
        boxes=boxes,
        geometries=geometries,
        samples=dataset.samples,
    )


def _images(
    dataset: Dataset, spec: InputSpec, cache: Path | None, progress: Progress | None
) -> tuple[NDArray[np.float32], tuple[Geometry, ...]]:
    shape = (len(dataset), spec.channels, spec.height, spec.width)
    key = _key([sample.sha256 for sample in dataset.samples], spec)
    stored = None if cache is None else cache / f"images-{key}.npy"
    if stored is not None:
        images, geometries = _stored(stored, shape, np.float32), _stored_geometries(stored.with_suffix(".json"))
        if images is not None and len(geometries) == len(dataset):
            return images, geometries

    found: list[Geometry | None] = [None] * len(dataset)

    def one(index: int) -> NDArray[np.float32]:
        sample = dataset.samples[index]
        x_CHW, found[index] = prepare(decode_image(sample.path, str(sample.path)), spec)
        return x_CHW

    images = _fill(shape, np.float32, one, stored, str(dataset.root), progress)
    geometries = tuple(geometry for geometry in found if geometry is not None)
    if stored is not None:
        write_sealed(stored.with_suffix(".json"), [msgspec.json.encode(geometries)])
    return images, geometries


def _masks(
    dataset: Dataset, task: Task, spec: InputSpec, geometries: tuple[Geometry, ...], cache: Path | None
) -> NDArray[np.uint8]:
    channels = () if task.exclusive else (len(task.classes),)
    shape = (len(dataset), *channels, spec.height, spec.width)
    keys = [dataset.digest, *(sample.key for sample in dataset.samples)]
    what = (task.name, task.classes, task.manifest_columns, task.ignore_column, task.exclusive)
    stored = None if cache is None else cache / f"mask-{task.name}-{_key([*keys, repr(what)], spec)}.npy"
    if stored is not None and (masks := _stored(stored, shape, np.uint8)) is not None:
        return masks
    known = dataset.known(task.name)

    def one(index: int) -> NDArray[np.uint8]:
        if not known[index]:
            return np.full(shape[1:], IGNORE, np.uint8)
        geometry = geometries[index]
        target = load_mask(dataset, task.name, index, (geometry.image_height, geometry.image_width))
        if task.exclusive:
            return prepare_mask(target, spec, geometry)
        fed = [prepare_mask(channel, spec, geometry) for channel in target]
        for channel, file in zip(fed, dataset.masks[task.name][index], strict=True):
            if file is None:
                channel[:] = IGNORE  # the padding of a gap is not known either
        return np.stack(fed)

    return _fill(shape, np.uint8, one, stored, str(dataset.root), None)


def _boxes_to_input(boxes: Boxes, geometry: Geometry) -> Boxes:
    moved = geometry.boxes_to_input(boxes).astype(np.float32)
    sides = moved[:, 2:4] - moved[:, :2]
    return np.asarray(moved[(sides >= MIN_SIDE).all(axis=1)])


def _fill(
    shape: tuple[int, ...],
    dtype: type[T],
    one: Callable[[int], NDArray[T]],
    stored: Path | None,
    place: str,
    progress: Progress | None,
) -> NDArray[T]:
    """Make an array out of its first axis' entries, in memory or as a file that is mapped read-only."""
    parts = _computed(shape[0], one, place, progress)
    if stored is None or shape[0] == 0:
        array = np.empty(shape, dtype)
        for index, part in enumerate(parts):
            array[index] = part
        return array
    write_sealed(stored, _npy(shape, dtype, parts))
    mapped = _stored(stored, shape, dtype)
    assert mapped is not None, stored
    return mapped


def _npy(shape: tuple[int, ...], dtype: type[T], parts: Iterable[NDArray[T]]) -> Iterator[bytes | memoryview]:
    """A `.npy` file in parts: its header, then one entry at a time."""
    head = io.BytesIO()
    header = {"descr": np.dtype(dtype).str, "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(head, header)
    yield head.getvalue()
    for part in parts:
        yield np.ascontiguousarray(part, dtype).data


def _computed(
    count: int, one: Callable[[int], NDArray[T]], place: str, progress: Progress | None
) -> Iterator[NDArray[T]]:
    """Make the entries in order, by as many threads as there are cores (decoding lets go of Python's lock).

    Raises:
        FoveolaError: at the end, with all that could not be read.
    """
    faults = Faults()

    def caught(index: int) -> NDArray[T] | FoveolaError:
        try:
            return one(index)
        except FoveolaError as error:
            return error

    done = 0
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for start in range(0, count, BATCH):
            for part in pool.map(caught, range(start, min(start + BATCH, count))):
                done += 1
                if progress is not None:
                    progress(done, count)
                if isinstance(part, FoveolaError):
                    faults.add(part)
                else:
                    yield part
    faults.refuse(place)


def _stored(path: Path, shape: tuple[int, ...], dtype: type[T]) -> NDArray[T] | None:
    """Map the array of a cache file; None where it is not there or was damaged since."""
    if shape[0] == 0 or not is_whole(path):
        return None
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError):
        return None
    return array if array.shape == shape and array.dtype == dtype else None


def _stored_geometries(path: Path) -> tuple[Geometry, ...]:
    try:
        return msgspec.json.decode(path.read_bytes(), type=tuple[Geometry, ...]) if is_whole(path) else ()
    except (OSError, msgspec.DecodeError, UnicodeDecodeError):
        return ()


def _key(parts: Iterable[str], spec: InputSpec) -> str:
    """Make a digest of all that prepared arrays depend on; it hashes the feeding's code, so nobody can forget it."""
    # The mean and std are part of the graph, not of the feeding.
    fed = msgspec.structs.replace(spec, mean=(), std=())
    code = Path(feeding.__file__).read_bytes()
    head = [str(VERSION), PIL.__version__, hashlib.sha256(code).hexdigest(), msgspec.json.encode(fed).decode()]
    return hashlib.sha256("\n".join([*head, *parts]).encode()).hexdigest()[:24]
