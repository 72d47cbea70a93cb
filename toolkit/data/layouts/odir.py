"""ODIR-5K: 5,000 patients with both eyes photographed, eight flags a patient and keywords an eye.

- **The flags N, D, G, C, A, H, M, O are those of the patient**: a healthy left eye has `D` 1 when the right one has
  retinopathy. They become `patient_*`. What is known of the eye itself stands in its keywords and becomes `finding_*`,
  by the publisher's rule; where keywords and flags contradict each other, the eye's cell is a gap.
- Keywords are parted by a full-width comma. Some say nothing of the eye (`lens dust`, `image offset`), and some that
  there is no fundus in the picture: those pictures are left out.
- Three forms: the challenge's (an Excel table `..._V2.xlsx`, training part alone has labels), Kaggle's (`data.xlsx`, or
  `full_df.csv` with one row an image), and OIA-ODIR (three parts with a table each, which are kept: off-site is `val`).
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

import msgspec

from ....runtime.errors import FoveolaError
from .files import by_stem, find_base, folders_of, images_in, stem
from .layout import Draft, Layout, Picture
from .sheets import csv_or_sheet
from .tables import LINE, column, grade, read_rows, sex, years

FLAGS = {
    "N": "Normal",
    "D": "Diabetes",
    "G": "Glaucoma",
    "C": "Cataract",
    "A": "AMD",
    "H": "Hypertension",
    "M": "Myopia",
    "O": "Other",
}
RULES = {  # of the publisher: which keyword stands for which flag
    "D": re.compile(r"diabetic retinopathy|proliferative retinopathy"),
    "G": re.compile(r"glaucoma"),
    "C": re.compile(r"cataract"),
    "A": re.compile(r"age-related macular degeneration"),
    "H": re.compile(r"hypertensive retinopathy"),
    "M": re.compile(r"myop"),
}
NORMAL = "normal fundus"
ABOUT_THE_PICTURE = ("lens dust", "optic disk photographically invisible", "low image quality", "image offset")
NO_FUNDUS = ("no fundus image", "anterior segment image")
POOR = "low image quality"
# A full-width comma that was read in another encoding is left over as characters that cannot be shown.
COMMA = re.compile("[\uff0c,;\ufffd]+")
COLUMNS = {
    "id": "ID",
    "age": "Patient Age",
    "sex": "Patient Sex",
    "left": "Left-Fundus",
    "right": "Right-Fundus",
    "left_words": "Left-Diagnostic Keywords",
    "right_words": "Right-Diagnostic Keywords",
}
TRAINING = (
    "ODIR-5K_Training_Annotations(Updated)_V2.xlsx",
    "ODIR-5K_Training_Annotations(Updated)_V2.csv",
    "data.xlsx",
    "data.csv",
    "full_df.csv",
)
OIA = {"train": "Training Set", "val": "Off-site Test Set", "test": "On-site Test Set"}
MARKS = (
    "ODIR-5K_Training_Annotations*|full_df.csv|ODIR-5K/data.*|ODIR-5K/ODIR-5K/data.*"
    "|ODIR-5K_Training_Images|Training Set/Annotation|Training_Set/Annotation",
)

Row = dict[str, str]


class Eye(msgspec.Struct, frozen=True):
    """One eye of a row: the image's name, its side and its keywords in lower case."""

    file: str
    side: str
    words: tuple[str, ...]


def read_odir(root: Path) -> Layout:
    """Read ODIR-5K, as published or as one of its copies.

    Raises:
        FoveolaError: another layout, a table of another version, a flag that is neither 0 nor 1.
    """
    base = find_base(root, MARKS)
    draft = Draft(root, base)
    images = images_in(draft.stored, draft.path(base))
    contradictions = 0
    tables = _tables(base)
    for part, (table, folder) in tables.items():
        inside = _inside(images, draft.path(folder))
        files = by_stem(sorted((file for file in inside if part != "train" or not inside[file]), key=_rank))
        for row in _rows(table):
            contradictions += _add(draft, row, files, "" if len(tables) == 1 else part, draft.path(folder))
    for file, is_test in _inside(images, draft.path(base)).items():
        if is_test and len(tables) == 1:
            draft.drop("images of the test part, whose labels are not public", file)
    if contradictions:
        draft.notes.append(f"{contradictions} cells of eyes are gaps: keywords and flags contradict each other")
    draft.notes.append("patient_* are flags of both eyes together; finding_* are those of the eye, from its keywords")
    findings, patients = ([f"{kind}_{name}" for name in FLAGS.values()] for kind in ("finding", "patient"))
    return draft.finish("odir", attributes=("sex", "age", "eye", "quality", "keywords"), targets=(*findings, *patients))


