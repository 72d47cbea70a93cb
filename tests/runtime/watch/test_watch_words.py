"""Which word a refusal is counted under: the real error of each kind, and nothing of its text."""

from __future__ import annotations

import io
from collections.abc import Callable

import numpy as np
import pydicom
import pytest
from PIL import Image
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.uid import UID, ComputedRadiographyImageStorage, ExplicitVRLittleEndian, JPEGBaseline8Bit

from foveola.runtime.dicom.rule import SourceRule
from foveola.runtime.errors import FoveolaError
from foveola.runtime.manifest import InputSpec
from foveola.runtime.source import open_source
from foveola.runtime.watch.words import REFUSALS, kind_of, refusal

RULE = SourceRule(
    modalities=("CR",),
    sop_classes=(ComputedRadiographyImageStorage,),
    body_parts=("CHEST",),
    views=("PA",),
    lateralities=("U",),
    lossy_ratio=10,
)


def chest(*, syntax: UID = ExplicitVRLittleEndian, **changes: object) -> bytes:
    """A chest radiograph that the rule allows, with some elements changed; None takes one out."""
    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = syntax
    dataset.SOPClassUID, dataset.SOPInstanceUID = ComputedRadiographyImageStorage, "1.2.3"
    dataset.Modality, dataset.BodyPartExamined, dataset.ViewPosition = "CR", "CHEST", "PA"
    dataset.ImageLaterality, dataset.PresentationIntentType = "U", "FOR PRESENTATION"
    dataset.PhotometricInterpretation, dataset.SamplesPerPixel = "MONOCHROME2", 1
    dataset.Rows = dataset.Columns = 16
    dataset.BitsAllocated = dataset.BitsStored = 8
    dataset.HighBit, dataset.PixelRepresentation = 7, 0
    dataset.PixelData = bytes(256)
    for name, value in changes.items():
        if value is None:
            delattr(dataset, name)
        else:
            setattr(dataset, name, value)
    stream = io.BytesIO()
    pydicom.dcmwrite(stream, dataset, enforce_file_format=True)
    return stream.getvalue()


def png(mode: str = "L") -> bytes:
    stream = io.BytesIO()
    Image.fromarray(np.zeros((8, 8), np.uint8)).convert(mode).save(stream, "TIFF" if mode == "CMYK" else "PNG")
    return stream.getvalue()


@pytest.mark.parametrize(
    ("kind", "data"),
    [
        ("modality", lambda: chest(Modality="CT")),
        ("modality", lambda: chest(Modality=None)),
        ("sop-class", lambda: chest(SOPClassUID="1.2.840.10008.5.1.4.1.1.2")),
        ("sop-class", lambda: chest(SOPClassUID="1.2.840.10008.5.1.4.1.1.66.4")),
        ("body-part", lambda: chest(BodyPartExamined="SKULL")),
        ("view", lambda: chest(ViewPosition="LL")),
        ("laterality", lambda: chest(ImageLaterality="L")),
        ("not-for-presentation", lambda: chest(PresentationIntentType="FOR PROCESSING")),
        ("not-for-presentation", lambda: chest(SOPClassUID="1.2.840.10008.5.1.4.1.1.1.1.1")),
        ("frames", lambda: chest(NumberOfFrames=2, PixelData=bytes(512))),
        ("lossy", lambda: chest(LossyImageCompression="01", LossyImageCompressionRatio=40)),
        ("format", lambda: chest(PhotometricInterpretation="CMYK")),
        ("too-large", lambda: chest(Rows=65535, Columns=65535)),
        ("unreadable", lambda: chest(PixelData=bytes(100))),
        ("unreadable", lambda: chest(syntax=JPEGBaseline8Bit, PixelData=encapsulate([b"\xff\xd8 junk"]))),
        ("unreadable", lambda: png()[:40]),
        ("unreadable", lambda: b""),
        ("format", lambda: b"%PDF-1.7 and more"),
        ("format", lambda: png("CMYK")),
    ],
)
def test_the_error_of_each_kind_has_its_word(kind: str, data: Callable[[], bytes]) -> None:
    with pytest.raises(FoveolaError) as caught:
        open_source(data(), InputSpec(height=8, width=8, channels=1), RULE, "image")

    assert kind_of(caught.value.fault) == kind_of(str(caught.value)) == kind, str(caught.value)


def test_an_allowed_image_is_read() -> None:
    assert open_source(chest(), InputSpec(height=8, width=8, channels=1), RULE).picture.size == (16, 16)


def test_an_answer_that_is_none_has_its_word() -> None:
    assert kind_of("output 'findings' holds NaN or infinity") == "no-answer"


@pytest.mark.parametrize("text", ["", "Doe^John", "no modality here", "Doe: modalities"])
def test_everything_else_is_other(text: str) -> None:
    assert kind_of(text) == refusal(text) == "other"


def test_every_word_is_listed_once() -> None:
    assert len(set(REFUSALS)) == len(REFUSALS)
    assert {kind_of("modality X is not one that"), refusal("full")} <= set(REFUSALS)
