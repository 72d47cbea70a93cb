"""One tiny valid DICOM object, for the tests to change one part of; and the real ones, where they are."""

from __future__ import annotations

import csv
import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import UID, ExplicitVRLittleEndian

from foveola.runtime.dicom.rule import SourceRule
from foveola.runtime.manifest import InputSpec
from foveola.runtime.source import Source, open_source

SHARED = Path(__file__).resolve().parents[3].parent / "shared" / "data" / "dicom"
CR, DX = "1.2.840.10008.5.1.4.1.1.1", "1.2.840.10008.5.1.4.1.1.1.1"
GREY, COLOUR = InputSpec(height=32, width=32, channels=1), InputSpec(height=32, width=32, channels=3)
ANY = SourceRule(colour="either")


def cr(
    pixels: NDArray[Any] | None = None, *, stored: int = 0, syntax: str = ExplicitVRLittleEndian, **said: Any
) -> Dataset:
    """A chest radiograph of computed radiography; what is None in `said` is left out."""
    pixels = np.arange(24, dtype=np.uint16).reshape(4, 6) if pixels is None else pixels
    bits = pixels.dtype.itemsize * 8
    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = UID(syntax)
    dataset.SOPClassUID, dataset.SOPInstanceUID = CR, "1.2.826.0.1.3680043.8.498.1"
    dataset.Modality, dataset.BodyPartExamined, dataset.ViewPosition, dataset.Laterality = "CR", "CHEST", "PA", "U"
    dataset.PatientName = "Nobody^Here"
    dataset.Rows, dataset.Columns = pixels.shape[:2]
    dataset.SamplesPerPixel = 1 if pixels.ndim == 2 else 3
    dataset.PhotometricInterpretation = "MONOCHROME2" if pixels.ndim == 2 else "RGB"
    if pixels.ndim == 3:
        dataset.PlanarConfiguration = 0
    dataset.BitsAllocated, dataset.BitsStored = bits, stored or bits
    dataset.HighBit = dataset.BitsStored - 1
    dataset.PixelRepresentation = int(pixels.dtype.kind == "i")
    data = pixels.tobytes()
    dataset.PixelData = data + bytes(len(data) % 2)
    dataset["PixelData"].VR = "OB" if bits == 8 else "OW"
    for keyword, value in said.items():
        if value is None:
            del dataset[keyword]
        else:
            setattr(dataset, keyword, value)
    return dataset


def written(dataset: Dataset) -> bytes:
    """The object as a file."""
    stream = io.BytesIO()
    dataset.save_as(stream, enforce_file_format=True)
    return stream.getvalue()


def opened(dataset: Dataset | bytes, rule: SourceRule = ANY, spec: InputSpec = GREY) -> Source:
    """Through the seam, as a device does."""
    return open_source(dataset if isinstance(dataset, bytes) else written(dataset), spec, rule, "study.dcm")


def shown(dataset: Dataset | bytes) -> NDArray[Any]:
    """The picture's pixels."""
    return np.asarray(opened(dataset).picture)


def lut(first: int, bits: int, entries: list[int]) -> Dataset:
    """An item of a modality or VOI look-up table sequence."""
    item = Dataset()
    item.add_new("LUTDescriptor", "SS" if first < 0 else "US", [len(entries) % 65536, first, bits])
    item.add_new("LUTData", "US", entries)
    return item


def jpeg(pixels: NDArray[Any], **how: Any) -> bytes:
    """A JPEG file by Pillow."""
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "JPEG", **how)
    return stream.getvalue()


def real(name: str) -> Path:
    """A real file; the test is skipped where it is not."""
    if not (SHARED / name).is_file():
        pytest.skip("the real DICOM files are not here")
    return SHARED / name


def real_rows() -> list[dict[str, str]]:
    """Rows of the real files' manifest; none where they are not."""
    if not (SHARED / "manifest.csv").is_file():
        return []
    with (SHARED / "manifest.csv").open(newline="") as stream:
        return list(csv.DictReader(stream))
