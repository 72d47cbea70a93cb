"""What each reader of a fundus set makes of its source, trap by trap."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import msgspec
import numpy as np
import pytest
from made import picture, table
from made_eyes import (
    COMMA,
    DISC_SIZE,
    ODIR_ROWS,
    blob,
    disc_mask,
    make_aptos,
    make_aptos_parted,
    make_deepdrid,
    make_drive,
    make_eyepacs,
    make_idrid,
    make_messidor2,
    make_odir,
    make_odir_kaggle,
    make_odir_oia,
    make_refuge,
    make_refuge_kaggle,
    stored,
    workbook,
)
from PIL import Image

from foveola.toolkit.data.layouts.aptos import read_aptos
from foveola.toolkit.data.layouts.deepdrid import read_deepdrid
from foveola.toolkit.data.layouts.drive import read_drive
from foveola.toolkit.data.layouts.eye_masks import disc_and_cup, eye_of, measures_of
from foveola.toolkit.data.layouts.eyepacs import read_eyepacs
from foveola.toolkit.data.layouts.fit import with_fitting_points
from foveola.toolkit.data.layouts.idrid import read_idrid
from foveola.toolkit.data.layouts.importing import import_layout
from foveola.toolkit.data.layouts.layout import TRAIN_VAL, Layout, Picture
from foveola.toolkit.data.layouts.messidor2 import read_messidor2
from foveola.toolkit.data.layouts.odir import agreed, flags_of, keywords, read_odir
from foveola.toolkit.data.layouts.refuge import read_refuge
from foveola.toolkit.data.layouts.sheets import read_sheet
from foveola.toolkit.data.masks import read_label_map


def by_name(layout: Layout) -> dict[str, Picture]:
    return {one.file.split("/")[-1]: one for one in layout.pictures}


def left_out(layout: Layout) -> dict[str, int]:
    return {why: len(names) for why, names in layout.dropped.items()}


def test_aptos_leaves_its_ungraded_test_part_out_and_kaggles_three_parts_are_kept(tmp_path: Path) -> None:
    official, parted = read_aptos(make_aptos(tmp_path / "a")), read_aptos(make_aptos_parted(tmp_path / "b"))

    assert {one.part for one in official.pictures} == {""}
    assert left_out(official) == {"images of the test part, whose grades are not public": 1}
    assert Counter(one.part for one in parted.pictures) == {"train": 8, "val": 3, "test": 3}
    assert not parted.dropped
    assert not parted.missing


def test_aptos_twins_with_other_grades_are_both_left_out(tmp_path: Path) -> None:
    root = make_aptos(tmp_path)
    twin = (root / "train_images" / f"{0:012x}.png").read_bytes()
    (root / "train_images" / f"{5:012x}.png").write_bytes(twin)  # both of grade 0
    (root / "train_images" / f"{6:012x}.png").write_bytes((root / "train_images" / f"{8:012x}.png").read_bytes())

    done = import_layout("aptos", root)

    assert sum(done.images.values()) == 27
    assert sorted(map(len, done.dropped.values())) == [1, 1, 2]


@pytest.mark.parametrize("solution", [True, False])
def test_eyepacs_eyes_are_one_patient_and_the_test_part_needs_its_solution(tmp_path: Path, solution: bool) -> None:
    layout = read_eyepacs(make_eyepacs(tmp_path, solution=solution))

    found = by_name(layout)
    assert found["10_left.jpeg"].patient == found["10_right.jpeg"].patient == "10"
    assert found["10_left.jpeg"].cells["eye"] == "left"
    parts = Counter(one.part for one in layout.pictures)
    assert parts == ({TRAIN_VAL: 36, "test": 12} if solution else {"": 36})
    assert sum(left_out(layout).values()) == (0 if solution else 12)
    assert {one.cells["usage"] for one in layout.pictures} == ({"", "public", "private"} if solution else {""})


def test_eyepacs_without_images_of_the_test_part_takes_it_out_of_train(tmp_path: Path) -> None:
    root = make_eyepacs(tmp_path)
    for path in (root / "test").iterdir():
        path.unlink()

    layout = read_eyepacs(root)

    assert {one.part for one in layout.pictures} == {""}
    assert not layout.missing
    assert any("no images of the test part" in note for note in layout.notes)


def test_messidor_names_are_compared_without_case_or_suffix_and_pairs_are_patients(tmp_path: Path) -> None:
    layout = read_messidor2(make_messidor2(tmp_path / "a"))
    alone = read_messidor2(make_messidor2(tmp_path / "b", pairs=False))

    found = by_name(layout)
    assert found["IM000003.JPG"].patient == found["20051020_00003_0100_PP.png"].patient == "20051020_00003_0100_PP"
    assert found["IM000003.JPG"].cells["eye"] == "right"
    assert not layout.missing
    assert left_out(layout) == {"images that are not gradable": 1, "images without a grade": 1}
    assert {one.patient for one in alone.pictures} == {""}
    assert any("two eyes of one may be in two splits" in note for note in alone.notes)


def test_messidor_takes_what_is_marked_as_gradable_and_nothing_else(tmp_path: Path) -> None:
    root = make_messidor2(tmp_path)
    path = root / "messidor_data.csv"
    path.write_text(path.read_text().replace("00000_0100_PP.png,0,0,1", "00000_0100_PP.png,0,0,"))

    layout = read_messidor2(root)

    assert "20051020_00000_0100_PP.png" not in by_name(layout)
    assert left_out(layout) == {"images that are not gradable": 2, "images without a grade": 1}


def test_messidor_with_the_columns_of_its_copy_is_the_same(tmp_path: Path) -> None:
    root = make_messidor2(tmp_path)
    path = root / "messidor_data.csv"
    renamed = path.read_text().replace("image_id,adjudicated_dr_grade", "id_code,diagnosis")

    before = read_messidor2(root)
    path.write_text(renamed)

    assert read_messidor2(root).pictures == before.pictures


@pytest.mark.parametrize("manuals", [False, True])
def test_drive_becomes_masks_and_its_test_part_needs_its_vessels(tmp_path: Path, manuals: bool) -> None:
    root = make_drive(tmp_path, manuals=manuals)

    layout, done = read_drive(root), import_layout("drive", root)

    assert Counter(one.part for one in layout.pictures) == ({TRAIN_VAL: 20, "test": 5} if manuals else {"": 20})
    assert sum(left_out(layout).values()) == (0 if manuals else 5)
    drawn = np.asarray(Image.open(root / "foveola/masks/21_training_vessel.png"))
    assert np.array_equal(drawn, blob())
    assert done.targets["mask_vessel2"] == ({"masks": 5} if manuals else {}) | {"not known": 20}
    assert done.targets["mask_fov"]["masks"] == (25 if manuals else 20)


def test_drive_files_that_are_absent_are_told(tmp_path: Path) -> None:
    root = make_drive(tmp_path)
    (root / "DRIVE/training/1st_manual/21_manual1.gif").unlink()
    (root / "DRIVE/training/images/22_training.tif").unlink()

    layout = read_drive(root)

    assert {name.split("/")[-1] for name in layout.missing} == {"21_manual1.gif", "22_training.tif"}


def test_deepdrid_grades_eyes_and_quality(tmp_path: Path) -> None:
    layout = read_deepdrid(make_deepdrid(tmp_path))

    found = by_name(layout)
    assert not layout.missing  # although image_path has backslashes and leaves Images out
    assert Counter(one.part for one in layout.pictures) == {"train": 32, "val": 12, "test": 2}
    assert found["1_l1.jpg"].patient == found["1_r2.jpg"].patient == "1"
    assert (found["1_r2.jpg"].cells["eye"], found["1_r2.jpg"].cells["view"]) == ("right", "2")
    assert (found["3_l1.jpg"].cells["dr_grade"], found["3_l1.jpg"].cells["quality"]) == ("", "ungradable")
    assert (found["3_r1.jpg"].cells["dr_grade"], found["3_r1.jpg"].cells["quality"]) == ("3", "good")
    assert found["3_r1.jpg"].cells["patient_dr_grade"] == ""  # 5, too
    assert (found["2_l1.jpg"].cells["dr_grade"], found["2_l1.jpg"].cells["eye"]) == ("2", "")
    assert any(note.startswith("4 images are named after the other eye") for note in layout.notes)
    assert found["1_l1.jpg"].cells["source"] == "Nicheng"
    assert found["347_l1.jpg"].cells["clarity"] == "10"
    assert (found["347_r2.jpg"].cells["dr_grade"], found["347_r2.jpg"].cells["quality"]) == ("", "ungradable")


def test_deepdrid_takes_the_grade_of_the_eye_where_both_are_given(tmp_path: Path) -> None:
    root = make_deepdrid(tmp_path)
    folder = root / "DeepDRiD-master/regular_fundus_images/regular-fundus-training"
    path = folder / "regular-fundus-training.csv"
    text = path.read_text()
    for view, levels in (("l1", "1,"), ("r1", ",1")):
        assert f"1_{view}.jpg,1,{levels}," in text
        text = text.replace(f"\\1_{view}.jpg,1,{levels},", f"\\1_{view}.jpg,1,4,2,")
    path.write_text(text)

    found = by_name(read_deepdrid(root))

    assert [found[f"1_{view}.jpg"].cells["dr_grade"] for view in ("l1", "r1")] == ["4", "2"]
    assert [found[f"1_{view}.jpg"].cells["eye"] for view in ("l1", "r1")] == ["left", "right"]


def test_deepdrid_without_labels_of_its_evaluation_leaves_it_out(tmp_path: Path) -> None:
    layout = read_deepdrid(make_deepdrid(tmp_path, evaluation=False))

    assert {one.part for one in layout.pictures} == {"train", "val"}
    assert left_out(layout)["images of the evaluation, whose grades are not there"] == 2
    assert left_out(layout)["ultra-widefield images, of another kind of camera"] == 1


@pytest.mark.parametrize("nested", [False, True])
def test_idrid_keeps_pictures_of_one_name_in_two_parts_apart(tmp_path: Path, nested: bool) -> None:
    layout = read_idrid(make_idrid(tmp_path, nested=nested))

    graded = {(one.part, one.file.split("/")[-1]): one for one in layout.pictures if one.cells.get("dr_grade")}
    assert len(graded) == 14
    train, test = graded[TRAIN_VAL, "IDRiD_004.jpg"], graded["test", "IDRiD_004.jpg"]
    assert train.file != test.file
    assert (train.cells["dr_grade"], train.cells["dme_risk"]) == ("4", "1")
    assert (train.cells["fovea_x"], train.cells["od_x"], train.cells["eye"]) == ("5.5", "2", "left")
    assert graded[TRAIN_VAL, "IDRiD_003.jpg"].cells["eye"] == "right"
    assert left_out(layout) == {"the same photographs once more (C. Localization)": 14}
    assert not layout.missing


def test_idrid_lesions_without_a_file_are_none_and_colours_become_masks(tmp_path: Path) -> None:
    root = make_idrid(tmp_path)

    done = import_layout("idrid", root)

    assert done.targets["mask_se"] == {"masks": 5, "none": 6, "not known": 13}
    drawn = sorted(path.name for path in (root / "foveola/masks").iterdir())
    assert "IDRiD_01_ma.png" in drawn
    assert "IDRiD_01_he.png" not in drawn  # a palette can be read as it is
    assert np.array_equal(np.asarray(Image.open(root / "foveola/masks/IDRiD_01_optic_disc.png")), blob())


def test_idrid_grade_and_lesions_of_one_picture_are_put_together(tmp_path: Path) -> None:
    root = make_idrid(tmp_path)

    import_layout("idrid", root)

    rows = [line.split(",") for line in (root / "manifest.csv").read_text().splitlines()]
    header, twin = rows[0], next(row for row in rows if row[0].endswith("IDRiD_56.jpg"))
    cells = dict(zip(header, twin, strict=True))
    assert (cells["split"], cells["dr_grade"], cells["mask_se"]) == ("test", "2", "foveola/masks/IDRiD_56_se.png")
    assert not any(row[0].endswith("b. Testing Set/IDRiD_002.jpg") for row in rows)


@pytest.mark.parametrize("archive", ["A. Segmentation", "B. Disease Grading"])
def test_one_archive_of_idrid_is_enough(tmp_path: Path, archive: str) -> None:
    root = make_idrid(tmp_path)
    (root / archive).rename(tmp_path / "alone")
    alone = tmp_path / "one" / archive
    alone.parent.mkdir()
    (tmp_path / "alone").rename(alone)

    layout = read_idrid(alone.parent)

    assert len(layout.pictures) == (11 if archive.startswith("A") else 14)
    assert not layout.missing


def test_keywords_are_parted_by_a_full_width_comma_whatever_became_of_it() -> None:
    assert keywords(f"Laser spot{COMMA}moderate non proliferative  retinopathy") == (
        "laser spot",
        "moderate non proliferative retinopathy",
    )
    assert keywords("drusen\ufffd\ufffdglaucoma") == ("drusen", "glaucoma")
    assert keywords("") == ()


@pytest.mark.parametrize(
    ("words", "letters"),
    [
        (("normal fundus",), "N"),
        (("lens dust", "normal fundus"), "N"),
        (("mild nonproliferative retinopathy",), "D"),
        (("hypertensive retinopathy", "diabetic retinopathy"), "DH"),
        (("suspected glaucoma", "drusen"), "GO"),
        (("wet age-related macular degeneration",), "A"),
        (("myopia retinopathy",), "M"),
        (("myopic maculopathy", "cataract"), "CM"),
        (("laser spot",), "O"),
    ],
)
def test_keywords_stand_for_the_flags_of_the_publisher(words: tuple[str, ...], letters: str) -> None:
    assert "".join(letter for letter, cell in flags_of(words).items() if cell == "1") in (letters, letters[::-1])


def test_an_eye_whose_keywords_say_nothing_has_no_disease_that_its_patient_has_not() -> None:
    patient = {"N": "0", "D": "1", "G": "0"}

    kept, wrong = agreed({}, {"D": "0", "G": "0", "N": "1"}, patient)

    assert (kept, wrong) == ({"N": "", "D": "", "G": "0"}, 0)
    assert flags_of(("image offset",)) == {}


def test_a_disease_of_the_patient_that_neither_eye_is_said_to_have_is_a_gap_in_both() -> None:
    healthy = {"N": "1", "D": "0"}

    assert agreed(healthy, healthy, {"N": "0", "D": "1"}) == ({"N": "1", "D": ""}, 1)
    assert agreed({"N": "0", "D": "1"}, healthy, {"N": "0", "D": "0"}) == ({"N": "0", "D": ""}, 1)


def test_odir_flags_of_the_patient_are_not_those_of_the_eye(tmp_path: Path) -> None:
    layout = read_odir(make_odir(tmp_path))

    found = by_name(layout)
    left, right = found["0_left.jpg"].cells, found["0_right.jpg"].cells
    assert (left["patient_Cataract"], right["patient_Cataract"]) == ("1", "1")
    assert (left["finding_Cataract"], right["finding_Cataract"]) == ("1", "0")
    assert (right["finding_Normal"], right["patient_Normal"], right["sex"], right["age"]) == ("1", "0", "F", "69")
    assert (found["2_left.jpg"].cells["finding_Diabetes"], found["2_left.jpg"].cells["finding_Other"]) == ("1", "1")
    assert found["2_right.jpg"].cells["finding_Hypertension"] == "1"
    assert found["4_left.jpg"].cells["quality"] == "poor"
    assert found["6_left.jpg"].cells["finding_Glaucoma"] == found["6_right.jpg"].cells["finding_Other"] == ""
    assert left_out(layout) == {
        "pictures that show no fundus": 1,
        "images of the test part, whose labels are not public": 1,
    }
    assert any(note.startswith("3 cells of eyes are gaps") for note in layout.notes)


def test_a_csv_beside_a_sheet_is_taken_instead(tmp_path: Path) -> None:
    root = make_odir(tmp_path)
    sheet = root / "ODIR-5K_Training_Annotations(Updated)_V2.xlsx"
    before = read_odir(root)

    table(sheet.with_suffix(".csv"), [row for _, row in read_sheet(sheet)])
    sheet.write_bytes(b"no workbook")

    assert read_odir(root) == before


def test_the_full_table_of_kaggle_takes_published_pictures_and_those_it_names(tmp_path: Path) -> None:
    layout = read_odir(make_odir_kaggle(tmp_path))

    found = by_name(layout)
    assert all(one.file.startswith("ODIR-5K/ODIR-5K/Training Images/") for one in layout.pictures)
    assert "4_left.jpg" not in found
    assert found["4_right.jpg"].patient == "4"
    assert found["0_left.jpg"].cells["finding_Cataract"] == "1"


def test_the_three_parts_of_oia_odir_are_kept(tmp_path: Path) -> None:
    layout = read_odir(make_odir_oia(tmp_path))

    parts = Counter(one.part for one in layout.pictures)
    assert parts == {"train": 2 * (len(ODIR_ROWS) + 6) - 1, "val": 6, "test": 6}


@pytest.mark.parametrize("values", [(255, 128, 0), (0, 1, 2), (0, 128, 255), (0, 127, 255)])
def test_disc_and_cup_are_told_by_the_background(values: tuple[int, int, int]) -> None:
    labels = disc_and_cup(disc_mask(*values))

    assert labels is not None
    assert np.array_equal(labels, disc_mask(0, 1, 2))


@pytest.mark.parametrize("values", [(0, 7, 9), (128, 0, 255), (255, 1, 2)])
def test_other_values_of_a_disc_mask_are_a_gap(values: tuple[int, int, int], tmp_path: Path) -> None:
    assert disc_and_cup(disc_mask(*values)) is None
    root = make_refuge(tmp_path)
    stored(root / "REFUGE-Test400-GT/Disc_Cup_Masks/T0001.bmp", disc_mask(*values))

    done = import_layout("refuge", root)

    assert done.targets["mask_disc"] == {"masks": 13, "not known": 1}
    assert done.targets["glaucoma"]["not known"] == 0


def test_measures_of_a_disc_are_what_was_drawn() -> None:
    drawn = disc_mask(0, 1, 2)

    assert measures_of(drawn, "12.5") == {"od_x": "24.5", "od_y": "14.5", "cup_disc_ratio": "0.4000", "eye": "right"}
    assert measures_of(drawn[:, ::-1], "30") == {
        "od_x": "14.5",
        "od_y": "14.5",
        "cup_disc_ratio": "0.4000",
        "eye": "left",
    }
    assert measures_of(np.zeros((4, 4), np.uint8)) == {}
    assert eye_of(2, 1) == "right"


def test_refuge_parts_labels_and_points(tmp_path: Path) -> None:
    root = make_refuge(tmp_path)

    layout = read_refuge(root)
    done = import_layout("refuge", root)

    found = by_name(layout)
    assert Counter(one.part for one in layout.pictures) == {"train": 8, "val": 3, "test": 3}
    assert (found["g0001.jpg"].cells["glaucoma"], found["n0001.jpg"].cells["glaucoma"]) == ("1", "0")
    assert (found["V0002.jpg"].cells["glaucoma"], found["T0001.jpg"].cells["glaucoma"]) == ("0", "1")
    assert (found["n0001.jpg"].cells["fovea_x"], found["n0001.jpg"].cells["fovea_y"]) == ("12.5", "15.25")
    assert found["n0001.jpg"].cells["camera"] != found["T0001.jpg"].cells["camera"]
    labels = read_label_map(root / "foveola/masks/g0001_disc.png", 2, (DISC_SIZE[1], DISC_SIZE[0]))
    assert np.array_equal(labels, disc_mask(0, 1, 2))
    whole = np.asarray(Image.open(root / "foveola/masks/g0001_optic_disc.png"))
    assert (np.unique(whole).tolist(), int((whole > 0).sum())) == ([0, 255], 100)
    assert done.targets["cup_disc_ratio"] == {"values": 14, "not known": 0}


def test_refuge_does_not_take_another_challenge_for_its_own(tmp_path: Path) -> None:
    root = make_refuge(tmp_path)
    before = read_refuge(root)
    picture(root / "REFUGE-Training400/Training400/Non-AMD/N0001.jpg", DISC_SIZE)

    assert read_refuge(root) == before


def test_a_copy_of_refuge2_without_tables_has_names_and_masks(tmp_path: Path) -> None:
    base = tmp_path / "REFUGE2"
    for part, names in (("train", ("g0001", "n0001")), ("val", ("V0001",)), ("test", ("T0001",))):
        for name in names:
            picture(base / part / "images" / f"{name}.jpg", DISC_SIZE)
            stored(base / part / "mask" / f"{name}.png", disc_mask(0, 128, 255))

    layout = read_refuge(tmp_path)

    assert {one.file.split("/")[-1]: one.cells["glaucoma"] for one in layout.pictures} == {
        "T0001.jpg": "",
        "V0001.jpg": "",
        "g0001.jpg": "1",
        "n0001.jpg": "0",
    }
    assert import_layout("refuge", tmp_path).targets["mask_disc"] == {"masks": 4, "not known": 0}


def test_a_copy_of_refuge_by_index_has_no_other_cuts_and_no_test_part(tmp_path: Path) -> None:
    layout = read_refuge(make_refuge_kaggle(tmp_path))

    assert [one.file for one in layout.pictures if "Cropped" in one.file] == []
    assert Counter(one.part for one in layout.pictures) == {"train": 3, "val": 2}
    assert left_out(layout) == {"images of the test part without any label": 1}
    assert by_name(layout)["V0001.jpg"].cells["glaucoma"] == "1"


def test_a_mask_of_another_size_than_its_image_becomes_a_gap(tmp_path: Path) -> None:
    root = make_refuge(tmp_path / "a")
    picture(root / "REFUGE-Validation400" / "V0001.jpg", (60, 60))
    drive = make_drive(tmp_path / "b")
    picture(drive / "DRIVE/training/images/21_training.tif", (30, 30))

    assert import_layout("refuge", root).targets["mask_disc"] == {"masks": 13, "not known": 1}
    assert import_layout("drive", drive).targets["mask_vessel"] == {"masks": 19, "not known": 1}


def test_a_single_point_outside_its_image_is_a_gap(tmp_path: Path) -> None:
    layout = read_refuge(make_refuge(tmp_path))
    first, *rest = layout.pictures
    odd = msgspec.structs.replace(first, cells=first.cells | {"fovea_y": "-3"})

    fitted = with_fitting_points(tmp_path, msgspec.structs.replace(layout, pictures=(odd, *rest * 3)))

    assert (fitted.pictures[0].cells["fovea_x"], fitted.pictures[0].cells["fovea_y"]) == ("", "")
    assert fitted.pictures[1:] == tuple(rest * 3)
    assert left_out(fitted) == {"images whose points lie outside (kept, with a gap)": 1}


def test_a_sheet_gives_its_cells_as_text(tmp_path: Path) -> None:
    path = workbook(
        tmp_path / "a.xlsx", [("a", "b", "c", "d"), (1, 2.0, 2.5, None), (None, None, None, None), (True, "x")]
    )

    assert list(read_sheet(path)) == [
        (1, ["a", "b", "c", "d"]),
        (2, ["1", "2", "2.5", ""]),
        (4, ["1", "x", "", ""]),
    ]
