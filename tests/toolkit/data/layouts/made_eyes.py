"""Small folders of exactly the layouts of public fundus sets and of MedMNIST, traps included.

Each maker fills a new folder and gives it back. None of the pictures is anybody's.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import openpyxl
from made import picture, table, text
from numpy.typing import NDArray
from PIL import Image

Rows = Sequence[Sequence[object]]

ODIR_HEADER = (
    *("ID", "Patient Age", "Patient Sex", "Left-Fundus", "Right-Fundus", "Left-Diagnostic Keywords"),
    *("Right-Diagnostic Keywords", "N", "D", "G", "C", "A", "H", "M", "O"),
)
COMMA = "\N{FULLWIDTH COMMA}"
ODIR_ROWS: Rows = (
    (0, 69, "Female", "0_left.jpg", "0_right.jpg", "cataract", "normal fundus", 0, 0, 0, 1, 0, 0, 0, 0),
    (1, 57, "Male", "1_left.jpg", "1_right.jpg", "normal fundus", "normal fundus", 1, 0, 0, 0, 0, 0, 0, 0),
    (
        *(2, 42, "Male", "2_left.jpg", "2_right.jpg"),
        f"laser spot{COMMA}moderate non proliferative retinopathy",
        f"Hypertensive retinopathy{COMMA}suspected glaucoma",
        *(0, 1, 1, 0, 0, 1, 0, 1),
    ),
    (
        *(4, 53, "Male", "4_left.jpg", "4_right.jpg", f"lens dust{COMMA}low image quality"),
        f"macular epiretinal membrane{COMMA}pathological myopia",
        *(0, 0, 0, 0, 0, 0, 1, 1),
    ),
    (
        *(
            5,
            1,
            "Female",
            "5_left.jpg",
            "5_right.jpg",
            "anterior segment image",
            "dry age-related macular degeneration",
        ),
        *(0, 0, 0, 0, 1, 0, 0, 0),
    ),
    # Keywords and flags contradict each other: the glaucoma is nobody's, and the drusen are told as nothing.
    (6, 60, "Female", "6_left.jpg", "6_right.jpg", "normal fundus", "drusen", 0, 0, 1, 0, 0, 0, 0, 0),
)


def workbook(path: Path, rows: Rows) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    book = openpyxl.Workbook()
    sheet = book.active
    assert sheet is not None
    for row in rows:
        sheet.append(list(row))
    book.save(path)
    return path


def stored(path: Path, pixels: NDArray[np.uint8], mode: str = "") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(pixels)
    (image.convert(mode) if mode else image).save(path)
    return path


def blob(size: tuple[int, int] = (12, 10), value: int = 255) -> NDArray[np.uint8]:
    """Zero, and `value` in the middle; the mask of the picture with this width and height."""
    pixels: NDArray[np.uint8] = np.zeros(size[::-1], np.uint8)
    pixels[3:7, 4:9] = value
    return pixels


def make_aptos(root: Path) -> Path:
    rows: list[Sequence[object]] = [("id_code", "diagnosis")]
    for number in range(30):
        picture(root / "train_images" / f"{number:012x}.png")
        rows.append((f"{number:012x}", number % 5))
    table(root / "train.csv", rows)
    picture(root / "test_images" / "00ffee.png")
    table(root / "test.csv", [("id_code",), ("00ffee",)])
    return root


def make_aptos_parted(root: Path) -> Path:
    """Kaggle's copy: all three tables have grades, folders are nested."""
    parts = (("train", "train_1.csv", 8), ("val", "valid.csv", 3), ("test", "test.csv", 3))
    for part, name, count in parts:
        rows: list[Sequence[object]] = [("id_code", "diagnosis")]
        for number in range(count):
            picture(root / f"{part}_images" / f"{part}_images" / f"{part}{number}.png")
            rows.append((f"{part}{number}", number % 5))
        table(root / name, rows)
    return root


