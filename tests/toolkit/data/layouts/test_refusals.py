"""Bad input gets one line with place, fault and mend, and leaves no manifest."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from made import (
    make_chexpert,
    make_fracatlas,
    make_kermany,
    make_montgomery,
    make_mura,
    make_nih,
    make_tbx11k,
    picture,
)
from made_eyes import (
    make_aptos,
    make_deepdrid,
    make_drive,
    make_eyepacs,
    make_idrid,
    make_messidor2,
    make_odir,
    make_refuge,
    make_refuge_kaggle,
)
from refusing import Make, edited, refused

from foveola.toolkit import cli

FIRST = {  # the folders of the files that are taken away or emptied, first of all in order
    "nih": (make_nih, ("images_001/images", 5), ("images_002/images", 7), "12 of 15", "images/00000001_000.png,"),
    "aptos": (make_aptos, ("train_images", 12), ("", 0), "12 of 30", "train_images/000000000000.png, "),
}


@pytest.mark.parametrize("name", FIRST)
def test_missing_files_are_counted_and_the_first_ten_named(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make, (absent, some), (emptied, more), count, first = FIRST[name]
    root = make(tmp_path)
    for path in sorted((root / absent).iterdir())[:some]:
        path.unlink()
    for path in sorted((root / emptied).iterdir())[:more]:
        path.write_bytes(b"")

    line = refused(capsys, name, root)

    assert f"{count} files are missing or empty: {first}" in line
    assert line.count(".png") == 10
    assert "and 2 more; unpack all archives, or give --allow-missing" in line
    assert not (root / "manifest.csv").exists()
    assert cli.main(["data", "import", name, str(root), "--allow-missing"]) == 0


ONE = {
    "a mask of one side": (
        "montgomery",
        make_montgomery,
        "MontgomerySet/ManualMask/rightMask/MCUCXR_0002_0.png",
        "MontgomerySet/ManualMask/rightMask/MCUCXR_0002_0.png",
    ),
    "the image of a mask": (
        "idrid",
        make_idrid,
        "A. Segmentation/1. Original Images/a. Training Set/IDRiD_03.jpg",
        "1 of 25 files are missing or empty: IDRiD_03.jpg of the training part",
    ),
    "the image of a row": ("refuge", make_refuge, "REFUGE-Test400/T0002.jpg", "t0002.jpg of the test part"),
}


@pytest.mark.parametrize("title", ONE)
def test_a_file_of_which_another_one_speaks_is_missing(
    title: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    name, make, file, words = ONE[title]
    root = make(tmp_path)
    (root / file).unlink()

    assert words in refused(capsys, name, root)


def test_an_empty_file_is_as_good_as_missing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = make_odir(tmp_path)
    (root / "ODIR-5K_Training_Images/ODIR-5K_Training_Dataset/2_right.jpg").write_bytes(b"")

    assert "2_right.jpg (0 bytes)" in refused(capsys, "odir", root)


MURA = "MURA-v1.1"
GRADED = "B. Disease Grading/2. Groundtruths/a. IDRiD_Disease Grading_Training Labels.csv"
FOVEA = "C. Localization/2. Groundtruths/2. Fovea Center Location/IDRiD_Fovea_Center_Training Set_Markups.csv"
REGULAR = "DeepDRiD-master/regular_fundus_images/regular-fundus-training/regular-fundus-training.csv"
FAULTS: dict[str, tuple[str, Make, tuple[str, ...]]] = {
    "a column renamed of nih": (
        "nih",
        edited(make_nih, "Data_Entry_2017.csv", "Finding Labels", "Labels"),
        ("no column Finding Labels", "its header is 'Image Index,Labels,", "expected are 'Image Index,Finding Labels"),
    ),
    "a finding of another version": (
        "nih",
        edited(make_nih, "Data_Entry_2017.csv", "Effusion|", "Pleural Effusion|"),
        ("no finding 'Pleural Effusion'", "known are Atelectasis"),
    ),
    "boxes of another form": (
        "nih",
        edited(make_nih, "BBox_List_2017.csv", "Image Index,Finding Label,Bbox [x,y,w,h],,,", "image,label,x,y,w,h"),
        ("BBox_List_2017.csv", "its header is 'image,label,x,y,w,h'"),
    ),
    "observations missing": (
        "chexpert",
        edited(make_chexpert, "CheXpert-v1.0-small/train.csv", "Pleural Other,Fracture", "Pleural_Other,Fractures"),
        ("no column Pleural Other, Fracture;",),
    ),
    "paths of another form": (
        "chexpert",
        edited(make_chexpert, "CheXpert-v1.0-small/valid.csv", "/study1/", "/"),
        ("another version of the file: path 'CheXpert-v1.0-small/valid/", "expected is"),
    ),
    "a header where there was none": (
        "mura",
        edited(make_mura, f"{MURA}/train_labeled_studies.csv", f"{MURA}/train/XR_WRIST/patient00001", "study,label\n"),
        ("train_labeled_studies.csv line 1", "'study,label'", "without a header"),
    ),
    "drawings without images": (
        "fracatlas",
        edited(make_fracatlas, "FracAtlas/Annotations/COCO JSON/COCO_fracture_masks.json", '"images"', '"pictures"'),
        ("COCO_fracture_masks.json", "another version of the file"),
    ),
    "a label of another version": (
        "tbx11k",
        edited(make_tbx11k, "TBX11K/annotations/json/TBX11K_val.json", "ActiveTuberculosis", "Active"),
        ("TBX11K_val.json", "no label 'Active'"),
    ),
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
    "a column renamed of aptos": (
        "aptos",
        edited(make_aptos, "train.csv", "diagnosis", "level"),
        ("no column diagnosis", "its header is 'id_code,level', expected are 'id_code,diagnosis'"),
    ),
}  # fmt: skip


@pytest.mark.parametrize("title", FAULTS)
def test_a_table_that_says_something_else_is_refused_with_its_place(
    title: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    name, make, words = FAULTS[title]

    line = refused(capsys, name, make(tmp_path))

    assert all(word in line for word in words), line


def test_boxes_of_the_xml_in_the_json_are_refused_with_the_trap(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = make_tbx11k(tmp_path)
    path = root / "TBX11K/annotations/json/TBX11K_train.json"
    coco = json.loads(path.read_text())
    for box in coco["annotations"]:
        box["bbox"] = [value * 6 for value in box["bbox"]]
    path.write_text(json.dumps(coco))

    line = refused(capsys, "tbx11k", root)

    assert "another coordinate system: 5 of 11 images, first TBX11K/imgs/tb/tb0001.png" in line
    assert "the box 600,720 to 1800,1620 is outside of the image of 512x512" in line
    assert "XML boxes in those of the original radiograph" in line
    assert cli.main(["data", "import", "tbx11k", str(root), "--boxes", "xml"]) == 0


@pytest.mark.parametrize(
    ("name", "make"),
    [("nih", lambda root: make_nih(root, side=224)), ("fracatlas", None)],
    ids=["reduced images", "enlarged images"],
)
def test_boxes_of_the_original_on_resized_images_are_refused(
    name: str, make: Callable[[Path], Path] | None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    if make is None:
        make_fracatlas(tmp_path)
        for path in (tmp_path / "FracAtlas/images/Fractured").iterdir():
            picture(path, (128, 96))
    else:
        make(tmp_path)

    line = refused(capsys, name, tmp_path)

    assert "another coordinate system" in line
    assert "original" in line


def test_another_layout_is_recognised(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = make_kermany(tmp_path / "kermany")

    line = refused(capsys, "mura", root)

    assert "looked for train_image_paths.csv or valid_image_paths.csv, train or valid" in line
    assert line.endswith("this looks like kermany")
    assert refused(capsys, "refuge", make_drive(tmp_path / "drive")).endswith("this looks like drive")


def test_a_folder_with_nothing_in_it_is_no_layout(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "looked for Data_Entry_2017.csv" in refused(capsys, "nih", tmp_path)
    assert "no such folder" in refused(capsys, "nih", tmp_path / "nowhere")
    assert "no such folder" in refused(capsys, "idrid", tmp_path / "nowhere")
    root = make_drive(tmp_path / "drive")
    assert "looked for trainLabels.csv or " in refused(capsys, "eyepacs", root / "DRIVE" / "test")


def test_two_data_sets_in_one_root_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make_chexpert(tmp_path)
    make_chexpert(tmp_path, name="CheXpert-v1.0")

    assert "holds the layout 2 times" in refused(capsys, "chexpert", tmp_path, code=2)


def test_a_manifest_that_is_there_is_not_replaced_unasked(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = make_kermany(tmp_path)
    (root / "manifest.csv").write_text("mine")

    assert "is there already; give --force" in refused(capsys, "kermany", root)
    assert (root / "manifest.csv").read_text() == "mine"
    assert cli.main(["data", "import", "kermany", str(root), "--force"]) == 0
    assert (root / "manifest.csv").read_text() != "mine"


@pytest.mark.parametrize("out", ["sub/manifest.csv", "../manifest.csv", "manifest.txt"])
def test_a_manifest_elsewhere_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str], out: str) -> None:
    root = make_kermany(tmp_path / "kermany")

    assert "is not a CSV directly in" in refused(capsys, "kermany", root, "--out", root / out, code=2)


def test_wrong_words_on_the_command_line_are_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = make_kermany(tmp_path)

    assert "did you mean 'kermany'?" in refused(capsys, "kermani", root, code=2)
    assert "did you mean 'aptos'?" in refused(capsys, "aptoss", root, code=2)
    assert "did you mean 'medmnist'?" in refused(capsys, "medmist", root, code=2)
    assert "known: nih, chexpert" in refused(capsys, "zzz", root, code=2)
    assert "--uncertain: kermany has no such option" in refused(capsys, "kermany", root, "--uncertain", "one", code=2)
    drive = make_drive(tmp_path / "drive")
    assert "--file: drive has no such option" in refused(capsys, "drive", drive, "--file", "a.npz", code=2)
