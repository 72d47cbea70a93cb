"""From a published data set to a manifest: read, unpack, look for missing files, copies and damage, split, draw, write.

    done = import_layout("nih", Path("/data/nih"))
    done.images["train"], done.notes

The story is in `import_layout`; its parts are in the files beside it.
"""

from __future__ import annotations

import csv
import io
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec

from ....runtime.errors import FoveolaError, UsageError
from ...work import write_atomic
from ..masks import NONE
from ..splits import SPLITS
from .copies import find_copies, without_copies
from .draw import with_drawn_masks
from .eye_masks import with_eye_masks
from .fit import with_fitting_boxes, with_fitting_masks, with_fitting_points, without_damaged
from .layout import Layout, Picture, named, with_pictures
from .place import Paper, place_as_paper, place_patients, torn_patients, who
from .read import read_layout, source_of
from .unpack import with_unpacked_pictures

YES_NO = {"0": "no", "1": "yes"}
MOST_GRADES = 10  # whole numbers from 0 to this are counted one by one; more are a measure

Progress = Callable[[int, int, str], None]  # done, total, of what


class Imported(msgspec.Struct, frozen=True, kw_only=True):
    """What was written.

    Args:
        layout: its name.
        manifest: the CSV.
        images: by split.
        patients: by split.
        targets: by column: how many images say what.
        notes: what somebody who trains on this should know.
        dropped: names by why they were left out.
        torn: patients in more than one split; more than none only with a paper's split.
    """

    layout: str
    manifest: Path
    images: dict[str, int]
    patients: dict[str, int]
    targets: dict[str, dict[str, int]]
    notes: tuple[str, ...]
    dropped: dict[str, tuple[str, ...]]
    torn: int


def import_layout(
    name: str,
    root: Path,
    *,
    out: Path | None = None,
    paper_literal: bool = False,
    seed: int = 0,
    force: bool = False,
    allow_missing: bool = False,
    options: dict[str, str] | None = None,
    progress: Progress = lambda done, total, what: None,
) -> Imported:
    """Read a published data set and write its manifest.

    Args:
        name: of the layout (`read.LAYOUTS`).
        root: the folder into which it was unpacked.
        out: the manifest, a CSV directly in `root`; `root/manifest.csv` unless given.
        paper_literal: split as MTPret did, by image where it did so.
        seed: of the hashes.
        force: replace a manifest that is there.
        allow_missing: leave missing files out instead of refusing.
        options: of the reader, as `{"uncertain": "zero"}`.
        progress: told what is done, on long work.

    Raises:
        FoveolaError: another layout or version, missing files, boxes in another coordinate system, a manifest that is
            there already.
        UsageError: no such layout or option, `out` outside of `root`, no split of the paper known.
    """
    source, manifest = source_of(name), _manifest(root, out, force)
    wrong = [option for option in options or {} if option not in source.options]
    if wrong:
        raise UsageError(f"--{wrong[0]}", f"{name} has no such option", "see foveola data import --help")
    paper = _paper(name, source.paper) if paper_literal else None

    layout = read_layout(name, root, **(options or {}), **(paper.options if paper else {}))
    _refuse_missing(root, layout, allow_missing)
    if not layout.pictures:
        raise FoveolaError(str(root), f"no images of the layout {name} are there", "unpack the images too")

    layout = with_unpacked_pictures(root, layout, progress)
    copies = find_copies(root, layout.sizes, progress)
    # A picture more or less would change the paper's numbers.
    layout = with_pictures(layout, layout.pictures, None, *_kept(copies)) if paper else without_copies(layout, copies)
    layout = without_damaged(root, layout, progress) if layout.may_be_damaged else layout
    layout = with_fitting_points(root, with_fitting_masks(root, with_fitting_boxes(root, layout)))
    layout = with_eye_masks(root, with_drawn_masks(root, layout, progress), progress)
    splits, how = (
        place_as_paper(layout.pictures, paper, seed=seed) if paper else place_patients(layout.pictures, seed=seed)
    )

    _write(manifest, layout, splits)
    torn = torn_patients(layout.pictures, splits)
    return Imported(
        layout=name,
        manifest=manifest,
        images={split: splits.count(split) for split in SPLITS if split in splits},
        patients=_patients(layout.pictures, splits),
        targets=_counts(layout),
        notes=(*layout.notes, *_left_out(layout), *how, *(_leaks(torn) if torn else ())),
        dropped=layout.dropped,
        torn=torn,
    )


