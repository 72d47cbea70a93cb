"""Kinds of objects and what makes them, in one visible table; all that needs highdicom is behind it.

Law: what a library says about a header is not repeated to the user, since it may quote a patient's name.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime
from io import BytesIO

from PIL import Image
from pydicom.dataset import Dataset
from pydicom.valuerep import DA, DT, TM

from ..dicom.tags import BROKEN, BROKEN_TOO, quiet
from ..errors import FoveolaError
from ..prediction import Prediction
from .capture import make_capture
from .case import Case, Kind
from .header import reference_header
from .identity import BundleIdentity
from .marks import make_marks
from .report import make_report
from .segments import make_segmentation

MAKERS: dict[Kind, Callable[[Case], Dataset]] = {
    "sr": make_report,
    "seg": make_segmentation,
    "sc": make_capture,
    "gsps": make_marks,
}
TIMES = ("InstanceCreation", "Content", "PresentationCreation")  # what the standard demands, or highdicom writes


def make_files(
    dataset: Dataset,
    prediction: Prediction,
    identity: BundleIdentity,
    kinds: tuple[Kind, ...],
    *,
    picture: Image.Image | None,
    now: datetime,
    place: str,
) -> dict[str, bytes]:
    """Make the objects of these kinds: content by file name.

    Raises:
        FoveolaError: the source cannot be referred to, or its header cannot be taken over.
    """
    with _silent():
        try:
            place = place or f"image {dataset.get('SOPInstanceUID', 'without name')}"
            header = reference_header(dataset, prediction, place)
        except (*BROKEN, *BROKEN_TOO) as error:
            raise FoveolaError(place or "image", f"its header cannot be taken over ({type(error).__name__})") from None
        case = Case(header=header, prediction=prediction, identity=identity, kinds=kinds, now=now, picture=picture)
        return {f"{case.instance_uid(kind)}.{kind}.dcm": _encoded(kind, case, place) for kind in kinds}


def _encoded(kind: Kind, case: Case, place: str) -> bytes:
    stream = BytesIO()
    try:
        made = MAKERS[kind](case)
        _stamp(made, case.now)
        made.save_as(stream, enforce_file_format=True)
    except (*BROKEN, *BROKEN_TOO) as error:
        fault = f"its header does not allow the kind {kind} ({type(error).__name__})"
        raise FoveolaError(place, fault, "leave the kind out, or mend the header") from None
    return stream.getvalue()


def _stamp(made: Dataset, now: datetime) -> None:
    """Write one time everywhere, so that equal answers at an equal time are equal bytes."""
    for stem in TIMES:
        if f"{stem}Date" in made:
            setattr(made, f"{stem}Date", DA(now.date()))
            setattr(made, f"{stem}Time", TM(now.time()))
    if "DateOfSecondaryCapture" in made:
        made.DateOfSecondaryCapture, made.TimeOfSecondaryCapture = DA(now.date()), TM(now.time())
    for equipment in made.get("ContributingEquipmentSequence", ()):
        if equipment.get("ManufacturerModelName") == "highdicom":  # the others' times are the source's
            equipment.ContributionDateTime = DT(now)


@contextmanager
def _silent() -> Iterator[None]:
    """Keep the libraries' warnings and log lines about other people's headers from the user."""
    loggers = [logging.getLogger(name) for name in ("highdicom", "pydicom")]
    with quiet():
        levels = [one.level for one in loggers]
        for one in loggers:
            one.setLevel(logging.CRITICAL)
        try:
            yield
        finally:
            for one, level in zip(loggers, levels, strict=True):
                one.setLevel(level)