def make_eyepacs(root: Path, *, solution: bool = True, folder: str = "train", labels: str = "trainLabels.csv") -> Path:
    rows: list[Sequence[object]] = [("image", "level")]
    later: list[Sequence[object]] = [("image", "level", "Usage")]
    for number in range(10, 34):
        for eye in ("left", "right"):
            test = number >= 28
            picture(root / ("test" if test else folder) / f"{number}_{eye}.jpeg")
            row = (f"{number}_{eye}", number % 5)
            if test:
                later.append((*row, ("Public", "Private")[number % 2]))
            else:
                rows.append(row)
    table(root / labels, rows)
    if solution:
        table(root / "retinopathy_solution.csv", later)
    return root


def make_eyepacs_resized(root: Path) -> Path:
    """Kaggle's reduced copy: nested folders, a first column without a name, no test part."""
    rows: list[Sequence[object]] = [("Unnamed: 0.1", "Unnamed: 0", "image", "level")]
    for number in range(24):
        name = f"{number}_{('left', 'right')[number % 2]}"
        picture(root / "resized_train_cropped" / "resized_train_cropped" / f"{name}.jpeg")
        rows.append((number, number, name, float(number % 5)))
    table(root / "trainLabels_cropped.csv", rows)
    return root


def make_messidor2(root: Path, *, pairs: bool = True) -> Path:
    rows: list[Sequence[object]] = [("image_id", "adjudicated_dr_grade", "adjudicated_dme", "adjudicated_gradable")]
    paired = ["left;right"]
    for number in range(12):
        first, second = f"20051020_{number:05d}_0100_PP.png", f"IM{number:06d}.JPG"
        picture(root / "IMAGES" / first)
        picture(root / "IMAGES" / second)
        rows += [(first, number % 5, number % 2, 1), (f"IM{number:06d}.jpg", number % 3, 0, 1)]
        paired.append(f"{first};{second}")
    picture(root / "IMAGES" / "IM009001.JPG")
    picture(root / "IMAGES" / "IM009002.JPG")
    rows.append(("IM009001.jpg", "", "", 0))
    table(root / "messidor_data.csv", rows)
    if pairs:
        text(root / "messidor-2.csv", *paired)
    return root


def make_drive(root: Path, *, manuals: bool = False) -> Path:
    """Twenty training images; those of the test part have vessels only in some releases."""
    for part, numbers, drawn in (("training", range(21, 41), True), ("test", range(1, 6), manuals)):
        base = root / "DRIVE" / part
        for number in numbers:
            picture(base / "images" / f"{number:02d}_{part}.tif")
            stored(base / "mask" / f"{number:02d}_{part}_mask.gif", blob())
            if drawn:
                stored(base / "1st_manual" / f"{number:02d}_manual1.gif", blob())
            if drawn and part == "test":
                stored(base / "2nd_manual" / f"{number:02d}_manual2.gif", blob())
    return root


DEEPDRID_HEADER = (
    *("patient_id", "image_id", "image_path", "Overall quality", "left_eye_DR_Level", "right_eye_DR_Level"),
    *("patient_DR_Level", "Clarity", "Field definition", "Artifact"),
)


def make_deepdrid(root: Path, *, evaluation: bool = True) -> Path:
    """Patient 2 is crossed as patient 56 is in the source; patient 3 has an ungradable left eye."""
    regular = root / "DeepDRiD-master" / "regular_fundus_images"
    for folder, patients in (("regular-fundus-training", range(1, 9)), ("regular-fundus-validation", range(265, 268))):
        rows: list[Sequence[object]] = [DEEPDRID_HEADER]
        sources: list[Sequence[object]] = [("patient_id", "image_id", "image_path", "Source")]
        for patient in patients:
            for view in ("l1", "l2", "r1", "r2"):
                name = f"{patient}_{view}"
                picture(regular / folder / "Images" / str(patient) / f"{name}.jpg")
                level = 5 if (patient, view[0]) == (3, "l") else patient % 5
                left = (view[0] == "l") != (patient == 2)
                path = f"\\{folder}\\{patient}\\{name}.jpg"
                levels = (level, "") if left else ("", level)
                rows.append((patient, name, path, patient % 2, *levels, 5 if patient == 3 else patient % 5, 8, 10, 4))
                sources.append((patient, name, path, "Nicheng"))
        table(regular / folder / f"{folder}.csv", rows)
        table(regular / folder / f"{folder.replace('fundus-', 'fundus-source-')}.csv", sources)
    base = regular / "Online-Challenge1&2-Evaluation"
    picture(base / "Images" / "347" / "347_l1.jpg")
    picture(base / "Images" / "347" / "347_r2.jpg")
    table(base / "Challenge1_upload.csv", [("image_id", "DR_Level"), ("347_l1", ""), ("347_r2", "")])
    if evaluation:
        workbook(base / "Challenge1_labels.xlsx", [("image_id", "DR_Levels"), ("347_l1", 1.0), ("347_r2", 5)])
        scores = ("image_id", "Overall quality", "Artifact", "Clarity", "Field definition")
        workbook(base / "Challenge2_labels.xlsx", [scores, ("347_l1", 1, 0, 10, 8), ("347_r2", 0, 8, 1, 4)])
    picture(root / "DeepDRiD-master/ultra-widefield_images/ultra-widefield-training/Images/1/1_l1.jpg")
    return root


