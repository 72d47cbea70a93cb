"""One tiny valid data set; each test breaks one part of it."""

from __future__ import annotations

import csv
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

Rows = list[dict[str, str]]

NODULE = '[{"label": "nodule", "x1": 2, "y1": 3, "x2": 10, "y2": 9}]'
# file, patient, split, sex, view, grade, finding_a, finding_b, age, mask, boxes
LINES = (
    ("a.png", "p1", "train", "F", "PA", "none", "1", "0", "40", "mask_a.png", NODULE),
    ("b.png", "p1", "train", "F", "AP Supine", "2", "", "1", "", "", ""),
    ("c.png", "p2", "val", "M", "PA", "mild", "0", "0", "61.5", "", "[]"),
    ("d.png", "p3", "test", "M", "AP", "0", "1.0", "1", "33", "mask_d.png", ""),
)
HEADER = ("file", "patient_id", "split", "sex", "view", "grade", "finding_a", "finding_b", "age", "mask", "boxes")


def write_rows(root: Path, rows: Rows) -> None:
    with (root / "manifest.csv").open("w", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


@pytest.fixture
def tiny(tmp_path: Path) -> Path:
    """Four images of three patients, 20 x 16 pixels, with every kind of target and gaps."""
    root = tmp_path / "tiny"
    root.mkdir()
    rng = np.random.default_rng(0)
    for line in LINES:
        Image.fromarray(rng.integers(0, 255, (16, 20), np.uint8)).save(root / line[0])
    mask = np.zeros((16, 20), np.uint8)
    mask[4:12, 2:8], mask[4:12, 12:18] = 1, 2
    Image.fromarray(mask).save(root / "mask_a.png")
    Image.fromarray(mask[:, ::-1]).save(root / "mask_d.png")
    write_rows(root, [dict(zip(HEADER, line, strict=True)) for line in LINES])
    return root


@pytest.fixture
def broken(tiny: Path) -> Callable[..., Path]:
    """Give the tiny data set with one cell changed."""

    def change(line: int, **cells: str) -> Path:
        with (tiny / "manifest.csv").open(newline="", encoding="utf-8") as stream:
            rows = list(csv.DictReader(stream))
        rows[line - 2].update(cells)
        write_rows(tiny, rows)
        return tiny

    return change
