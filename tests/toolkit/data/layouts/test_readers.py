"""What each reader makes of its source, trap by trap."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from made import (
    make_chest_masks,
    make_chexpert,
    make_deepcovid,
    make_folders,
    make_fracatlas,
    make_indiana,
    make_indiana_nlm,
    make_kermany,
    make_kermany_mendeley,
    make_montgomery,
    make_mura,
    make_nih,
    make_shenzhen,
    make_tbx11k,
    mask,
    picture,
)
from PIL import Image

from foveola.toolkit.data.layouts.boneage import read_boneage
from foveola.toolkit.data.layouts.chest_masks import read_chest_masks
from foveola.toolkit.data.layouts.chexpert import Uncertain, read_chexpert
from foveola.toolkit.data.layouts.deepcovid import read_deepcovid
from foveola.toolkit.data.layouts.fit import with_fitting_boxes, with_fitting_masks
from foveola.toolkit.data.layouts.folders import read_folders
from foveola.toolkit.data.layouts.fracatlas import read_fracatlas
from foveola.toolkit.data.layouts.importing import import_layout
from foveola.toolkit.data.layouts.indiana import read_indiana
from foveola.toolkit.data.layouts.kermany import read_kermany
from foveola.toolkit.data.layouts.layout import TRAIN_VAL, Layout, Picture
from foveola.toolkit.data.layouts.mura import read_mura
from foveola.toolkit.data.layouts.nih import FINDINGS, read_nih
from foveola.toolkit.data.layouts.nlm import read_reading, read_shenzhen
from foveola.toolkit.data.layouts.tbx11k import read_tbx11k


def by_name(layout: Layout) -> dict[str, Picture]:
    return {one.file.split("/")[-1]: one for one in layout.pictures}


def test_nih_labels_boxes_and_odd_ages(tmp_path: Path) -> None:
    found = by_name(read_nih(make_nih(tmp_path)))

    last = found["00000012_000.png"]
    assert last.boxes is not None
    assert [(box.label, box.x1, round(box.x2, 2)) for box in last.boxes] == [("Infiltration", 225.08, 311.86)]
    assert last.cells["no_finding"] == "1"
    assert last.part == "test"
    first = found["00000001_001.png"]
    assert first.boxes is None
    assert [name for name in FINDINGS if first.cells[f"finding_{name}"] == "1"] == ["Effusion", "Pleural_Thickening"]
    assert first.patient == found["00000001_000.png"].patient == "00000001"
    assert (found["00000002_000.png"].cells["age"], found["00000003_000.png"].cells["age"]) == ("", "53")


def test_nih_of_2017_and_of_2020_nested_and_flat_say_the_same(tmp_path: Path) -> None:
    old = read_nih(make_nih(tmp_path / "old"))
    new = read_nih(make_nih(tmp_path / "new", v2020=True, nested=False))

    assert [one.cells for one in old.pictures] == [one.cells for one in new.pictures]


def test_nih_without_its_lists_is_split_by_hash_and_says_so(tmp_path: Path) -> None:
    layout = read_nih(make_nih(tmp_path, lists=False))

    assert {one.part for one in layout.pictures} == {""}
    assert any("split by hash" in note for note in layout.notes)


@pytest.mark.parametrize(("uncertain", "cell"), [("gap", ""), ("zero", "0"), ("one", "1")])
def test_chexpert_uncertain_becomes_what_was_asked_and_blank_a_gap(
    tmp_path: Path, uncertain: Uncertain, cell: str
) -> None:
    layout = read_chexpert(make_chexpert(tmp_path), uncertain=uncertain)

    found = {one.file.split("/", 1)[1]: one.cells for one in layout.pictures}
    cells = found["train/patient00003/study1/view1_frontal.jpg"]
    # Observation i of patient p is 1.0 where i = p mod 13, else blank, 0.0 or -1.0 as (i + p) mod 3 is 0, 1 or 2.
    assert cells["finding_Lung_Lesion"] == "1"  # 3
    assert cells["finding_Enlarged_Cardiomediastinum"] == ""  # 0
    assert cells["finding_Cardiomegaly"] == "0"  # 1
    assert cells["finding_Lung_Opacity"] == cell  # 2
    assert cells["no_finding"] == ""


def test_chexpert_parts_views_and_sex(tmp_path: Path) -> None:
    layout = read_chexpert(make_chexpert(tmp_path))

    assert Counter(one.part for one in layout.pictures) == {TRAIN_VAL: 15, "test": 5}
    assert Counter(one.cells["projection"] for one in layout.pictures) == {"frontal": 13, "lateral": 7}
    assert {one.cells["sex"] for one in layout.pictures if one.patient == "patient00004"} == {""}


def test_mura_reads_labels_of_studies_and_no_files_of_macos(tmp_path: Path) -> None:
    layout = read_mura(make_mura(tmp_path))

    assert all("._" not in one.file for one in layout.pictures)
    assert all(one.cells["abnormal"] == str(int("positive" in one.file)) for one in layout.pictures)
    assert {one.cells["body_part"] for one in layout.pictures} == {"wrist", "hand"}
    assert Counter(one.part for one in layout.pictures) == {TRAIN_VAL: 16, "test": 6}


def test_mura_leaves_out_a_study_that_is_named_otherwise_than_its_label(tmp_path: Path) -> None:
    root = make_mura(tmp_path)
    path = root / "MURA-v1.1" / "train_labeled_studies.csv"
    path.write_text(path.read_text().replace("study1_positive/,1", "study1_positive/,0", 1))

    layout = read_mura(root)

    assert [len(names) for names in layout.dropped.values()] == [2]


def test_kermany_finds_the_patient_in_every_kind_of_name(tmp_path: Path) -> None:
    old, new = read_kermany(make_kermany(tmp_path / "old")), read_kermany(make_kermany_mendeley(tmp_path / "new"))

    found, later = by_name(old), by_name(new)
    assert found["IM-0100-0001.jpeg"].patient == "IM-0100"
    assert found["NORMAL2-IM-0100-0001-0002.jpeg"].patient == "NORMAL2-IM-0100"
    assert found["person100_bacteria_100.jpeg"].patient == found["person100_virus_101.jpeg"].patient == "person100"
    assert later["VIRUS-1003250-0001.jpeg"].patient == "1003250"
    assert found["person100_virus_101.jpeg"].cells == {"finding_Pneumonia": "1", "cause": "virus"}
    assert {one.part for one in old.pictures if "/val/" in one.file} == {TRAIN_VAL}


@pytest.mark.parametrize("swapped", [False, True], ids=["the patient's sides", "the picture's sides"])
def test_montgomery_masks_become_one_map_whatever_the_folders_mean(tmp_path: Path, swapped: bool) -> None:
    root = make_montgomery(tmp_path)
    masks = root / "MontgomerySet" / "ManualMask"
    if swapped:
        (masks / "leftMask").rename(masks / "x")
        (masks / "rightMask").rename(masks / "leftMask")
        (masks / "x").rename(masks / "rightMask")

    done = import_layout("montgomery", root)

    labels = np.asarray(Image.open(root / "foveola/masks/MCUCXR_0001_1.png"))
    expected = np.zeros((10, 12), np.uint8)
    expected[2:8, 1:5], expected[2:8, 7:11] = 1, 2  # the right lung lies on the left of the picture
    assert np.array_equal(labels, expected)
    count = 0 if swapped else 8
    assert f"leftMask is the patient's left lung in {count} of 8 images, by where it lies" in done.notes


@pytest.mark.parametrize(
    ("lines", "cells"),
    [
        ("Patient's Sex: F \nPatient's Age: 027Y\nnormal\n", {"sex": "F", "age": "27", "reading": "normal"}),
        ("male 45yrs\nright PTB\n", {"sex": "M", "age": "45", "reading": "right PTB"}),
        ("femal 32yrs\nnormal", {"sex": "F", "age": "32", "reading": "normal"}),
        ("Female, 28 yrs\nnormal", {"sex": "F", "age": "28", "reading": "normal"}),
        ("male 16month\nnormal", {"sex": "M", "age": "1.33", "reading": "normal"}),
        ("female 64days\nPTB", {"sex": "F", "age": "0.175", "reading": "PTB"}),
        ("male\nleft PTB", {"sex": "M", "reading": "left PTB"}),
        ("STB in both upper fields, 2 cavities", {"reading": "STB in both upper fields, 2 cavities"}),
        ("", {}),
    ],
)
def test_a_clinical_reading_gives_what_can_be_made_out(tmp_path: Path, lines: str, cells: dict[str, str]) -> None:
    (tmp_path / "one.txt").write_text(lines)

    assert read_reading(tmp_path / "one.txt") == cells


@pytest.mark.parametrize(("masks", "known"), [(True, 7), (False, 0)])
def test_shenzhen_masks_are_optional(tmp_path: Path, masks: bool, known: int) -> None:
    layout = read_shenzhen(make_shenzhen(tmp_path, masks=masks))

    assert sum(bool(one.cells.get("mask_lung_fields")) for one in layout.pictures) == known
    assert by_name(layout)["CHNCXR_0005_1.png"].cells["finding_Tuberculosis"] == "1"


def test_chest_masks_are_matched_with_and_without_their_suffix(tmp_path: Path) -> None:
    root = make_chest_masks(tmp_path)

    layout, whole = read_chest_masks(root), read_chest_masks(root, keep_without_mask=True)

    found = by_name(layout)
    assert found["CHNCXR_0001_0.png"].cells["mask_lung_fields"].endswith("masks/CHNCXR_0001_0_mask.png")
    assert found["MCUCXR_0001_1.png"].cells["mask_lung_fields"].endswith("masks/MCUCXR_0001_1.png")
    assert len(layout.pictures) == 11
    assert [len(names) for names in layout.dropped.values()] == [7]
    assert len(whole.pictures) == 18


def test_a_mask_of_another_size_becomes_a_gap(tmp_path: Path) -> None:
    root = make_chest_masks(tmp_path)
    mask(root / "Lung Segmentation" / "masks" / "MCUCXR_0001_1.png", slice(2, 5), (20, 20))

    layout = with_fitting_masks(root, read_chest_masks(root))

    assert by_name(layout)["MCUCXR_0001_1.png"].cells["mask_lung_fields"] == ""
    assert [len(names) for why, names in layout.dropped.items() if "another size" in why] == [1]


@pytest.mark.parametrize("original", [(3072, 2048), (2900, 3001)])
def test_tbx11k_boxes_of_xml_and_json_are_the_same_once_scaled(tmp_path: Path, original: tuple[int, int]) -> None:
    root = make_tbx11k(tmp_path, original=original)

    by_json, by_xml = by_name(read_tbx11k(root)), by_name(read_tbx11k(root, boxes="xml"))

    assert by_json["h0001.png"].boxes == by_json["s0101.png"].boxes == ()
    assert by_json["tb0003.png"].boxes is None
    for name, one in by_json.items():
        other = by_xml[name].boxes
        assert (one.boxes is None) == (other is None)
        for a, b in zip(one.boxes or (), other or (), strict=True):
            assert a.label == b.label
            assert (a.x1, a.y1, a.x2, a.y2) == pytest.approx((b.x1, b.y1, b.x2, b.y2), abs=0.01)


def test_tbx11k_leaves_out_what_has_no_public_label_and_other_sets(tmp_path: Path) -> None:
    layout = read_tbx11k(make_tbx11k(tmp_path))

    assert Counter(one.part for one in layout.pictures) == {TRAIN_VAL: 18, "test": 18}
    assert sum(map(len, layout.dropped.values())) == 2


def test_boneage_finds_images_in_the_flat_and_in_the_nested_folder(tmp_path: Path) -> None:
    folder = tmp_path / "boneage-training-dataset"
    picture(folder / "1.png")
    picture(folder / "boneage-training-dataset" / "2.png")
    (tmp_path / "boneage-training-dataset.csv").write_text("id,boneage,male\n1,180,False\n2,12,True\n")

    layout = read_boneage(tmp_path)

    assert [one.cells for one in layout.pictures] == [
        {"bone_age_months": "180", "sex": "F"},
        {"bone_age_months": "12", "sex": "M"},
    ]
    assert layout.missing == ()


def test_indiana_says_no_only_where_the_codes_say_normal(tmp_path: Path) -> None:
    table, library = read_indiana(make_indiana(tmp_path / "a")), read_indiana(make_indiana_nlm(tmp_path / "b"))

    for layout in (table, library):
        said = {one.patient: one.cells for one in layout.pictures}
        assert (said["1"]["finding_Cardiomegaly"], said["1"]["no_finding"]) == ("1", "0")
        assert "finding_Pneumonia" not in said["1"]
        assert set(said["2"]) - {"projection"} == {"mesh"}  # not indexed
        assert (said["3"]["finding_Nodule"], said["3"]["no_finding"]) == ("1", "0")
        assert (said["4"]["finding_Pneumonia"], said["4"]["no_finding"]) == ("0", "1")
    assert "1 reports have no image" in library.notes


def test_deepcovid_keeps_no_augmented_copy_of_an_original(tmp_path: Path) -> None:
    root = make_deepcovid(tmp_path)
    orphan = "covid_original_other.jpg_01234567-89ab-cdef-0123-456789abcdef.jpg"
    picture(root / "data_upload_v3" / "train" / "covid" / orphan)

    layout = read_deepcovid(root)

    found = by_name(layout)
    assert [len(names) for names in layout.dropped.values()] == [1]
    assert found[orphan].patient == "other"
    assert found["patient00001_study1_view1_frontal.jpg"].patient == "patient00001"
    assert found["patient00001_study1_view1_frontal.jpg"].cells == {"finding_COVID19": "0", "group": "Edema"}


def test_fracatlas_draws_masks_drops_the_damaged_and_knows_none_from_a_gap(tmp_path: Path) -> None:
    root = make_fracatlas(tmp_path)

    done = import_layout("fracatlas", root)

    drawn = np.asarray(Image.open(root / "foveola/masks/IMG0000000.png"))
    assert drawn.shape == (48, 64)
    rows, columns = np.nonzero(drawn == 255)
    assert (columns.min(), rows.min(), columns.max(), rows.max()) == (10, 10, 30, 25)
    assert done.dropped["damaged files"] == ("FracAtlas/images/Non_fractured/IMG0004134.jpg",)
    assert done.targets["mask_fracture"] == {"masks": 9, "none": 10, "not known": 1}
    assert done.targets["boxes"] == {"fracture": 9, "none": 10, "not known": 1}
    found = by_name(read_fracatlas(root))
    assert {found[f"IMG{n:07d}.jpg"].patient for n in (0, 100)} == {"block_000", "block_001"}


def test_a_single_image_whose_boxes_do_not_fit_becomes_a_gap(tmp_path: Path) -> None:
    root = make_tbx11k(tmp_path)
    layout = read_tbx11k(root)
    many = [one for one in layout.pictures if one.boxes] * 10  # 1 in 100 is a slip, most would be another system
    odd = Picture(file=many[0].file, patient="odd", boxes=many[0].boxes, box_size=(3000, 3000))
    many[0] = odd

    fitted = with_fitting_boxes(root, Layout(name="x", pictures=(*many,), attributes=(), targets=()))

    assert [len(names) for names in fitted.dropped.values()] == [1]


def test_folders_without_val_take_it_out_of_train(tmp_path: Path) -> None:
    bare, whole = make_folders(tmp_path / "bare", val=False), make_folders(tmp_path / "whole")

    assert {one.part for one in read_folders(bare).pictures} == {TRAIN_VAL, "test"}
    assert {one.part for one in read_folders(whole).pictures} == {"train", "val", "test"}
    assert import_layout("folders", bare).images["val"] > 0
