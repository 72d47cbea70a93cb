"""Bad input of fundus sets and MedMNIST gets one line with place, fault and mend, and leaves no manifest."""

from __future__ import annotations

import io
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from made import picture
from made_eyes import (
    archive,
    make_aptos,
    make_deepdrid,
    make_drive,
    make_eyepacs,
    make_idrid,
    make_medmnist,
    make_messidor2,
    make_odir,
    make_refuge,
    make_refuge_kaggle,
)

from foveola.runtime.errors import FoveolaError
from foveola.toolkit import cli
from foveola.toolkit.data.layouts import sheets
from foveola.toolkit.data.layouts.sheets import read_sheet


def refused(capsys: pytest.CaptureFixture[str], *args: str | Path, code: int = 1) -> str:
    found = cli.main(["data", "import", *map(str, args)])
    lines = [line for line in capsys.readouterr().err.splitlines() if not line.startswith("[1/1]")]
    assert found == code
    assert len(lines) == 1, lines
    assert not list(Path(str(args[1])).glob("manifest.csv"))
    return lines[0]


def edited(make: Callable[[Path], Path], file: str, old: str, new: str) -> Callable[[Path], Path]:
    def edit(root: Path) -> Path:
        path = make(root) / file
        text = path.read_text()
        assert old in text
        path.write_text(text.replace(old, new, 1))
        return root

    return edit


GRADED = "B. Disease Grading/2. Groundtruths/a. IDRiD_Disease Grading_Training Labels.csv"
FOVEA = "C. Localization/2. Groundtruths/2. Fovea Center Location/IDRiD_Fovea_Center_Training Set_Markups.csv"
REGULAR = "DeepDRiD-master/regular_fundus_images/regular-fundus-training/regular-fundus-training.csv"
FAULTS = {
    "text in a grade": (
        "aptos",
        edited(make_aptos, "train.csv", "000000000003,3", "000000000003,severe"),
        ("train.csv line 5: diagnosis 'severe' is no whole number from 0 to 4; leave the cell empty",),
    ),
    "a grade that is none": (
        "eyepacs",
        edited(make_eyepacs, "trainLabels.csv", "10_right,0", "10_right,7"),
        ("trainLabels.csv line 3: level '7' is no whole number from 0 to 4",),
    ),
    "half a grade": (
        "messidor2",
        edited(make_messidor2, "messidor_data.csv", "PP.png,0,0,1", "PP.png,1.5,0,1"),
        ("messidor_data.csv line 2: grade '1.5' is no whole number from 0 to 4",),
    ),
    "a name of no eye": (
        "eyepacs",
        edited(make_eyepacs, "trainLabels.csv", "10_right", "10_middle"),
        ("trainLabels.csv line 3: another version of the file: image '10_middle'; expected is 10_left",),
    ),
    "a risk beyond two": (
        "idrid",
        edited(make_idrid, GRADED, "IDRiD_001,1,1", "IDRiD_001,1,3"),
        ("line 2: Risk of macular edema '3' is no whole number from 0 to 2",),
    ),
    "text in a coordinate": (
        "idrid",
        edited(make_idrid, FOVEA, "IDRiD_001,5.5", "IDRiD_001,left"),
        ("line 2: fovea_x 'left' is no number",),
    ),
    "a grade beyond ungradable": (
        "deepdrid",
        edited(make_deepdrid, REGULAR, "1_l1.jpg,1,1", "1_l1.jpg,1,6"),
        ("regular-fundus-training.csv line 2: DR level '6' is no whole number from 0 to 5",),
    ),
    "a label of an index": (
        "refuge",
        edited(make_refuge_kaggle, "REFUGE/val/index.json", '"Label": 1', '"Label": 2'),
        ("val/index.json: V0001.jpg: Label '2' is no whole number from 0 to 1",),
    ),
    "a column renamed": (
        "aptos",
        edited(make_aptos, "train.csv", "diagnosis", "level"),
        ("no column diagnosis", "its header is 'id_code,level', expected are 'id_code,diagnosis'"),
    ),
}  # fmt: skip


@pytest.mark.parametrize("title", FAULTS)
def test_a_cell_that_says_something_else_is_told_with_its_row(
    title: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    name, make, words = FAULTS[title]

    line = refused(capsys, name, make(tmp_path))

    assert all(word in line for word in words), line


def test_missing_files_are_counted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = make_aptos(tmp_path / "a")
    for number in range(12):
        (root / "train_images" / f"{number:012x}.png").unlink()
    odir = make_odir(tmp_path / "b")
    (odir / "ODIR-5K_Training_Images/ODIR-5K_Training_Dataset/2_right.jpg").write_bytes(b"")
    idrid = make_idrid(tmp_path / "c")
    (idrid / "A. Segmentation/1. Original Images/a. Training Set/IDRiD_03.jpg").unlink()
    refuge = make_refuge(tmp_path / "d")
    (refuge / "REFUGE-Test400/T0002.jpg").unlink()

    line = refused(capsys, "aptos", root)

    assert "12 of 30 files are missing or empty: train_images/000000000000.png, " in line
    assert "and 2 more; unpack all archives, or give --allow-missing" in line
    assert "2_right.jpg (0 bytes)" in refused(capsys, "odir", odir)
    assert "1 of 25 files are missing or empty: IDRiD_03.jpg of the training part" in refused(capsys, "idrid", idrid)
    assert "t0002.jpg of the test part" in refused(capsys, "refuge", refuge)
    assert cli.main(["data", "import", "aptos", str(root), "--allow-missing"]) == 0


def test_points_on_reduced_images_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = make_refuge(tmp_path / "a")
    for path in root.glob("REFUGE-*/**/*.jpg"):
        picture(path, (10, 9))

    line = refused(capsys, "refuge", root)

    assert "points in another coordinate system: 14 of 14 images, first REFUGE-Training400/" in line
    assert "g0001.jpg: fovea_x, fovea_y is 12.5, 15.25 in an image of 10x9" in line
    assert line.endswith("import the original images, not a reduced copy")


def test_wrong_names_of_layouts_are_mended(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = make_drive(tmp_path / "drive")

    assert "did you mean 'aptos'?" in refused(capsys, "aptoss", root, code=2)
    assert "did you mean 'medmnist'?" in refused(capsys, "medmist", root, code=2)
    assert "no such folder" in refused(capsys, "idrid", tmp_path / "nowhere")
    assert refused(capsys, "refuge", root).endswith("this looks like drive")
    assert "looked for trainLabels.csv or " in refused(capsys, "eyepacs", tmp_path / "drive" / "DRIVE" / "test")
    assert "--file: drive has no such option" in refused(capsys, "drive", root, "--file", "a.npz", code=2)


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
