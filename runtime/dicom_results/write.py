"""An answer about a DICOM image as DICOM objects beside it: report, segmentation, secondary capture, graphics.

Laws:
- All objects of a call are made before the first is written, and each file is there whole or not at all.
- They keep the source's patient and study and refer to the source; what the source leaves out is left out.
- The same picture, bundle, engine and kinds give the same UIDs; with the same `now`, the same bytes.
- An image that was not fit gives a report that says why, and no score anywhere.

    for path in write_results(source.dataset, prediction, identity_of(bundle), ("sr", "seg"), Path("results")):
        print(path)

Needs `foveola[dicom]`; nothing of it is imported before `write_results` is called.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

from ..durable import make_folder, write_file
from ..errors import FoveolaError, MissingPartError, UsageError
from ..prediction import Prediction
from .case import KINDS, Kind
from .identity import BundleIdentity
from .words import is_answered

if TYPE_CHECKING:
    from PIL import Image
    from pydicom.dataset import Dataset

    from ..source import Source


def write_about(
    source: Source, prediction: Prediction, identity: BundleIdentity, kinds: Sequence[str], folder: Path, place: str
) -> list[Path]:
    """Write what was answered about a source that was read from a file; see `write_results`.

    Raises:
        FoveolaError: it was no DICOM image, or see there.
    """
    if source.dataset is None:
        raise FoveolaError(place, "is no DICOM image", "leave out --dicom-out, or give DICOM images")
    return write_results(source.dataset, prediction, identity, kinds, folder, picture=source.picture, place=place)


def write_results(
    dataset: Dataset,
    prediction: Prediction,
    identity: BundleIdentity,
    kinds: Sequence[str],
    folder: Path,
    *,
    picture: Image.Image | None = None,
    now: datetime | None = None,
    place: str = "",
) -> list[Path]:
    """Write what was answered about an image.

    Args:
        dataset: the source image's header, with or without pixels.
        prediction: the answer.
        identity: who answered.
        kinds: `sr`, `seg`, `sc`, `gsps`. A segmentation is left out where there are no masks.
        folder: where the files go, as `<SOP Instance UID>.<kind>.dcm`; it is made.
        picture: the source as it was shown to the network (`Source.picture`); `sc` needs it.
        now: the objects' date and time; by default the clock's.
        place: how to name the image in an error; by default its SOP Instance UID.

    Returns:
        The files, in the order of `KINDS`.

    Raises:
        UsageError: there is no such kind.
        FoveolaError: the source cannot be referred to, `sc` without picture, or a file cannot be written.
        MissingPartError: highdicom or pydicom is not installed.
    """
    encoded = make_results(dataset, prediction, identity, kinds, picture=picture, now=now, place=place)
    make_folder(folder)
    for name, data in encoded.items():
        write_file(folder / name, data)
    return [folder / name for name in encoded]


def make_results(
    dataset: Dataset,
    prediction: Prediction,
    identity: BundleIdentity,
    kinds: Sequence[str],
    *,
    picture: Image.Image | None = None,
    now: datetime | None = None,
    place: str = "",
) -> dict[str, bytes]:
    """Make the files of `write_results`, to be stored otherwise: content by name in the order of `KINDS`."""
    wanted = parse_kinds(",".join(kinds))
    if "sc" in wanted and picture is None:
        raise FoveolaError(place or "image", "a secondary capture needs the picture", "give it, or leave out sc")
    make_files = require_parts()
    without = () if prediction.masks and is_answered(prediction) else ("seg",)
    return make_files(
        dataset,
        prediction,
        identity,
        tuple(kind for kind in wanted if kind not in without),
        picture=picture,
        now=now or datetime.now(),
        place=place,
    )


def require_parts() -> Callable[..., dict[str, bytes]]:
    """Load what makes the objects, `makers.make_files`.

    Raises:
        MissingPartError: highdicom or pydicom is not installed.
    """
    try:
        from .makers import make_files
    except ModuleNotFoundError as error:
        package = (error.name or "highdicom").partition(".")[0]
        raise MissingPartError(package, "is not installed", "pip install 'foveola[dicom]'") from None
    return make_files


def parse_kinds(text: str, option: str = "--dicom-kinds") -> tuple[Kind, ...]:
    """Read `sr,seg` into kinds, each once, in the order of `KINDS`.

    Raises:
        UsageError: there is no such kind, or none at all.
    """
    asked = [word.strip() for word in text.split(",") if word.strip()]
    unknown = [word for word in asked if word not in KINDS]
    if unknown or not asked:
        fault = f"there is no kind {unknown[0]!r}" if unknown else "no kind is named"
        raise UsageError(option, fault, f"take some of {', '.join(KINDS)}")
    return tuple(kind for kind in KINDS if kind in asked)
