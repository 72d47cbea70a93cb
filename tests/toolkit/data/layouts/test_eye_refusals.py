"""Points on reduced images, archives of arrays and sheets: one line with place, fault and mend, and no manifest.

What all layouts refuse alike is in `test_refusals.py`.
"""

from __future__ import annotations

import io
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from made import picture
from made_eyes import archive, make_medmnist, make_refuge
from refusing import refused

from foveola.runtime.errors import FoveolaError
from foveola.toolkit import cli
from foveola.toolkit.data.layouts import sheets
from foveola.toolkit.data.layouts.sheets import read_sheet


def test_points_on_reduced_images_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = make_refuge(tmp_path / "a")
    for path in root.glob("REFUGE-*/**/*.jpg"):
        picture(path, (10, 9))

    line = refused(capsys, "refuge", root)

    assert "points in another coordinate system: 14 of 14 images, first REFUGE-Training400/" in line
    assert "g0001.jpg: fovea_x, fovea_y is 12.5, 15.25 in an image of 10x9" in line
    assert line.endswith("import the original images, not a reduced copy")


def test_pickled_arrays_are_never_read(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    boom = np.array([_Boom()], dtype=object)
    images = np.zeros((1, 8, 8), np.uint8)
    np.savez(tmp_path / "retinamnist.npz", train_images=images, train_labels=boom)

    line = refused(capsys, "medmnist", tmp_path)

    assert "train_labels: holds pickled objects, which are never read" in line


class _Boom:
    def __reduce__(self) -> tuple[Callable[[str], None], tuple[str]]:
        return (sys.exit, ("unpickled",))


def arrays(**changed: object) -> Callable[[Path], None]:
    def write(path: Path) -> None:
        archive(path)
        with np.load(path) as opened:
            kept = {name: opened[name] for name in opened.files} | changed
        np.savez(path, **{name: np.asarray(one) for name, one in kept.items() if one is not None})  # type: ignore[arg-type]

    return write


def cut(path: Path) -> None:
    archive(path)
    path.write_bytes(path.read_bytes()[:300])


def without_end(path: Path) -> None:
    stream = io.BytesIO()
    np.save(stream, np.zeros((9, 8, 8, 3), np.uint8))
    labels = io.BytesIO()
    np.save(labels, np.zeros((9, 1), np.uint8))
    with zipfile.ZipFile(path, "w") as opened:
        opened.writestr("train_images.npy", stream.getvalue()[:-50])
        opened.writestr("train_labels.npy", labels.getvalue())


ARCHIVES: dict[str, tuple[Callable[[Path], None], str]] = {
    "volumes": (arrays(train_images=np.zeros((12, 8, 8, 8), np.uint8)), "train_images holds volumes (12 x 8 x 8 x 8)"),
    "a label too many": (arrays(val_labels=np.full((4, 1), 5)), "val_labels: label 5 is none of 0 to 4"),
    "labels below zero": (arrays(val_labels=np.full((4, 1), -1)), "label -1 is none of 0 to 4"),
    "fewer labels": (arrays(test_labels=np.zeros((5, 1), np.uint8)), "6 images, but 5 labels in test"),
    "labels too many an image": (arrays(test_labels=np.zeros((6, 2), int)), "test_labels is 6 x 2, expected are 1 an"),
    "labels of another kind": (arrays(test_labels=np.zeros((6, 1))), "holds float64, not whole numbers"),
    "pictures of another kind": (arrays(train_images=np.zeros((12, 8, 8), np.float32)), "holds float32, not uint8"),
    "pictures by columns": (
        arrays(train_images=np.asfortranarray(np.zeros((12, 8, 8, 3), np.uint8))),
        "is stored column by column",
    ),
    "a cut file": (cut, "no readable archive of arrays"),
    "a cut array": (without_end, "train_images: is cut off"),
    "other arrays": (lambda path: np.savez(path, x=np.zeros(3)), "another layout: holds x; expected are train_images"),
}


@pytest.mark.parametrize("title", ARCHIVES)
def test_archives_of_another_form_are_refused(title: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write, words = ARCHIVES[title]
    write(tmp_path / "retinamnist.npz")

    assert words in refused(capsys, "medmnist", tmp_path)


def test_one_set_in_two_sizes_is_refused_until_one_is_chosen(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = make_medmnist(tmp_path)
    archive(root / "retinamnist_64.npz", side=16)

    line = refused(capsys, "medmnist", root, code=2)

    assert line.endswith(
        "retinamnist.npz and retinamnist_64.npz are the same pictures in two sizes; "
        "choose one, such as --file retinamnist_64.npz"
    )
    assert "did you mean 'retinamnist.npz'?" in refused(capsys, "medmnist", root, "--file", "retinamnit.npz")
    assert cli.main(["data", "import", "medmnist", str(root), "--file", "retinamnist_64.npz"]) == 0


def test_a_sheet_that_is_none_or_too_large_or_cannot_be_read_at_all_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken, other = tmp_path / "a.xlsx", tmp_path / "b.xlsx"
    broken.write_bytes(b"PK no workbook")
    with zipfile.ZipFile(other, "w") as opened:
        opened.writestr("hello.txt", "hello")

    for path, words in (
        (broken, "not an Excel workbook"),
        (other, "not an Excel workbook"),
        (tmp_path / "c.xlsx", "read"),
    ):
        with pytest.raises(FoveolaError, match=words):
            list(read_sheet(path))
    monkeypatch.setattr(sheets, "MOST_BYTES", 3)
    with pytest.raises(FoveolaError, match="unpacks to 5 bytes, at most 3 are read"):
        list(read_sheet(other))
    monkeypatch.setitem(sys.modules, "openpyxl", None)
    with pytest.raises(FoveolaError, match=r"openpyxl is not installed; pip install openpyxl, or save .* b\.csv"):
        list(read_sheet(other))
