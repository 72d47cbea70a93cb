"""The source image's header, made fit to be referenced: what is absent is empty, nothing is invented.

Laws:
- The source needs its four names (study, series, instance, class); without one there is nothing to refer to. A name is
  taken over as it stands, for the archive holds the source under it.
- Attributes of type 2 that are absent or break their value representation become empty, as the standard has it (PS3.5
  7.4.5); of the others, those that break theirs stay behind.
- Pixels, overlays and private elements stay behind; text is written as UTF-8 (ISO_IR 192).
"""

from __future__ import annotations

import re
from copy import deepcopy

import numpy as np
from pydicom.config import RAISE
from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.multival import MultiValue
from pydicom.uid import UID, ExplicitVRLittleEndian
from pydicom.valuerep import DA, TM, validate_value

from ..errors import FoveolaError
from ..prediction import Prediction

NAMES = ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID", "SOPClassUID")  # type 1
EMPTY = ("PatientID", "PatientName", "AccessionNumber", "StudyID", "ReferringPhysicianName")  # type 2
MENDED = ("PatientBirthDate", "StudyDate", "StudyTime")  # read below, from old forms too
LOOKUP_TABLES = ("ModalityLUTSequence", "VOILUTSequence")
# Value representations of text whose form can be checked.
CHECKED = ("AE", "AS", "CS", "DA", "DS", "DT", "IS", "LO", "LT", "PN", "SH", "ST", "TM", "UC", "UR", "UT")


def reference_header(dataset: Dataset, prediction: Prediction, place: str) -> Dataset:
    """Copy what results take over from a source image.

    Args:
        dataset: the source, with or without its pixels; it is not changed.
        prediction: what was answered about it; its masks have to be of the source's size.
        place: how to name the image in an error.

    Raises:
        FoveolaError: a name is absent, it is no image, there are several frames, or the masks are of another size.
    """
    for keyword in NAMES:
        if not re.fullmatch(r"[0-9.]{1,64}", str(dataset.get(keyword) or "")):
            raise FoveolaError(place, f"{keyword} is absent or no UID", "results need an image that they can refer to")
    frames = _whole(dataset, "NumberOfFrames", 1)
    if frames != 1:
        raise FoveolaError(place, f"{frames} frames", "results are written about images of one frame")
    size = (_whole(dataset, "Rows", 0), _whole(dataset, "Columns", 0))
    kind = UID(str(dataset.SOPClassUID)).name
    if "Image" not in kind:  # in the name of every class of images, and of no other (PS3.6 A)
        raise FoveolaError(place, f"is of the class {kind}, no image", "results are written about images")
    if min(size) < 1:
        raise FoveolaError(place, "Rows or Columns are absent", "results need an image that they can refer to")
    for mask in prediction.masks:
        if mask.pixels.shape != size:
            fault = f"the mask of {mask.label} is {mask.pixels.shape}, the image {size}"
            raise FoveolaError(place, fault, "give the object that was answered about")
    return _copied(dataset)


def side_of(header: Dataset) -> str:
    """Give the side, `L` or `R`, that a source says of itself as series or image; empty where it is not known.

    Body Part Examined is not taken over: with it Laterality would have to be absent for some parts and not for others.
    """
    said = {str(header.get(keyword) or "") for keyword in ("Laterality", "ImageLaterality")} & {"L", "R"}
    return said.pop() if len(said) == 1 else ""


def _copied(dataset: Dataset) -> Dataset:
    header = _decoded(dataset)
    for element in list(header):
        if _is_broken(element) and element.keyword not in (*NAMES, *MENDED):
            del header[element.tag]
    for keyword in EMPTY:
        if header.get(keyword) is None:
            setattr(header, keyword, "")
    header.PatientBirthDate, header.StudyDate = _date(header, "PatientBirthDate"), _date(header, "StudyDate")
    header.StudyTime = _time(header, "StudyTime")
    header.PatientSex = header.get("PatientSex") if header.get("PatientSex") in ("M", "F", "O") else ""
    for keyword in LOOKUP_TABLES:
        for table in header.get(keyword) or ():
            _as_words(table)
    header.file_meta = FileMetaDataset()
    header.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    return header


def _decoded(dataset: Dataset) -> Dataset:
    """Copy the elements that results may take over, with all text decoded from the source's character set."""
    copied = Dataset()
    for tag in list(dataset.keys()):
        if not tag.is_private and tag.group not in (0x0002, 0x7FE0) and not 0x6000 <= tag.group <= 0x60FF:
            copied[tag] = deepcopy(dataset[tag])
    if "SpecificCharacterSet" not in copied:
        copied.SpecificCharacterSet = "ISO_IR 6"
    copied.decode()
    copied.SpecificCharacterSet = "ISO_IR 192"
    return copied


def _is_broken(element: DataElement) -> bool:
    if element.VR not in CHECKED or element.value is None:
        return False
    values = element.value if isinstance(element.value, MultiValue | list) else [element.value]
    try:
        for value in values:
            validate_value(element.VR, str(getattr(value, "original_string", None) or value), RAISE)
    except ValueError:
        return True
    return False


def _as_words(table: Dataset) -> None:
    """A lookup table that came as numbers (US) as the words that they are (OW), which highdicom reads."""
    data = table.get("LUTData")
    if data is not None and not isinstance(data, bytes):
        numbers = data if isinstance(data, MultiValue | list) else [data]
        words = np.array([int(number) & 0xFFFF for number in numbers], "<u2").tobytes()
        table.add_new("LUTData", "OW", words)


def _whole(dataset: Dataset, keyword: str, absent: int) -> int:
    try:
        return int(dataset.get(keyword) or absent)
    except (TypeError, ValueError):
        return 0


def _date(header: Dataset, keyword: str) -> str:
    """Write a date as YYYYMMDD, also an old YYYY.MM.DD (PS3.5 6.2, note 1); empty where it is none."""
    try:
        day = DA(str(header.get(keyword) or "").replace(".", ""))
    except ValueError:
        return ""
    return day.strftime("%Y%m%d") if day else ""


def _time(header: Dataset, keyword: str) -> str:
    try:
        return str(TM(str(header.get(keyword) or "").replace(":", "")) or "")
    except ValueError:
        return ""
