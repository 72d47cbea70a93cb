"""Small folders of exactly the layouts of public data sets, traps included; the pictures come out of a seed.

Each maker fills a new folder and gives it back. None of the pictures is anybody's.
"""

from __future__ import annotations

import csv
import json
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

NIH_HEADER = (
    "Image Index,Finding Labels,Follow-up #,Patient ID,Patient Age,Patient Gender,View Position,"
    "OriginalImage[Width,Height],OriginalImagePixelSpacing[x,y],"
)
CHEXPERT_HEADER = (
    *("Path", "Sex", "Age", "Frontal/Lateral", "AP/PA", "No Finding", "Enlarged Cardiomediastinum", "Cardiomegaly"),
    *("Lung Opacity", "Lung Lesion", "Edema", "Consolidation", "Pneumonia", "Atelectasis", "Pneumothorax"),
    *("Pleural Effusion", "Pleural Other", "Fracture", "Support Devices"),
)
FRACATLAS_HEADER = (
    *("image_id", "hand", "leg", "hip", "shoulder", "mixed", "hardware", "multiscan", "fractured", "fracture_count"),
    *("frontal", "lateral", "oblique"),
)


def picture(path: Path, size: tuple[int, int] = (12, 10)) -> Path:
    """Noise of its own for each path; width and height."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(zlib.crc32(str(path).encode())).integers(0, 255, size[::-1], np.uint8)
    Image.fromarray(pixels).save(path)
    return path


def mask(path: Path, columns: slice, size: tuple[int, int] = (12, 10), *, one_bit: bool = False) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels: NDArray[np.uint8] = np.zeros(size[::-1], np.uint8)
    pixels[2:8, columns] = 255
    image = Image.fromarray(pixels)
    (image.convert("1") if one_bit else image).save(path)
    return path


def table(path: Path, rows: Sequence[Sequence[object]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="", encoding="utf-8") as stream:
        csv.writer(stream).writerows(rows)
    return path


def text(path: Path, *lines: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def make_nih(root: Path, *, v2020: bool = False, nested: bool = True, lists: bool = True, side: int = 1024) -> Path:
    """Twelve patients, three with two pictures; the last three are the test part; one box."""
    rows: list[str] = []
    train: list[str] = []
    test: list[str] = []
    for patient in range(1, 13):
        for follow_up in range(2 if patient % 4 == 1 else 1):
            name = f"{patient:08d}_{follow_up:03d}.png"
            folder = f"images_{1 + patient // 6:03d}/images" if nested else "images"
            picture(root / folder / name, (side, side) if name == "00000012_000.png" else (12, 10))
            labels = "No Finding" if patient % 3 == 0 else "Effusion|Pleural_Thickening"
            age = "414" if patient == 2 else f"{50 + patient:03d}Y" if patient == 3 else str(50 + patient)
            rows.append(f"{name},{labels},{follow_up},{patient},{age},{'MF'[patient % 2]},PA,2500,2048,0.168,0.168,")
            (test if patient > 9 else train).append(name)
    header = NIH_HEADER.replace("Patient Gender", "Patient Sex").rstrip(",") if v2020 else NIH_HEADER
    text(root / ("Data_Entry_2017_v2020.csv" if v2020 else "Data_Entry_2017.csv"), header, *rows)
    boxes = "00000012_000.png,Infiltrate,225.08,547.02,86.78,79.19,,,"
    text(root / "BBox_List_2017.csv", "Image Index,Finding Label,Bbox [x,y,w,h],,,", boxes)
    if lists:
        text(root / "train_val_list.txt", *train)
        text(root / "test_list.txt", *test)
    return root


def make_chexpert(root: Path, *, name: str = "CheXpert-v1.0-small") -> Path:
    base = root / name if name else root
    for part, patients in (("train", range(1, 11)), ("valid", range(64541, 64544))):
        rows: list[Sequence[object]] = [CHEXPERT_HEADER]
        for patient in patients:
            views = ("view1_frontal", "view2_lateral") if patient % 2 else ("view1_frontal",)
            for view in views:
                inside = f"{part}/patient{patient:05d}/study1/{view}.jpg"
                picture(base / inside)
                values = ["1.0" if i == patient % 13 else ("", "0.0", "-1.0")[(i + patient) % 3] for i in range(13)]
                side = "Frontal" if "frontal" in view else "Lateral"
                front = "AP" if side == "Frontal" else ""
                sex = "Unknown" if patient == 4 else "Female"
                rows.append((f"CheXpert-v1.0-small/{inside}", sex, 61, side, front, "", *values))
        table(base / f"{part}.csv", rows)
    return root


def make_mura(root: Path) -> Path:
    base = root / "MURA-v1.1"
    for part, patients in (("train", range(1, 9)), ("valid", range(11185, 11188))):
        paths, studies = [], []
        for patient in patients:
            word = "positive" if patient % 2 else "negative"
            study = f"{part}/XR_{('WRIST', 'HAND')[patient % 3 == 0]}/patient{patient:05d}/study1_{word}"
            studies.append((f"MURA-v1.1/{study}/", patient % 2))
            for number in (1, 2):
                picture(base / study / f"image{number}.png")
                paths.append([f"MURA-v1.1/{study}/image{number}.png"])
            (base / study / "._image1.png").write_bytes(b"left behind")
        table(base / f"{part}_image_paths.csv", paths)
        table(base / f"{part}_labeled_studies.csv", studies)
    return root


def make_kermany(root: Path, *, torn: bool = False) -> Path:
    base = root / "chest_xray"
    for part, first in (("train", 100), ("val", 300), ("test", 500)):
        for number in range(first, first + (6 if part == "train" else 2)):
            picture(base / part / "NORMAL" / f"IM-{number:04d}-0001.jpeg")
            picture(base / part / "NORMAL" / f"NORMAL2-IM-{number:04d}-0001-0002.jpeg")
            picture(base / part / "PNEUMONIA" / f"person{number}_bacteria_{number}.jpeg")
            picture(base / part / "PNEUMONIA" / f"person{100 if torn else number}_virus_{number + 1}.jpeg")
        (base / part / "PNEUMONIA" / ".DS_Store").write_bytes(b"left behind")
    return root


def make_kermany_mendeley(root: Path) -> Path:
    base = root / "chest_xray"
    for part, first in (("train", 1003200), ("test", 1009900)):
        for number in range(first, first + 5):
            picture(base / part / "NORMAL" / f"NORMAL-{number}-0001.jpeg")
            picture(base / part / "PNEUMONIA" / f"{('VIRUS', 'BACTERIA')[number % 2]}-{number + 50}-0001.jpeg")
    return root


def make_montgomery(root: Path) -> Path:
    """`leftMask` is the patient's left lung: on the right of the picture."""
    base = root / "MontgomerySet"
    for number in range(1, 9):
        name = f"MCUCXR_{number:04d}_{number % 2}"
        picture(base / "CXR_png" / f"{name}.png")
        mask(base / "ManualMask" / "leftMask" / f"{name}.png", slice(7, 11), one_bit=True)
        mask(base / "ManualMask" / "rightMask" / f"{name}.png", slice(1, 5), one_bit=True)
        reading = "normal" if number % 2 == 0 else "miliary nodules, both lungs"
        text(base / "ClinicalReadings" / f"{name}.txt", "Patient's Sex: F ", "Patient's Age: 027Y", reading)
    (base / "CXR_png" / "Thumbs.db").write_bytes(b"left behind")
    return root