IDRID_PARTS = (("a. Training Set", "a", "Training", 10), ("b. Testing Set", "b", "Testing", 4))


def make_idrid(root: Path, *, nested: bool = False) -> Path:
    """All three archives; the test picture IDRiD_002 is also the lesion picture IDRiD_56."""
    for letter in ("A. Segmentation", "B. Disease Grading", "C. Localization"):
        _IDRID[letter](root / letter / letter if nested else root / letter)
    folders = ("A. Segmentation", "B. Disease Grading")
    whole, lesions = (root / letter / letter if nested else root / letter for letter in folders)
    source = whole if whole.name.startswith("B") else lesions
    target = lesions if source is whole else whole
    twin = source / "1. Original Images" / "b. Testing Set" / "IDRiD_002.jpg"
    (target / "1. Original Images" / "b. Testing Set" / "IDRiD_56.jpg").write_bytes(twin.read_bytes())
    return root


def _idrid_lesions(base: Path) -> None:
    names = {"MA": "1. Microaneurysms", "HE": "2. Haemorrhages", "EX": "3. Hard Exudates", "SE": "4. Soft Exudates"}
    for part, numbers in (("a. Training Set", range(1, 9)), ("b. Testing Set", range(55, 58))):
        for number in numbers:
            picture(base / "1. Original Images" / part / f"IDRiD_{number:02d}.jpg")
            for short, name in (names | {"OD": "5. Optic Disc"}).items():
                if short == "SE" and number % 2:
                    continue  # there is none in the picture
                path = base / "2. All Segmentation Groundtruths" / part / name / f"IDRiD_{number:02d}_{short}.tif"
                red = np.stack([blob(), blob() * 0, blob() * 0], axis=-1)
                stored(path, red, "P" if short == "HE" else "")


def _idrid_grades(base: Path) -> None:
    for folder, letter, part, count in IDRID_PARTS:
        rows: list[Sequence[object]] = [("Image name", "Retinopathy grade", "Risk of macular edema ", *[""] * 9)]
        for number in range(1, count + 1):
            picture(base / "1. Original Images" / folder / f"IDRiD_{number:03d}.jpg")
            rows.append((f"IDRiD_{number:03d}", number % 5, number % 3, *[""] * 9))
        rows.append([""] * 12)
        table(base / "2. Groundtruths" / f"{letter}. IDRiD_Disease Grading_{part} Labels.csv", rows)


def _idrid_points(base: Path) -> None:
    truth = base / "2. Groundtruths"
    for folder, letter, part, count in IDRID_PARTS:
        discs: list[Sequence[object]] = [("Image No", "X- Coordinate", "Y - Coordinate", "", "")]
        foveas: list[Sequence[object]] = [("Image No", "X- Coordinate", "Y - Coordinate", "", "")]
        for number in range(1, count + 1):
            graded = base.parent.parent / "B. Disease Grading" / "B. Disease Grading"
            graded = graded if graded.is_dir() else base.parent / "B. Disease Grading"
            inside = Path("1. Original Images") / folder / f"IDRiD_{number:03d}.jpg"
            (base / inside).parent.mkdir(parents=True, exist_ok=True)
            (base / inside).write_bytes((graded / inside).read_bytes())
            discs.append((f"IDRiD_{number:03d}", 9 if number % 2 else 2, 5, "", ""))
            foveas.append((f"IDRiD_{number:03d}", 5.5, 6, "", ""))
        discs.append([""] * 5)
        table(truth / "1. Optic Disc Center Location" / f"{letter}. IDRiD_OD_Center_{part} Set_Markups.csv", discs)
        table(truth / "2. Fovea Center Location" / f"IDRiD_Fovea_Center_{part} Set_Markups.csv", foveas)


