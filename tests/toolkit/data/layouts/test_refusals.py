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

from foveola.toolkit import cli


def refused(capsys: pytest.CaptureFixture[str], *args: str | Path, code: int = 1) -> str:
    found = cli.main(["data", "import", *map(str, args)])
    lines = [line for line in capsys.readouterr().err.splitlines() if not line.startswith("[1/1]")]
    assert found == code
    assert len(lines) == 1, lines
    return lines[0]


def test_missing_files_are_counted_and_the_first_ten_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = make_nih(tmp_path)
    for path in sorted((root / "images_001" / "images").iterdir())[:5]:
        path.unlink()
    for path in sorted((root / "images_002" / "images").iterdir())[:7]:
        path.write_bytes(b"")

    line = refused(capsys, "nih", root)

    assert "12 of 15 files are missing or empty: images/00000001_000.png," in line
    assert line.count(".png") == 10
    assert "and 2 more" in line
    assert "--allow-missing" in line
    assert not (root / "manifest.csv").exists()


def test_a_mask_without_its_other_side_is_missing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = make_montgomery(tmp_path)
    (root / "MontgomerySet/ManualMask/rightMask/MCUCXR_0002_0.png").unlink()

    assert "MontgomerySet/ManualMask/rightMask/MCUCXR_0002_0.png" in refused(capsys, "montgomery", root)


def _edited(make: Callable[[Path], Path], file: str, old: str, new: str) -> Callable[[Path], Path]:
    def edit(root: Path) -> Path:
        path = make(root) / file
        text = path.read_text()
        assert old in text
        path.write_text(text.replace(old, new))
        return root

    return edit


MURA = "MURA-v1.1"
VERSIONS = {
    "a column renamed": (
        "nih",
        _edited(make_nih, "Data_Entry_2017.csv", "Finding Labels", "Labels"),
        ("no column Finding Labels", "its header is 'Image Index,Labels,", "expected are 'Image Index,Finding Labels"),
    ),
    "a finding of another version": (
        "nih",
        _edited(make_nih, "Data_Entry_2017.csv", "Effusion|", "Pleural Effusion|"),
        ("no finding 'Pleural Effusion'", "known are Atelectasis"),
    ),
    "boxes of another form": (
        "nih",
        _edited(make_nih, "BBox_List_2017.csv", "Image Index,Finding Label,Bbox [x,y,w,h],,,", "image,label,x,y,w,h"),
        ("BBox_List_2017.csv", "its header is 'image,label,x,y,w,h'"),
    ),
    "observations missing": (
        "chexpert",
        _edited(make_chexpert, "CheXpert-v1.0-small/train.csv", "Pleural Other,Fracture", "Pleural_Other,Fractures"),
        ("no column Pleural Other, Fracture;",),
    ),
    "paths of another form": (
        "chexpert",
        _edited(make_chexpert, "CheXpert-v1.0-small/valid.csv", "/study1/", "/"),
        ("another version of the file: path 'CheXpert-v1.0-small/valid/", "expected is"),
    ),
    "a header where there was none": (
        "mura",
        _edited(make_mura, f"{MURA}/train_labeled_studies.csv", f"{MURA}/train/XR_WRIST/patient00001", "study,label\n"),
        ("train_labeled_studies.csv line 1", "'study,label'", "without a header"),
    ),
    "drawings without images": (
        "fracatlas",
        _edited(make_fracatlas, "FracAtlas/Annotations/COCO JSON/COCO_fracture_masks.json", '"images"', '"pictures"'),
        ("COCO_fracture_masks.json", "another version of the file"),
    ),
    "a label of another version": (
        "tbx11k",
        _edited(make_tbx11k, "TBX11K/annotations/json/TBX11K_val.json", "ActiveTuberculosis", "Active"),
        ("TBX11K_val.json", "no label 'Active'"),
    ),
}  # fmt: skip


@pytest.mark.parametrize("title", VERSIONS)
def test_a_table_of_another_version_is_refused_with_both_headers(
    title: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    name, make, words = VERSIONS[title]

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


def test_a_folder_with_nothing_in_it_is_no_layout(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "looked for Data_Entry_2017.csv" in refused(capsys, "nih", tmp_path)
    assert "no such folder" in refused(capsys, "nih", tmp_path / "nowhere")


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
    assert "known: nih, chexpert" in refused(capsys, "zzz", root, code=2)
    assert "--uncertain: kermany has no such option" in refused(capsys, "kermany", root, "--uncertain", "one", code=2)
