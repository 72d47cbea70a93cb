"""One tiny radiograph and one answer about it, for every test to change one part of."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from pydicom.dataset import Dataset
from pydicom.uid import (
    ComputedRadiographyImageStorage,
    DigitalXRayImageStorageForPresentation,
    OphthalmicPhotography8BitImageStorage,
)

from foveola.runtime.dicom_results.identity import BundleIdentity
from foveola.runtime.dicom_results.write import write_results
from foveola.runtime.prediction import Box, Choice, Finding, Mask, Measurement, Prediction, Quality

ROWS, COLUMNS = 48, 64
NOW = datetime(2026, 3, 4, 5, 6, 7)
Written = Callable[..., dict[str, Path]]


def header(sop_class: str, modality: str, **changed: Any) -> Dataset:
    """A source's header without pixels; a value of None leaves the attribute out."""
    source = Dataset()
    values: dict[str, Any] = {
        "SOPClassUID": sop_class,
        "SOPInstanceUID": "1.2.3.4.5",
        "StudyInstanceUID": "1.2.3",
        "SeriesInstanceUID": "1.2.3.4",
        "Modality": modality,
        "PatientID": "P1",
        "PatientName": "Doe^Jane",
        "PatientBirthDate": "19700102",
        "PatientSex": "F",
        "AccessionNumber": "A1",
        "StudyID": "S1",
        "StudyDate": "20260101",
        "StudyTime": "101112",
        "ReferringPhysicianName": "",
        "Rows": ROWS,
        "Columns": COLUMNS,
        "SamplesPerPixel": 1,
        "PhotometricInterpretation": "MONOCHROME2",
        "BitsAllocated": 16,
        "BitsStored": 12,
        "HighBit": 11,
        "PixelRepresentation": 0,
        "PatientOrientation": ["L", "F"],
        "Laterality": "L",
        "ImageType": ["ORIGINAL", "PRIMARY"],
    }
    for keyword, value in (values | changed).items():
        if value is not None:
            setattr(source, keyword, value)
    return source


@pytest.fixture
def cr() -> Dataset:
    return header(ComputedRadiographyImageStorage, "CR")


@pytest.fixture
def dx() -> Dataset:
    window = {"WindowCenter": 2048, "WindowWidth": 4096, "RescaleSlope": 1, "RescaleIntercept": 0}
    return header(
        DigitalXRayImageStorageForPresentation,
        "DX",
        PhotometricInterpretation="MONOCHROME1",
        PresentationLUTShape="INVERSE",
        PresentationIntentType="FOR PRESENTATION",
        ImageLaterality="R",
        Laterality=None,
        PixelSpacing=[0.15, 0.15],
        FrameOfReferenceUID="1.2.3.9",
        **window,
    )


@pytest.fixture
def op() -> Dataset:
    return header(
        OphthalmicPhotography8BitImageStorage,
        "OP",
        SamplesPerPixel=3,
        PhotometricInterpretation="RGB",
        PlanarConfiguration=0,
        BitsAllocated=8,
        BitsStored=8,
        HighBit=7,
        NumberOfFrames=1,
        LossyImageCompression="01",
        LossyImageCompressionRatio=12,
        LossyImageCompressionMethod="ISO_10918_1",
    )


@pytest.fixture
def picture() -> Image.Image:
    return Image.fromarray(np.full((ROWS, COLUMNS), 100, np.uint8))


@pytest.fixture
def identity() -> BundleIdentity:
    return BundleIdentity(name="chest", version="1.4", digest="0123456789abcdef" * 4, engine="onnxruntime int8")


def mask(label: str, *rectangles: tuple[int, int, int, int], task: str = "lungs") -> Mask:
    """A mask of rectangles (top, left, bottom, right)."""
    pixels = np.zeros((ROWS, COLUMNS), np.bool_)
    for top, left, bottom, right in rectangles:
        pixels[top:bottom, left:right] = True
    area = int(pixels.sum())
    return Mask(task=task, label=label, pixels=pixels, area_px=area, fraction=area / pixels.size)


@pytest.fixture
def answer() -> Prediction:
    return Prediction(
        findings=(
            Finding(task="signs", label="Pneumothorax", probability=0.875, threshold=0.5, positive=True),
            Finding(task="signs", label="Pleural_Thickening", probability=0.125, threshold=0.25, positive=False),
        ),
        choices=(
            Choice(task="grade", label="severe", index=1, probabilities=(0.25, 0.75), classes=("none", "severe")),
        ),
        measurements=(Measurement(task="age", name="age", value=61.25, unit="years"),),
        masks=(mask("right_lung", (10, 8, 30, 24)), mask("left_lung")),
        boxes=(
            Box(task="spots", label="nodule", score=0.97, x1=40.5, y1=10.0, x2=50.5, y2=20.0, positive=True),
            Box(task="spots", label="nodule", score=0.07, x1=1.0, y1=2.0, x2=9.0, y2=8.0, positive=False),
        ),
    )


@pytest.fixture
def unfit() -> Prediction:
    return Prediction(quality=Quality(fit=False, reasons=("out of focus (0.03, at least 0.10)",)))


@pytest.fixture
def written(cr: Dataset, answer: Prediction, identity: BundleIdentity, picture: Image.Image, tmp_path: Path) -> Written:
    """Write all kinds, or those named; what is given takes the place of the fixtures. Paths by kind."""

    def write(
        source: Dataset | None = None,
        prediction: Prediction | None = None,
        kinds: tuple[str, ...] = ("sr", "seg", "sc", "gsps"),
        who: BundleIdentity = identity,
        now: datetime = NOW,
        folder: str = "out",
    ) -> dict[str, Path]:
        source, prediction = source or cr, prediction or answer
        paths = write_results(source, prediction, who, kinds, tmp_path / folder, picture=picture, now=now)
        return {path.name.split(".")[-2]: path for path in paths}

    return write
