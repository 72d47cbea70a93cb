"""MURA 1.1: 40,005 radiographs of seven parts of the arm, each study normal or abnormal.

- The tables have no header: paths of images, and studies with their label.
- A label belongs to a study, not to an image: an abnormal study has images that show nothing.
- The official `valid` part has other patients than `train`; it is the test split here.
"""

from __future__ import annotations

from pathlib import Path, PurePosixPath

from ....runtime.errors import FoveolaError
from .files import find_base
from .layout import TRAIN_VAL, Draft, Layout, Picture
from .tables import read_names, read_plain

MARKS = ("train_image_paths.csv|valid_image_paths.csv", "train|valid")
PARTS = {"train": TRAIN_VAL, "valid": "test"}
EXPECTED = "MURA-v1.1/train/XR_WRIST/patient00001/study1_positive/image1.png"


def read_mura(root: Path) -> Layout:
    """Read MURA 1.1.

    Raises:
        FoveolaError: another layout, a table of another version.
    """
    base = find_base(root, MARKS)
    draft = Draft(root, *(base / part for part in PARTS))
    here = PurePosixPath(draft.path(base))
    for part in PARTS:
        paths = base / f"{part}_image_paths.csv"
        if not paths.is_file():
            draft.notes.append(f"no {paths.name}: its images are left out")
            continue
        labels = _labels(base / f"{part}_labeled_studies.csv")
        for path in read_names(paths):
            inside = _inside(path, str(paths))
            if inside.name.startswith("._"):
                draft.drop("left behind by macOS, no images", path)
                continue
            _, region, patient, study, _ = inside.parts
            label = labels.get(inside.parent.as_posix(), "")
            if label and study.endswith(("_positive", "_negative")) and label != str(int(study.endswith("_positive"))):
                draft.drop("images whose study is named otherwise than its label says", path)
                continue
            cells = {"body_part": region.removeprefix("XR_").lower(), "abnormal": label}
            cells["study"] = inside.parent.relative_to(inside.parts[0]).as_posix()
            draft.add(Picture(file=str(here / inside), patient=patient, part=PARTS[inside.parts[0]], cells=cells))
    draft.notes.append("a label is that of the whole study: an image of an abnormal study may show nothing")
    return draft.finish("mura", attributes=("body_part", "study"), targets=("abnormal",))


def _labels(path: Path) -> dict[str, str]:
    labels = {}
    for number, cells in read_plain(path):
        if len(cells) < 2 or cells[1].strip() not in ("0", "1"):
            shown = ",".join(cells)
            mend = "expected is MURA-v1.1/train/XR_WRIST/patient00001/study1_positive/,1 without a header"
            raise FoveolaError(f"{path} line {number}", f"another version of the file: {shown!r}", mend)
        study = _inside(f"{cells[0].strip().rstrip('/')}/image1.png", str(path)).parent
        labels[study.as_posix()] = cells[1].strip()
    return labels


def _inside(path: str, place: str) -> PurePosixPath:
    """The path from `train` or `valid` on: part, body part, patient, study, file."""
    parts = PurePosixPath(path).parts
    begin = next((i for i, part in enumerate(parts) if part in PARTS), None)
    if begin is None or len(parts) - begin != 5:
        raise FoveolaError(place, f"another version of the file: path {path!r}", f"expected is {EXPECTED}, no header")
    return PurePosixPath(*parts[begin:])