def make_shenzhen(root: Path, *, masks: bool = True) -> Path:
    base = root / "ChinaSet_AllFiles"
    heads = ("male 45yrs", "femal 32yrs", "Female, 28 yrs", "male 16month", "female 64days", "male")
    for number in range(1, 9):
        name = f"CHNCXR_{number:04d}_{int(number > 4)}"
        picture(base / "CXR_png" / f"{name}.png")
        text(base / "ClinicalReadings" / f"{name}.txt", heads[number % len(heads)], "PTB in the right upper field")
        if masks and number != 3:
            mask(base / "mask" / f"{name}_mask.png", slice(2, 9))
    return root


def make_chest_masks(root: Path) -> Path:
    base = root / "Lung Segmentation"
    for number in range(1, 7):
        name, other = f"CHNCXR_{number:04d}_0", f"MCUCXR_{number:04d}_1"
        picture(base / "CXR_png" / f"{name}.png")
        picture(base / "CXR_png" / f"{other}.png")
        if number != 2:
            mask(base / "masks" / f"{name}_mask.png", slice(2, 9))
        mask(base / "masks" / f"{other}.png", slice(2, 9))
        picture(base / "test" / f"CHNCXR_{number + 300:04d}_1.png")
        text(base / "ClinicalReadings" / f"{name}.txt", "male 45yrs", "normal")
    return root


