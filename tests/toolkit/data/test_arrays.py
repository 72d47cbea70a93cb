from __future__ import annotations

import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from foveola.runtime.errors import FoveolaError
from foveola.runtime.image import prepare, read_image
from foveola.runtime.manifest import InputSpec
from foveola.runtime.task import Task
from foveola.toolkit.data import sealed
from foveola.toolkit.data.arrays import prepare_arrays
from foveola.toolkit.data.dataset import Dataset, read_dataset

SPEC = InputSpec(height=32, width=40, channels=1)
TASKS = (
    Task(name="lungs", kind="segmentation", classes=("right", "left"), columns=("mask",)),
    Task(name="each", kind="segmentation", classes=("x",), columns=("mask",), exclusive=False),
    Task(name="spots", kind="detection", classes=("nodule",), columns=("boxes",)),
    Task(name="age", kind="regression", classes=("years",), columns=("age",)),
)


@pytest.fixture
def dataset(tiny: Path) -> Dataset:
    return read_dataset(tiny, TASKS)


def test_images_are_fed_by_the_devices_own_functions(dataset: Dataset) -> None:
    arrays = prepare_arrays(dataset, SPEC)

    for fed, sample in zip(arrays.images, dataset.samples, strict=True):
        np.testing.assert_array_equal(fed, prepare(read_image(sample.path), SPEC)[0])
    assert arrays.images.dtype == np.float32
    assert len(arrays) == 4


def test_boxes_and_masks_move_with_the_image(dataset: Dataset) -> None:
    arrays = prepare_arrays(dataset, SPEC)  # twice the size of the image

    np.testing.assert_array_equal(arrays.boxes["spots"][0], [[4, 6, 20, 18, 0]])
    assert arrays.boxes["spots"][1] is None
    first, gap = arrays.masks["lungs"][0], arrays.masks["lungs"][1]
    assert (first[8:24, 4:16] == 1).all()
    assert (first[8:24, 24:36] == 2).all()
    assert (first == 1).sum() == 4 * 48
    assert (gap == 255).all()
    assert arrays.masks["each"].shape == (4, 1, 32, 40)


def test_padding_is_background_and_a_box_outside_the_crop_is_dropped(tiny: Path) -> None:
    light = np.zeros((16, 20), np.uint8)
    light[:, 10:] = np.arange(100, 110, dtype=np.uint8)
    Image.fromarray(light).save(tiny / "a.png")
    spec = InputSpec(height=32, width=32, channels=1, crop="fov")

    arrays = prepare_arrays(read_dataset(tiny, TASKS).take([0]), spec)

    geometry = arrays.geometries[0]
    assert geometry.x0 > 2
    boxes = arrays.boxes["spots"][0]
    assert boxes is not None
    assert len(boxes) == (1 if geometry.x0 < 10 else 0)
    assert geometry.pad_x > 0
    assert (arrays.masks["lungs"][0][:, : geometry.pad_x] == 0).all()


def test_a_second_run_maps_the_first_ones_files(dataset: Dataset, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    calls: list[tuple[int, int]] = []
    first = prepare_arrays(dataset, SPEC, cache=cache, progress=lambda done, total: calls.append((done, total)))
    files = {path.name: path.stat().st_mtime_ns for path in cache.iterdir()}

    second = prepare_arrays(dataset, SPEC, cache=cache, progress=lambda done, total: calls.append((done, total)))

    assert calls == [(1, 4), (2, 4), (3, 4), (4, 4)]
    assert files == {path.name: path.stat().st_mtime_ns for path in cache.iterdir()}
    assert isinstance(second.images, np.memmap)
    assert second.geometries == first.geometries
    plain = prepare_arrays(dataset, SPEC)
    np.testing.assert_array_equal(second.images, plain.images)
    for name, masks in plain.masks.items():
        np.testing.assert_array_equal(second.masks[name], masks)


def test_another_input_or_another_image_is_another_file(dataset: Dataset, tiny: Path, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    prepare_arrays(dataset, SPEC, cache=cache)

    prepare_arrays(dataset, InputSpec(height=32, width=32, channels=1), cache=cache)
    assert len(list(cache.glob("images-*.npy"))) == 2
    Image.new("L", (20, 16), 77).save(tiny / "a.png")
    changed = prepare_arrays(read_dataset(tiny, TASKS), SPEC, cache=cache)
    assert len(list(cache.glob("images-*.npy"))) == 3
    np.testing.assert_allclose(changed.images[0], 77 / 255, rtol=1e-6)


def test_normalisation_is_the_graphs_and_makes_no_other_file(dataset: Dataset, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    prepare_arrays(dataset, SPEC, cache=cache)

    prepare_arrays(dataset, InputSpec(height=32, width=40, channels=1, mean=(0.1,), std=(0.9,)), cache=cache)

    assert len(list(cache.glob("images-*.npy"))) == 1


@pytest.mark.parametrize("damage", ["truncated", "bit", "no-seal"])
@pytest.mark.parametrize("pattern", ["images-*.npy", "images-*.json", "mask-lungs-*.npy"])
def test_a_damaged_cache_file_is_made_anew(dataset: Dataset, tmp_path: Path, pattern: str, damage: str) -> None:
    cache = tmp_path / "cache"
    before = prepare_arrays(dataset, SPEC)
    prepare_arrays(dataset, SPEC, cache=cache)
    whole = {path.name: path.read_bytes() for path in cache.iterdir()}
    (path,) = cache.glob(pattern)
    match damage:
        case "truncated":
            path.write_bytes(path.read_bytes()[:90])
        case "bit":
            data = bytearray(path.read_bytes())
            data[-9] ^= 4
            path.write_bytes(data)
        case _:
            path.with_name(path.name + ".seal").unlink()
    sealed._whole.clear()  # as another process would begin

    arrays = prepare_arrays(dataset, SPEC, cache=cache)

    np.testing.assert_array_equal(arrays.images, before.images)
    np.testing.assert_array_equal(arrays.masks["lungs"], before.masks["lungs"])
    assert arrays.geometries == before.geometries
    assert {path.name: path.read_bytes() for path in cache.iterdir()} == whole


def test_images_go_to_the_cache_without_being_held_together(tiny: Path, tmp_path: Path) -> None:
    one = read_dataset(tiny, ()).take([0] * 600)
    spec = InputSpec(height=128, width=128, channels=1)
    tracemalloc.start()

    arrays = prepare_arrays(one, spec, cache=tmp_path / "cache")

    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert arrays.images.nbytes == 600 * 128 * 128 * 4
    assert peak < arrays.images.nbytes / 3


def test_all_images_that_cannot_be_read_are_told_at_once_and_nothing_is_left(tiny: Path, tmp_path: Path) -> None:
    (tiny / "a.png").write_text("a text file")
    whole = (tiny / "b.png").read_bytes()
    (tiny / "b.png").write_bytes(whole[: len(whole) // 2])
    cache = tmp_path / "cache"

    with pytest.raises(FoveolaError, match=r"2 faults.*a\.png.*b\.png"):
        prepare_arrays(read_dataset(tiny, TASKS), SPEC, cache=cache)

    assert list(cache.iterdir()) == []


def test_no_images_are_no_arrays_and_no_crash(dataset: Dataset, tmp_path: Path) -> None:
    arrays = prepare_arrays(dataset.subset("calibration"), SPEC, cache=tmp_path / "cache")

    assert arrays.images.shape == (0, 1, 32, 40)
    assert arrays.masks["each"].shape == (0, 1, 32, 40)