def _manifest(root: Path, out: Path | None, force: bool) -> Path:
    if not root.is_dir():
        raise FoveolaError(str(root), "no such folder", "give the folder into which the data set was unpacked")
    manifest = root / "manifest.csv" if out is None else root / out if out.parent == Path() else out
    if manifest.parent.resolve() != root.resolve() or manifest.suffix != ".csv":
        mend = f"paths in a manifest are relative to its folder: for example {root / 'manifest.csv'}"
        raise UsageError("--out", f"{manifest} is not a CSV directly in {root}", mend)
    if manifest.exists() and not force:
        raise FoveolaError(str(manifest), "is there already", "give --force to replace it, or another name with --out")
    return manifest


def _paper(name: str, paper: Paper | None) -> Paper:
    if paper is None:
        raise UsageError("--paper-literal", f"MTPret did not use {name}", "leave the option out")
    return paper


def _refuse_missing(root: Path, layout: Layout, allow: bool) -> None:
    if layout.missing and not allow:
        total = len(layout.missing) + len(layout.pictures)
        fault = f"{len(layout.missing)} of {total} files are missing or empty: {named(layout.missing)}"
        raise FoveolaError(str(root), fault, "unpack all archives, or give --allow-missing to leave them out")


def _kept(copies: list[list[str]]) -> list[str]:
    more = sum(len(group) - 1 for group in copies)
    return [f"{more} images are byte-for-byte copies of others, as in the paper"] if more else []


def _left_out(layout: Layout) -> list[str]:
    missing = [f"{len(layout.missing)} missing or empty files: {named(layout.missing)}"] if layout.missing else []
    return missing + [f"{len(names)} {why}: {named(names)}" for why, names in layout.dropped.items()]


def _leaks(torn: int) -> tuple[str, ...]:
    return (
        f"LEAK: {torn} patients are in more than one split; the check refuses this manifest unless columns.patient is "
        "left empty in the recipe",
    )


def _write(manifest: Path, layout: Layout, splits: Sequence[str]) -> None:
    """Write the manifest whole or not at all."""
    known = (*layout.attributes, *layout.targets)
    # A column that nobody fills would only be asked for in vain.
    filled = {name for one in layout.pictures for name, cell in one.cells.items() if cell}
    columns = [name for name in known if name in filled]
    stream = io.StringIO(newline="")
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(["file", "patient_id", "split", "dataset", *columns, *(["boxes"] if layout.has_boxes else [])])
    for picture, split in zip(layout.pictures, splits, strict=True):
        cells = [" ".join(picture.cells.get(name, "").split()) for name in columns]
        boxes = [_boxes(picture)] if layout.has_boxes else []
        writer.writerow([picture.file, picture.patient, split, layout.name, *cells, *boxes])
    try:
        write_atomic(manifest, stream.getvalue().encode())
    except OSError as error:
        mend = "make room, or import a copy that can be written"
        raise FoveolaError(str(manifest), f"cannot be written: {error.strerror or error}", mend) from None


def _by_number(what: str) -> tuple[int, str]:
    return (int(what) if what.isdecimal() else 0, what)


def _is_measure(said: Counter[str]) -> bool:
    numbers = [value.removeprefix("-").replace(".", "", 1) for value in said]
    grades = all(value.isdecimal() and int(value) <= MOST_GRADES for value in said)
    return bool(said) and all(value.isdecimal() for value in numbers) and not grades


def _boxes(picture: Picture) -> str:
    if picture.boxes is None:
        return ""
    rounded = [
        {"label": box.label} | {side: round(getattr(box, side), 2) for side in ("x1", "y1", "x2", "y2")}
        for box in picture.boxes
    ]
    return msgspec.json.encode(rounded).decode()


def _patients(pictures: Sequence[Picture], splits: Sequence[str]) -> dict[str, int]:
    found: dict[str, set[str]] = {}
    for picture, split in zip(pictures, splits, strict=True):
        found.setdefault(split, set()).add(who(picture))
    return {split: len(found[split]) for split in SPLITS if split in found}


def _counts(layout: Layout) -> dict[str, dict[str, int]]:
    """How many images say what, by target."""
    counts = {}
    points = {name for pair in layout.points for name in pair}
    for name in layout.targets:
        said = Counter(picture.cells.get(name, "") for picture in layout.pictures)
        gaps = said.pop("", 0)
        if name in layout.mask_columns:
            none = said.pop(NONE, 0)
            said = Counter({"masks": said.total(), NONE: none})
        elif name in points or _is_measure(said):
            said = Counter({"values": said.total()})
        words = YES_NO if said.keys() <= YES_NO.keys() else {}
        counts[name] = {words.get(what, what): said[what] for what in sorted(said, key=_by_number) if said[what]}
        counts[name] |= {"not known": gaps}
    if layout.has_boxes:
        known = [picture.boxes for picture in layout.pictures if picture.boxes is not None]
        labels = Counter(box.label for boxes in known for box in boxes)
        none = sum(not boxes for boxes in known)
        counts["boxes"] = dict(sorted(labels.items())) | {NONE: none, "not known": len(layout.pictures) - len(known)}
    return counts