def make_tbx11k(root: Path, *, original: tuple[int, int] = (3072, 2048)) -> Path:
    base = root / "TBX11K"
    box = (100.0, 120.0, 200.0, 150.0)  # x, y, width, height of 512
    for part, first in (("train", 1), ("val", 101)):
        images: list[dict[str, object]] = []
        boxes: list[dict[str, object]] = []
        for number in range(first, first + 6):
            for group, letter in (("health", "h"), ("sick", "s"), ("tb", "tb")):
                file = f"{group}/{letter}{number:04d}.png"
                picture(base / "imgs" / file, (512, 512))
                images.append({"id": len(images) + 1, "file_name": file, "width": 512, "height": 512})
                if group == "tb" and number != 3:
                    annotation: dict[str, object] = {
                        "id": len(boxes) + 1,
                        "image_id": len(images),
                        "category_id": 1 + number % 2,
                    }
                    boxes.append(annotation | {"bbox": list(box), "iscrowd": 0, "area": box[2] * box[3]})
                    _voc(base / "annotations" / "xml" / f"tb{number:04d}.xml", box, original, number)
        names = ("ActiveTuberculosis", "ObsoletePulmonaryTuberculosis", "PulmonaryTuberculosis")
        kinds = [{"id": i, "name": name, "supercategory": "Tuberculosis"} for i, name in enumerate(names, 1)]
        coco = {"info": {}, "images": images, "annotations": boxes, "categories": kinds}
        text(base / "annotations" / "json" / f"TBX11K_{part}.json", json.dumps(coco))
        text(base / "lists" / f"TBX11K_{part}.txt", *(str(image["file_name"]) for image in images))
    picture(base / "imgs" / "test" / "test0001.png")
    picture(base / "imgs" / "extra" / "mc" / "MCUCXR_0001_0.png")
    return root


def _voc(path: Path, box: tuple[float, float, float, float], original: tuple[int, int], number: int) -> None:
    x, y, width, height = box
    scale_x, scale_y = original[0] / 512, original[1] / 512
    corners = {"xmin": x * scale_x, "ymin": y * scale_y, "xmax": (x + width) * scale_x, "ymax": (y + height) * scale_y}
    tags = "".join(f"<{name}>{value:g}</{name}>" for name, value in corners.items())
    label = ("ActiveTuberculosis", "ObsoletePulmonaryTuberculosis")[number % 2]
    text(
        path,
        "<annotation>",
        f"<size><width>{original[0]}</width><height>{original[1]}</height><depth>3</depth></size>",
        f"<object><name>{label}</name><bndbox>{tags}</bndbox></object>",
        "</annotation>",
    )


def make_boneage(root: Path) -> Path:
    folder = "boneage-training-dataset"
    rows: list[Sequence[object]] = [("id", "boneage", "male")]
    for number in range(1377, 1389):
        picture(root / folder / folder / f"{number}.png")
        rows.append((number, 12 * (number % 17) + 6, number % 2 == 0))
    table(root / f"{folder}.csv", rows)
    table(root / "boneage-test-dataset.csv", [("Case ID", "Sex"), (4360, "M")])
    picture(root / "boneage-test-dataset" / "boneage-test-dataset" / "4360.png")
    return root


MESH = (
    "normal",
    "Cardiomegaly/borderline;Pleural Effusion/right",
    "No Indexing",
    "Technical Quality of Image Unsatisfactory ;Nodule/lung",
)


def make_indiana(root: Path) -> Path:
    projections: list[Sequence[object]] = [("uid", "filename", "projection")]
    reports: list[Sequence[object]] = [
        ("uid", "MeSH", "Problems", "image", "indication", "comparison", "findings", "impression")
    ]
    for uid in range(1, 13):
        for number, side in ((4001, "Frontal"), (3001, "Lateral")):
            name = f"{uid}_IM-{uid:04d}-{number}.dcm.png"
            picture(root / "images" / "images_normalized" / name)
            projections.append((uid, name, side))
        reports.append((uid, MESH[uid % 4], "", "PA and lateral", "", "", 'He said "clear", twice.', ""))
    table(root / "indiana_projections.csv", projections)
    table(root / "indiana_reports.csv", reports)
    return root


