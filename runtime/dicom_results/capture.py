"""The secondary capture: the source as the network saw it, with outlines, boxes and a caption (PS3.3 A.8.1).

Laws:
- Marks lie on the picture, words in a band below it: nothing of the picture is hidden but what lies under a line.
- It is a picture to look at, not to measure: it has no pixel spacing and says that it is derived.
- Whether somebody is named in the pixels is what the source says of its own; the caption names nobody.
"""

from __future__ import annotations

import numpy as np
from highdicom.sc import SCImage
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont
from pydicom.dataset import Dataset
from pydicom.sr.codedict import codes
from pydicom.uid import ExplicitVRLittleEndian

from .case import Case
from .header import side_of
from .words import box_ink, caption, is_answered, mask_ink, shown

LEAST_SIDE, MOST_SIDE = 512, 2048  # pixels of the longer side, caption left out
Pixels = NDArray[np.uint8]
LOSSY = ("LossyImageCompression", "LossyImageCompressionRatio", "LossyImageCompressionMethod")


def make_capture(case: Case) -> Dataset:
    """Write the picture of a case with its overlay; the case has a picture."""
    header = case.header
    captured: Dataset = SCImage(
        pixel_array=overlay(case),
        photometric_interpretation="RGB",
        bits_allocated=8,
        coordinate_system="PATIENT",
        study_instance_uid=header.StudyInstanceUID,
        patient_id=header.PatientID,
        patient_name=header.PatientName,
        patient_birth_date=header.PatientBirthDate,
        patient_sex=header.PatientSex,
        accession_number=header.AccessionNumber,
        study_id=header.StudyID,
        study_date=header.StudyDate or None,
        study_time=header.StudyTime or None,
        referring_physician_name=header.ReferringPhysicianName,
        patient_orientation=("L", "F"),  # highdicom asks for one; it is replaced by the source's below
        transfer_syntax_uid=ExplicitVRLittleEndian,
        specific_character_set="ISO_IR 192",
        **case.common("sc"),
    )
    captured.copy_patient_and_study_information(header)
    captured.PatientOrientation = header.get("PatientOrientation", "")
    captured.Laterality = side_of(header)  # type 2C
    captured.ConversionType = "WSD"  # workstation (C.8.6.1)
    captured.DerivationDescription = "Overlay of an algorithm's answer on its source image"
    captured.SourceImageSequence = [_source(header)]
    lossy = LOSSY if str(header.get("LossyImageCompression", "")) == "01" else ()
    for keyword in ("BurnedInAnnotation", *lossy):
        if header.get(keyword):
            captured[keyword] = header[keyword]
    return captured


def overlay(case: Case) -> Pixels:
    """Draw a case: uint8 (height, width, 3), red, green, blue."""
    assert case.picture is not None
    picture = _eight_bits(case.picture)
    longest = max(picture.size)
    scale = min(max(longest, LEAST_SIDE), MOST_SIDE) / longest
    size = (max(round(picture.width * scale), 1), max(round(picture.height * scale), 1))
    drawn = picture.resize(size, Image.Resampling.BILINEAR if scale > 1 else Image.Resampling.BOX)
    if is_answered(case.prediction):
        drawn = _outlined(case, drawn)
        _boxed(case, drawn)
    return np.asarray(_captioned(case, drawn), np.uint8)


def _eight_bits(picture: Image.Image) -> Image.Image:
    if picture.mode.startswith("I;16"):
        return Image.fromarray((np.asarray(picture) >> 8).astype(np.uint8)).convert("RGB")
    return picture.convert("RGB")


def _outlined(case: Case, drawn: Image.Image) -> Image.Image:
    pixels = np.array(drawn)
    width = _line(drawn)
    for index, mask in enumerate(case.masks):
        small = Image.fromarray(mask.pixels.astype(np.uint8) * 255).resize(drawn.size, Image.Resampling.NEAREST)
        pixels[_rim(np.asarray(small) > 0, width)] = mask_ink(index)
    return Image.fromarray(pixels)


def _rim(mask: NDArray[np.bool_], width: int) -> NDArray[np.bool_]:
    """Pixels of a mask that have one outside of it within `width`, along rows or columns; the picture's edge is not."""
    inside = np.pad(mask, width, mode="edge")
    core = inside.copy()
    for step in range(1, width + 1):
        for axis in (0, 1):
            core &= np.roll(inside, step, axis) & np.roll(inside, -step, axis)
    rim: NDArray[np.bool_] = mask & ~core[width:-width, width:-width]
    return rim


def _boxed(case: Case, drawn: Image.Image) -> None:
    pen, font, width = ImageDraw.Draw(drawn), _font(drawn), _line(drawn)
    across, down = drawn.width / int(case.header.Columns), drawn.height / int(case.header.Rows)
    for box in case.prediction.boxes:
        if box.positive:
            ink = box_ink(case.prediction, box.label)
            corner = (box.x1 * across, box.y1 * down)
            far = (max(box.x2 * across - 1, corner[0]), max(box.y2 * down - 1, corner[1]))
            pen.rectangle((*corner, *far), outline=ink, width=width)
            words = f"{shown(box.label)} {box.score:.2f}"
            left, _, right, bottom = pen.textbbox((0, 0), words, font=font)
            x = min(max(corner[0], 0), max(drawn.width - (right - left), 0))
            y = corner[1] - bottom if corner[1] >= bottom else box.y2 * down
            at = (x, min(y, drawn.height - bottom))
            pen.text(at, words, fill="white", font=font, stroke_width=1, stroke_fill="black")


def _captioned(case: Case, drawn: Image.Image) -> Image.Image:
    lines, font = caption(case.prediction, case.identity), _font(drawn)
    pen = ImageDraw.Draw(drawn)
    height = round(1.3 * pen.textbbox((0, 0), "Ag|", font=font)[3])
    whole = Image.new("RGB", (drawn.width, drawn.height + height * len(lines) + height // 2))
    whole.paste(drawn)
    pen = ImageDraw.Draw(whole)
    for number, line in enumerate(lines):
        top = drawn.height + height // 4 + number * height
        if line.ink is not None:
            pen.rectangle((height // 3, top + height // 4, height // 3 + height // 2, top + 3 * height // 4), line.ink)
        pen.text((height // 3 + (height if line.ink else 0), top), line.text, fill="white", font=font)
    return whole


def _font(drawn: Image.Image) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(max(min(drawn.size) // 36, 11))


def _line(drawn: Image.Image) -> int:
    return max(round(max(drawn.size) / 400), 1)


def _source(header: Dataset) -> Dataset:
    """Item of the Source Image Sequence (PS3.3 C.7.6.1.1.4)."""
    purpose, code = Dataset(), codes.DCM.SourceImageForImageProcessingOperation
    purpose.CodeValue, purpose.CodingSchemeDesignator = code.value, code.scheme_designator
    purpose.CodeMeaning = code.meaning
    source = Dataset()
    source.ReferencedSOPClassUID, source.ReferencedSOPInstanceUID = header.SOPClassUID, header.SOPInstanceUID
    source.PurposeOfReferenceCodeSequence = [purpose]
    return source
