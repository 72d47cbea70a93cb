"""NIH ChestX-ray14: 112,120 frontal chest radiographs of 30,805 patients, 14 findings mined from reports.

- `Data_Entry_2017.csv` (or `_v2020`): the names in brackets hold commas, so only columns left of them are read.
- `train_val_list.txt` and `test_list.txt` are the official parts, parted by patient.
- `BBox_List_2017.csv` has boxes of 880 images (all of the test part); an image without a row is a gap.
"""

from __future__ import annotations

import re
from pathlib import Path

from ....runtime.errors import FoveolaError
from ..cells import BoxCell
from .files import by_name, find_base
from .layout import TRAIN_VAL, Draft, Layout, Picture
from .tables import column, read_names, read_plain, read_rows, sex, years

MARKS = ("Data_Entry_2017.csv|Data_Entry_2017_v2020.csv",)
SIZE = (1024, 1024)  # in whose pixels the boxes are
FINDINGS = (
    "Atelectasis",
    "Cardiomegaly",
    "Consolidation",
    "Edema",
    "Effusion",
    "Emphysema",
    "Fibrosis",
    "Hernia",
    "Infiltration",
    "Mass",
    "Nodule",
    "Pleural_Thickening",
    "Pneumonia",
    "Pneumothorax",
)
NONE = "No Finding"
COLUMNS = {
    "file": "Image Index",
    "findings": "Finding Labels",
    "follow_up": "Follow-up #",
    "patient": "Patient ID",
    "age": "Patient Age",
    "sex": "Patient Gender|Patient Sex",  # both headers are in circulation
    "view": "View Position",
}


def read_nih(root: Path) -> Layout:
    """Read NIH ChestX-ray14.

    Raises:
        FoveolaError: another layout, a table of another version.
    """
    base = find_base(root, MARKS)
    draft = Draft(root, base)
    files, parts, boxes = by_name(draft.stored), _official_parts(base, draft), _read_boxes(base, draft)
    table = next(path for name in reversed(MARKS[0].split("|")) if (path := base / name).is_file())
    draft.notes.append(f"labels come from {table.name}; they were mined from reports, about one in ten is wrong")
    impossible = 0
    for row in read_rows(table, COLUMNS):
        cells = _findings(row["findings"], str(table))
        cells |= {"age": years(row["age"]), "sex": sex(row["sex"]), "view": row["view"], "follow_up": row["follow_up"]}
        impossible += bool(row["age"]) and not cells["age"]
        name = row["file"]
        # 1, 00000001 and the file's own prefix are one patient.
        patient = name.split("_")[0] if "_" in name else row["patient"].zfill(8)
        draft.add(
            Picture(
                file=files.get(name) or draft.path(base, "images", name),
                patient=patient,
                part=parts.get(name, ""),
                cells=cells,
                boxes=boxes.get(name),
                box_size=SIZE,
            )
        )
    if impossible:
        draft.notes.append(f"{impossible} ages that cannot be are gaps")
    targets = [column(finding) for finding in FINDINGS]
    return draft.finish(
        "nih",
        attributes=("sex", "age", "view", "follow_up"),
        targets=(*targets, "no_finding"),
        has_boxes=True,
        box_mend="the boxes are in pixels of the original 1024x1024 images: import those, not a reduced copy",
    )


def _findings(labels: str, place: str) -> dict[str, str]:
    said = set(labels.split("|"))
    unknown = said - {*FINDINGS, NONE}
    if unknown:
        mend = f"known are {', '.join(FINDINGS)}, {NONE}"
        raise FoveolaError(place, f"another version of the file: no finding {sorted(unknown)[0]!r}", mend)
    cells = {column(finding): "1" if finding in said else "0" for finding in FINDINGS}
    return cells | {"no_finding": str(int(NONE in said))}


def _official_parts(base: Path, draft: Draft) -> dict[str, str]:
    lists = {"train_val_list.txt": TRAIN_VAL, "test_list.txt": "test"}
    absent = [name for name in lists if not (base / name).is_file()]
    if absent:
        draft.notes.append(f"no {' and '.join(absent)}: patients are split by hash, not as NIH did")
        return {}
    return {name: part for listed, part in lists.items() for name in read_names(base / listed)}


def _read_boxes(base: Path, draft: Draft) -> dict[str, tuple[BoxCell, ...]]:
    """Boxes by image; the header `Bbox [x,y,w,h],,,` holds commas, so its cells are taken by position."""
    path = base / "BBox_List_2017.csv"
    if not path.is_file():
        draft.notes.append(f"no {path.name}: there are no boxes")
        return {}
    lines = read_plain(path)
    header = ",".join(next(lines, (0, []))[1])
    if not re.match(r"Image Index,Finding Label,\W*Bbox", header):
        expected = "Image Index,Finding Label,Bbox [x,y,w,h]"
        raise FoveolaError(
            str(path), "another version of the file", f"its header is {header!r}, expected is {expected!r}"
        )
    boxes: dict[str, tuple[BoxCell, ...]] = {}
    for number, cells in lines:
        try:
            x, y, width, height = (float(cell) for cell in cells[2:6])
        except ValueError:
            raise FoveolaError(
                f"{path} line {number}", f"not a box: {','.join(cells)}", "x, y, width, height"
            ) from None
        label = "Infiltration" if cells[1] == "Infiltrate" else cells[1]
        box = BoxCell(label=label, x1=x, y1=y, x2=x + width, y2=y + height)
        boxes[cells[0]] = (*boxes.get(cells[0], ()), box)
    draft.notes.append(f"{len(boxes)} images have boxes, all others are gaps: an image without a box is no negative")
    return boxes