def keywords(text: str) -> tuple[str, ...]:
    """The keywords of an eye, in lower case: `a\N{FULLWIDTH COMMA}B` gives a and b."""
    return tuple(word for part in COMMA.split(text.lower()) if (word := " ".join(part.split())))


def flags_of(words: Iterable[str]) -> dict[str, str]:
    """Flags of an eye by its keywords alone; none where they say nothing of it."""
    said = [word for word in words if word not in ABOUT_THE_PICTURE]
    if not said:
        return {}
    flags = {letter: str(int(any(rule.search(word) for word in said))) for letter, rule in RULES.items()}
    other = any(word != NORMAL and not any(rule.search(word) for rule in RULES.values()) for word in said)
    return flags | {"O": str(int(other)), "N": str(int(all(word == NORMAL for word in said)))}


def agreed(flags: dict[str, str], fellow: dict[str, str], patient: dict[str, str]) -> tuple[dict[str, str], int]:
    """The eye's flags where they agree with those of the patient, and how many do not (gaps).

    Args:
        flags: of the eye; empty where its keywords say nothing.
        fellow: of the other eye.
        patient: of both together: a disease is there when an eye has it, normal means that both are.
    """
    wrong, kept = 0, {}
    for letter, both in patient.items():
        cell = flags.get(letter, "0" if both == "0" and letter != "N" else "")
        if letter == "N":
            at_odds = both == "1" and cell == "0"
        else:
            # A disease that the patient has and neither eye is said to have may be in either.
            at_odds = (both == "0" and cell == "1") or (both == "1" and cell == "0" == fellow.get(letter, ""))
        wrong += at_odds
        kept[letter] = "" if at_odds else cell
    return kept, wrong


def _tables(base: Path) -> dict[str, tuple[Path, Path]]:
    """Table and folder by part; `train` alone unless all parts have labels."""
    found: dict[str, tuple[Path, Path]] = {}
    for part, name in OIA.items():
        for folder in (base / name, base / name.replace(" ", "_")):
            listed = sorted((folder / "Annotation").glob("*nglish*"))
            if listed:
                found[part] = (csv_or_sheet(listed[0]), folder)
    if found:
        return found
    for folder in (base, base / "ODIR-5K", base / "ODIR-5K" / "ODIR-5K"):
        for name in TRAINING[:-1]:
            if (folder / name).is_file():
                return {"train": (csv_or_sheet(folder / name), base)}
    if not (base / TRAINING[-1]).is_file():
        fault = "no table of ODIR-5K"
        raise FoveolaError(str(base), fault, f"looked for {', '.join(TRAINING)}; a sheet may be saved as CSV")
    return {"train": (base / TRAINING[-1], base)}


def _rows(table: Path) -> list[Row]:
    flags = {letter: letter for letter in FLAGS}
    return read_rows(table, COLUMNS | flags, optional={"only": "filename"})


def _inside(images: list[str], folder: str) -> dict[str, bool]:
    """The images below a folder, and whether the folders in between speak of a test."""
    begin = "" if folder == "." else f"{folder}/"
    inside = [file for file in images if file.startswith(begin)]
    return {file: any("test" in name for name in folders_of(file.removeprefix(begin))) for file in inside}


def _rank(file: str) -> tuple[bool, str]:
    """The photographs as they were published come before reduced ones."""
    return (any("preprocessed" in name for name in folders_of(file)), file)


def _add(draft: Draft, row: Row, files: dict[str, str], part: str, folder: str) -> int:
    """Add both eyes of a patient (of a row of `full_df.csv` the one that it is about); gives contradictions."""
    patient = {letter: grade(row[letter], 1, row[LINE], letter) for letter in FLAGS}
    eyes = [Eye(row[side], side, keywords(row[f"{side}_words"])) for side in ("left", "right")]
    by_words = [flags_of(eye.words) for eye in eyes]
    wrong = 0
    for eye, flags, fellow in zip(eyes, by_words, by_words[::-1], strict=True):
        if row["only"] not in ("", eye.file):
            continue
        file = files.get(stem(eye.file).lower()) or f"{folder}/{eye.file}".removeprefix("./")
        if any(word in NO_FUNDUS for word in eye.words):
            draft.drop("pictures that show no fundus", file)
            continue
        kept, odds = agreed(flags, fellow, patient)
        wrong += odds
        cells = {column(FLAGS[letter]): cell for letter, cell in kept.items()}
        cells |= {f"patient_{FLAGS[letter]}": cell for letter, cell in patient.items()}
        cells |= {"age": years(row["age"]), "sex": sex(row["sex"]), "eye": eye.side}
        cells |= {"quality": "poor" if POOR in eye.words else "", "keywords": "; ".join(eye.words)}
        draft.add(Picture(file=file, patient=row["id"], part=part, cells=cells))
    return wrong