_IDRID: dict[str, Callable[[Path], None]] = {
    "A. Segmentation": _idrid_lesions,
    "B. Disease Grading": _idrid_grades,
    "C. Localization": _idrid_points,
}


def make_odir(root: Path) -> Path:
    _odir_pictures(root / "ODIR-5K_Training_Images" / "ODIR-5K_Training_Dataset", range(20, 40))
    picture(root / "ODIR-5K_Testing_Images" / "937_left.jpg")
    workbook(
        root / "ODIR-5K_Training_Annotations(Updated)_V2.xlsx", [ODIR_HEADER, *ODIR_ROWS, *_healthy(range(20, 40))]
    )
    return root


def make_odir_kaggle(root: Path) -> Path:
    """`full_df.csv` alone: a row an image, some images left out, reduced pictures beside the published ones."""
    _odir_pictures(root / "ODIR-5K" / "ODIR-5K" / "Training Images", range(20, 40))
    _odir_pictures(root / "preprocessed_images", range(20, 40))
    picture(root / "ODIR-5K" / "ODIR-5K" / "Testing Images" / "937_left.jpg")
    rows: list[Sequence[object]] = [(*ODIR_HEADER, "filepath", "labels", "target", "filename")]
    for row in (*ODIR_ROWS, *_healthy(range(20, 40))):
        rows += [(*row, "../input", "['N']", "[1, 0]", row[side]) for side in (3, 4) if row[side] != "4_left.jpg"]
    table(root / "full_df.csv", rows)
    return root


def make_odir_oia(root: Path) -> Path:
    parts = (("Training Set", "training", range(20, 26)), ("Off-site Test Set", "off-site test", range(30, 33)))
    for name, word, numbers in (*parts, ("On-site Test Set", "on-site test", range(40, 43))):
        base = root / "OIA-ODIR" / name
        rows = [*(ODIR_ROWS if word == "training" else ()), *_healthy(numbers)]
        _odir_pictures(base / "Images", numbers, first=word == "training")
        workbook(base / "Annotation" / f"{word} annotation (English).xlsx", [ODIR_HEADER, *rows])
    return root


def _healthy(numbers: range) -> list[Sequence[object]]:
    words = ("normal fundus", "normal fundus", 1, *[0] * 7)
    return [(n, 40 + n, "Male", f"{n}_left.jpg", f"{n}_right.jpg", *words) for n in numbers]


def _odir_pictures(folder: Path, numbers: range, *, first: bool = True) -> None:
    for number in (*(row[0] for row in ODIR_ROWS if first), *numbers):
        picture(folder / f"{number}_left.jpg")
        picture(folder / f"{number}_right.jpg")


DISC_SIZE = (40, 30)


def disc_mask(background: int, rim: int, cup: int) -> NDArray[np.uint8]:
    """Ten columns from 20 and ten rows from 10 are the disc; four rows of it from 13 are cup."""
    pixels: NDArray[np.uint8] = np.full(DISC_SIZE[::-1], background, np.uint8)
    pixels[10:20, 20:30] = rim
    pixels[13:17, 23:27] = cup
    return pixels


