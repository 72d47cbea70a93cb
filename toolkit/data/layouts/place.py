"""Which split each picture of a layout gets: never two for one patient, unless a paper's own split is asked for.

- The official parts are used where they part patients; otherwise all patients are split 70/10/20 by hash.
- `TRAIN_VAL` is parted 7 to 1 by hash of the patient, so that the shares are those of the rest.
- A paper's split goes by image, as the paper did it: by a shuffle (the order of hashes), exact in number where the
  folder is complete, by share where it is not.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import msgspec

from ..splits import by_hash, patient_hash
from .layout import TRAIN_VAL, Picture

CARVED = {"train": 7 / 8, "val": 1 / 8}  # of TRAIN_VAL: 70 to 10
LITERAL = {TRAIN_VAL: "train", "train": "train", "val": "val", "test": "val"}


class Paper(msgspec.Struct, frozen=True):
    """What MTPret did with a data set (Liao et al. 2024, table I).

    Args:
        images: train, val, test.
        how: `shuffle`: images at random; `official`: the official evaluation part as val, no test; `pool`: all of
            them without labels.
        options: of the reader.
        note: what is not known.
    """

    images: tuple[int, int, int]
    how: Literal["shuffle", "official", "pool"]
    options: dict[str, bool] = {}
    note: str = ""


def place_patients(pictures: Sequence[Picture], *, seed: int) -> tuple[list[str], list[str]]:
    """Choose a split for each picture by patient; also notes on how."""
    parts: dict[str, set[str]] = {}
    for picture in pictures:
        parts.setdefault(who(picture), set()).add(picture.part)
    torn = sorted(patient for patient, found in parts.items() if len(found) > 1)
    if torn:
        note = (
            f"{len(torn)} patients are in more than one official part, first {torn[0]}: all were split by hash instead"
        )
        return [by_hash(who(picture), seed=seed) for picture in pictures], [note]
    return [_of_part(picture, seed) for picture in pictures], []


def _of_part(picture: Picture, seed: int) -> str:
    if picture.part == TRAIN_VAL:
        return by_hash(who(picture), seed=seed, shares=CARVED)
    return picture.part or by_hash(who(picture), seed=seed)


def place_as_paper(pictures: Sequence[Picture], paper: Paper, *, seed: int) -> tuple[list[str], list[str]]:
    """Choose a split for each picture as the paper did; also notes on how."""
    notes = [paper.note] if paper.note else []
    if paper.how == "pool":
        return ["train"] * len(pictures), [*notes, "the paper uses all of them without labels: all are train"]
    if paper.how == "official":
        note = "the paper evaluates on the official part that is val here; there is no test"
        return [LITERAL[picture.part] for picture in pictures], [*notes, note]
    counts = share_out(len(pictures), paper.images)
    order = sorted(range(len(pictures)), key=lambda i: patient_hash(pictures[i].file, seed=seed, purpose="paper"))
    splits = [""] * len(pictures)
    names = [name for name, count in zip(("train", "val", "test"), counts, strict=True) for _ in range(count)]
    for index, name in zip(order, names, strict=True):
        splits[index] = name
    if sum(counts) != sum(paper.images):
        notes.append(f"{sum(counts)} images, the paper has {sum(paper.images)}: its split is scaled by share")
    return splits, notes


def share_out(images: int, paper: tuple[int, int, int]) -> tuple[int, int, int]:
    """The paper's numbers where there are as many images; otherwise its shares, the rest going to train."""
    if images == sum(paper):
        return paper
    least = 1 if images >= 3 else 0
    val, test = (max(images * part // sum(paper), least) for part in paper[1:])
    return images - val - test, val, test


def who(picture: Picture) -> str:
    """The patient; the file where none is named."""
    return picture.patient or picture.file


def torn_patients(pictures: Sequence[Picture], splits: Sequence[str]) -> int:
    """How many patients are in more than one split."""
    seen: dict[str, set[str]] = {}
    for picture, split in zip(pictures, splits, strict=True):
        seen.setdefault(who(picture), set()).add(split)
    return sum(len(found) > 1 for found in seen.values())