def make_indiana_nlm(root: Path) -> Path:
    for uid in range(1, 13):
        names = [f"CXR{uid}_1_IM-{uid:04d}-{number}" for number in (3001, 4001)] if uid != 5 else []
        for name in names:
            picture(root / "NLMCXR_png" / f"{name}.png")
        codes = "".join(f"<major>{code}</major>" for code in MESH[uid % 4].split(";"))
        images = "".join(f'<parentImage id="{name}"><url>x</url></parentImage>' for name in names)
        report = f'<eCitation><uId id="CXR{uid}"/><MeSH>{codes}</MeSH>{images}</eCitation>'
        text(root / "ecgen-radiology" / f"{uid}.xml", '<?xml version="1.0"?>', report)
    return root


def make_deepcovid(root: Path) -> Path:
    base = root / "data_upload_v3"
    for part, first in (("train", 0), ("test", 50)):
        for number in range(first, first + 5):
            picture(base / part / "covid" / f"nejmoa20{number:02d}-PA.jpg")
            patient = f"patient{number:05d}_study1_view1_frontal.jpg"
            picture(base / part / "non" / ("Edema" if number % 2 else "No_finding") / patient)
    copied = "covid_original_nejmoa2001-PA.jpg_01234567-89ab-cdef-0123-456789abcdef.jpg"
    picture(base / "train" / "covid" / copied)
    return root


def make_fracatlas(root: Path, *, broken: bool = True) -> Path:
    base = root / "FracAtlas"
    rows: list[Sequence[object]] = [FRACATLAS_HEADER]
    images, drawings = [], []
    for number in range(0, 2000, 100):
        fractured = number % 200 == 0
        name = f"IMG{number:07d}.jpg"
        picture(base / "images" / ("Fractured" if fractured else "Non_fractured") / name, (64, 48))
        rows.append((name, 1, 0, 0, 0, 0, 0, 0, int(fractured), int(fractured), 1, 0, 0))
        if fractured and number != 400:
            images.append({"id": number, "file_name": name, "width": 64, "height": 48, "license": 1})
            polygon = [10.0, 10.0, 30.0, 10.0, 30.0, 25.0, 10.0, 25.0]
            drawing = {"id": number, "image_id": number, "category_id": 0, "bbox": [10.0, 10.0, 20.0, 15.0]}
            drawings.append(drawing | {"segmentation": [polygon], "area": 300.0, "iscrowd": 0})
    if broken:
        name = "IMG0004134.jpg"
        path = picture(base / "images" / "Non_fractured" / name, (64, 48))
        path.write_bytes(path.read_bytes()[:700])
        rows.append((name, 1, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0))
    table(base / "dataset.csv", rows)
    coco = {"images": images, "annotations": drawings, "categories": [{"id": 0, "name": "fractured"}]}
    text(base / "Annotations" / "COCO JSON" / "COCO_fracture_masks.json", json.dumps(coco))
    return root


def make_folders(root: Path, *, val: bool = True) -> Path:
    for part in ("train", "val", "test") if val else ("train", "test"):
        for label in ("cat", "dog"):
            for number in range(3 if val else 20):
                picture(root / part / label / f"{number}.png")
    return root


MAKERS: dict[str, tuple[str, Callable[[Path], Path]]] = {
    "nih": ("nih", make_nih),
    "nih, 2020, flat": ("nih", lambda root: make_nih(root, v2020=True, nested=False)),
    "chexpert": ("chexpert", make_chexpert),
    "mura": ("mura", make_mura),
    "kermany": ("kermany", make_kermany),
    "kermany, Mendeley": ("kermany", make_kermany_mendeley),
    "montgomery": ("montgomery", make_montgomery),
    "shenzhen": ("shenzhen", make_shenzhen),
    "chest-masks": ("chest-masks", make_chest_masks),
    "tbx11k": ("tbx11k", make_tbx11k),
    "rsna-boneage": ("rsna-boneage", make_boneage),
    "indiana": ("indiana", make_indiana),
    "indiana, library": ("indiana", make_indiana_nlm),
    "deepcovid": ("deepcovid", make_deepcovid),
    "fracatlas": ("fracatlas", make_fracatlas),
    "folders": ("folders", make_folders),
}