def make_refuge(root: Path) -> Path:
    base, annotations = root / "REFUGE-Training400" / "Training400", root / "Annotation-Training400"
    rows: list[Sequence[object]] = [("ID", "ImgName", "Fovea_X", "Fovea_Y")]
    for letter, kind, count in (("g", "Glaucoma", 3), ("n", "Non-Glaucoma", 5)):
        for number in range(1, count + 1):
            name = f"{letter}{number:04d}"
            picture(base / kind / f"{name}.jpg", DISC_SIZE)
            masks = annotations / "Annotation-Training400" / "Disc_Cup_Masks" / kind
            stored(masks / f"{name}.bmp", disc_mask(255, 128, 0))
            rows.append((len(rows), f"{name}.jpg", 12.5, 15.25))
    workbook(annotations / "Annotation-Training400" / "Fovea_location.xlsx", rows)
    tables = (("Validation400", "V", "Fovea_locations.xlsx", "Glaucoma Label"),)
    for part, letter, name, label in (
        *tables,
        ("Test400", "T", "Glaucoma_label_and_Fovea_location.xlsx", "Label(Glaucoma=1)"),
    ):
        rows = [("ID", "ImgName", label, "Fovea_X", "Fovea_Y")]
        for number in range(1, 4):
            image = f"{letter}{number:04d}"
            picture(root / f"REFUGE-{part}" / f"{image}.jpg", DISC_SIZE)
            stored(root / f"REFUGE-{part}-GT" / "Disc_Cup_Masks" / f"{image}.bmp", disc_mask(255, 128, 0))
            rows.append((number, f"{image}.jpg", number % 2, 33.0, 15))
        workbook(root / f"REFUGE-{part}-GT" / name, rows)
    return root


def make_refuge_kaggle(root: Path) -> Path:
    """A copy: index.json a part, masks of 0, 1, 2, further cuts beside them, no labels of the test part."""
    for part, names in (("train", ("g0001", "n0001", "n0002")), ("val", ("V0001", "V0002")), ("test", ("T0001",))):
        base = root / "REFUGE" / part
        index = {}
        for place, name in enumerate(names):
            picture(base / "Images" / f"{name}.jpg", DISC_SIZE)
            picture(base / "Images_Cropped" / f"{name}.jpg", (8, 8))
            about: dict[str, object] = {"ImgName": f"{name}.jpg", "Size_X": 40, "Size_Y": 30}
            if part != "test":
                stored(base / "Masks" / f"{name}.png", disc_mask(0, 1, 2))
                stored(base / "Masks_Cropped" / f"{name}.png", disc_mask(0, 1, 2))
                about |= {"Fovea_X": 12.5, "Fovea_Y": 15.5, "Label": int(place == 0)}
            index[str(place)] = about
        text(base / "index.json", json.dumps(index))
    return root


def archive(path: Path, *, classes: int = 5, labels: int = 1, colour: bool = True, side: int = 8) -> Path:
    """Twelve, four and six pictures; labels count up, so that all classes occur."""
    path.parent.mkdir(parents=True, exist_ok=True)
    generator = np.random.default_rng(zlib.crc32(path.name.encode()))
    arrays: dict[str, NDArray[np.uint8]] = {}
    for part, count in (("train", 12), ("val", 4), ("test", 6)):
        shape = (count, side, side, 3) if colour else (count, side, side)
        arrays[f"{part}_images"] = generator.integers(0, 256, shape, np.uint8)
        numbers = np.arange(count * labels).reshape(count, labels) % (2 if labels > 1 else classes)
        arrays[f"{part}_labels"] = numbers.astype(np.uint8)
    np.savez_compressed(path, **arrays)  # type: ignore[arg-type]
    return path


def make_medmnist(root: Path) -> Path:
    archive(root / "retinamnist.npz")
    archive(root / "organcmnist_64.npz", classes=11, colour=False)
    archive(root / "chestmnist.npz", labels=14, colour=False)
    archive(root / "breastmnist.npz", classes=2, colour=False)
    return root


EYE_MAKERS: dict[str, tuple[str, Callable[[Path], Path]]] = {
    "aptos": ("aptos", make_aptos),
    "aptos, Kaggle": ("aptos", make_aptos_parted),
    "eyepacs": ("eyepacs", make_eyepacs),
    "eyepacs, Kaggle": ("eyepacs", make_eyepacs_resized),
    "messidor2": ("messidor2", make_messidor2),
    "drive": ("drive", make_drive),
    "drive, with test": ("drive", lambda root: make_drive(root, manuals=True)),
    "deepdrid": ("deepdrid", make_deepdrid),
    "idrid": ("idrid", make_idrid),
    "idrid, nested": ("idrid", lambda root: make_idrid(root, nested=True)),
    "odir": ("odir", make_odir),
    "odir, Kaggle": ("odir", make_odir_kaggle),
    "odir, OIA": ("odir", make_odir_oia),
    "refuge": ("refuge", make_refuge),
    "refuge, Kaggle": ("refuge", make_refuge_kaggle),
    "medmnist": ("medmnist", make_medmnist),
}
