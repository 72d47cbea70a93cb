"""MedMNIST: pictures as they are stored, labels in words, the official split; also the real RetinaMNIST."""

from __future__ import annotations

import csv
import shutil
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from made_eyes import archive, make_medmnist
from PIL import Image

from foveola.toolkit import cli
from foveola.toolkit.data.layouts.importing import import_layout
from foveola.toolkit.data.layouts.medmnist import read_medmnist
from foveola.toolkit.data.layouts.medmnist_sets import FINDINGS, FORMER, ORGANS, SETS, organ_cells

REAL = Path(__file__).resolve().parents[5] / "shared" / "data" / "medmnist" / "retinamnist.npz"
SECTION_3_3 = {  # of the specification: organ group (8), laterality (3), region (3)
    "organ_group": {"bladder", "femur", "heart", "kidney", "liver", "lung", "pancreas", "spleen"},
    "side": {"left", "right", "unpaired"},
    "region": {"thorax", "abdomen", "pelvis"},
}


def rows_of(manifest: Path) -> list[dict[str, str]]:
    with manifest.open(newline="", encoding="utf-8") as stream:
        return list(csv.DictReader(stream))


@pytest.mark.parametrize("name", ["retinamnist.npz", "organcmnist_64.npz"])
def test_pictures_are_unpacked_as_they_are_stored(tmp_path: Path, name: str) -> None:
    root = make_medmnist(tmp_path)

    import_layout("medmnist", root, options={"file": name})

    rows = rows_of(root / "manifest.csv")
    assert Counter(row["split"] for row in rows) == {"train": 12, "val": 4, "test": 6}
    with np.load(root / name, allow_pickle=False) as opened:
        for row in rows:
            index = int(row["file"].removesuffix(".png").split("_")[-1])
            assert np.array_equal(np.asarray(Image.open(root / row["file"])), opened[f"{row['split']}_images"][index])


def test_organs_get_group_side_and_region(tmp_path: Path) -> None:
    root = make_medmnist(tmp_path)

    import_layout("medmnist", root, options={"file": "organcmnist_64.npz"})

    rows = rows_of(root / "manifest.csv")
    train = [row for row in rows if row["split"] == "train"]
    assert [row["organ"] for row in train][:11] == list(ORGANS)
    assert {row["plane"] for row in rows} == {"coronal"}
    made = [organ_cells(organ) for organ in ORGANS]
    assert {name: {cells[name] for cells in made} for name in SECTION_3_3} == SECTION_3_3
    # Group and side together are the organ again, so that the accuracy of all eleven can be told from two tasks.
    assert len({(cells["organ_group"], cells["side"]) for cells in made}) == len(ORGANS)
    assert organ_cells("lung-right") | {"organ": ""} == {
        "organ": "",
        "organ_group": "lung",
        "side": "right",
        "region": "thorax",
    }


def test_several_labels_are_a_column_each_and_zero_is_malignant(tmp_path: Path) -> None:
    root = make_medmnist(tmp_path)

    import_layout("medmnist", root)

    rows = {row["file"].removeprefix("foveola/images/"): row for row in rows_of(root / "manifest.csv")}
    chest = rows["chestmnist/train_01.png"]
    assert [chest[f"finding_{name}"] for name in FINDINGS] == ["0", "1"] * 7
    assert chest["malignant"] == chest["dr_grade"] == ""
    with np.load(root / "breastmnist.npz", allow_pickle=False) as opened:
        for index, label in enumerate(opened["train_labels"][:, 0]):
            assert rows[f"breastmnist/train_{index:02d}.png"]["malignant"] == str(1 - int(label))


def test_a_part_without_labels_is_left_out_and_counted(tmp_path: Path) -> None:
    path = archive(tmp_path / "retinamnist.npz")
    with np.load(path) as opened:
        kept = {name: opened[name] for name in opened.files if name != "test_labels"}
    np.savez(path, **kept)

    layout = read_medmnist(tmp_path)

    assert Counter(one.part for one in layout.pictures) == {"train": 12, "val": 4}
    assert layout.dropped == {"images without labels (test)": ("6 of retinamnist.npz",)}


def test_another_file_than_the_published_one_is_told_and_a_set_of_ones_own_keeps_numbers(tmp_path: Path) -> None:
    archive(tmp_path / "retinamnist.npz")
    archive(tmp_path / "retinamist.npz", classes=7)
    archive(tmp_path / "mine.npz", labels=3)

    layout = read_medmnist(tmp_path)

    assert any(
        note.startswith("WARNING: retinamnist.npz is not the published file: its MD5 is") for note in layout.notes
    )
    unknown = [note for note in layout.notes if "none of the sets that are known" in note]
    assert [note.endswith("did you mean 'retinamnist'?") for note in unknown] == [False, True]
    assert layout.targets == ("label_0", "label_1", "label_2", "label", "dr_grade")


def test_the_names_of_version_one_are_known(tmp_path: Path) -> None:
    archive(tmp_path / "organmnist_axial.npz", classes=11, colour=False)

    layout = read_medmnist(tmp_path)

    assert {one.cells["plane"] for one in layout.pictures} == {"axial"}
    assert set(FORMER.values()) <= set(SETS)


def test_the_table_of_sets_is_whole() -> None:
    assert len(SETS) == 12
    sums = [one for known in SETS.values() for one in known.md5.values()]
    assert len(sums) == len(set(sums)) == 48
    assert {len(one) for one in sums} == {32}
    assert SETS["organcmnist"].md5 == {  # of the specification, 6.10
        28: "b9ceb9546e10131b32923c5bbeaea2b1",
        64: "3ce34a8724ea6f548e6db4744d03b6a9",
        128: "773c1f009daa3fe5d9a2a201b2a7ed94",
        224: "050f5e875dc056f6768abf94ec9995d1",
    }


@pytest.mark.skipif(not REAL.is_file(), reason="needs the shared data")
def test_the_real_retinamnist_is_imported_and_clean(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.copyfile(REAL, tmp_path / REAL.name)

    done = import_layout("medmnist", tmp_path)

    assert done.images == {"train": 1080, "val": 120, "test": 400}
    assert not any("WARNING" in note for note in done.notes)  # its MD5 is the published one
    grades = Counter(row["dr_grade"] for row in rows_of(done.manifest) if row["split"] == "train")
    assert grades == {"0": 486, "1": 128, "2": 206, "3": 194, "4": 66}
    assert cli.main(["data", "check", str(tmp_path)]) == 0
    assert "0 error(s), 0 warning(s)" in capsys.readouterr().out
