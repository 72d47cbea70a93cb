"""dciodvfy (dicom3tools) finds no error in what is written, and no warning that is not named here with its reason."""

from __future__ import annotations

import re
import shutil
import subprocess
import warnings
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pydicom import dcmread
from pydicom.dataset import Dataset

from foveola.runtime.dicom_results.identity import BundleIdentity
from foveola.runtime.dicom_results.write import write_results
from foveola.runtime.errors import FoveolaError
from foveola.runtime.prediction import Prediction

from .conftest import NOW, Written, mask

SHARED = Path(__file__).resolve().parents[3].parent / "shared" / "data" / "dicom"
TOLERATED = (
    # A private coding scheme is no defined term; PS3.16 8.2 allows it, and it is identified in the header.
    r"Unrecognized defined term <99FOVEOLA> for value 1 of attribute <Coding Scheme Designator>",
    # Empty in the source, and of type 2: nothing is invented.
    r"Missing attribute or value that would be needed to build DICOMDIR - (Patient ID|Study (Date|Time|ID))",
    r"is only permitted to be empty when actually unknown.*attribute <Laterality>",
    # Taken over from the source as it is, with all of its patient and study.
    r"Value dubious for this VR .* - Retired Person Name form",
    r"Attribute is not present in standard DICOM IOD - \(0x0032,0x1033\) LO Requesting Service",
    r"Dicom dataset contains attributes not present in standard DICOM IOD - this is a Standard Extended SOP Class",
)
# Faults of a source that its results cannot heal: its name is no UID; it is lossy and does not say how much.
INHERITED = {
    "cr_modality_lut_jpeg_lossless.dcm": r"999\.999\.01\.23\.45\.6789|invalid data values for Value Representations",
    "xc_colour_photo_with_icon.dcm": r"Type 1C Conditional Element=<LossyImageCompressionRatio>",
}
pytestmark = pytest.mark.skipif(shutil.which("dciodvfy") is None, reason="dicom3tools is not here")


def complaints(path: Path) -> Iterator[str]:
    told = subprocess.run(["dciodvfy", str(path)], capture_output=True, text=True, check=False)
    for line in (told.stdout + told.stderr).splitlines():
        if line.startswith(("Error", "Warning")) and not any(re.search(one, line) for one in TOLERATED):
            yield line


@pytest.mark.parametrize("name", ["cr", "dx", "op"])
def test_objects_about_each_kind_of_camera_conform(written: Written, name: str, request: pytest.FixtureRequest) -> None:
    for kind, path in written(request.getfixturevalue(name)).items():
        assert list(complaints(path)) == [], kind


def test_objects_about_an_unfit_image_conform(written: Written, unfit: Prediction) -> None:
    for kind, path in written(prediction=unfit).items():
        assert list(complaints(path)) == [], kind


def test_objects_about_a_header_stripped_of_the_patient_conform(written: Written, cr: Dataset) -> None:
    for keyword in ("PatientID", "PatientName", "PatientBirthDate", "PatientSex", "StudyDate", "StudyID", "Laterality"):
        del cr[keyword]

    for kind, path in written(cr).items():
        assert list(complaints(path)) == [], kind


def sources() -> list[Path]:
    """The shared set's pictures of one frame."""
    others = ("damaged_", "seg_", "sr_", "xa_96", "mr_10", "mr_truncated", "manifest", "LICENCES")
    return [path for path in sorted(SHARED.glob("*")) if not path.name.startswith(others)]


@pytest.mark.parametrize("path", sources() or [None], ids=lambda path: path.name if path else "absent")
def test_objects_about_real_headers_conform(
    path: Path | None, answer: Prediction, identity: BundleIdentity, tmp_path: Path
) -> None:
    if path is None:
        pytest.skip("the shared pictures are not here")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of pydicom, about the source
        source = dcmread(path, force=True, stop_before_pixels=True)
    size = (int(source.Rows), int(source.Columns))
    pixels = np.zeros(size, np.bool_)
    pixels[size[0] // 4 : size[0] // 2, size[1] // 4 : size[1] // 2] = True
    lung = mask("right_lung")
    lung = type(lung)(task="lungs", label="right_lung", pixels=pixels, area_px=int(pixels.sum()), fraction=1 / 16)
    whole = Prediction(findings=answer.findings, choices=answer.choices, masks=(lung,), boxes=answer.boxes)

    picture = Image.new("L", (size[1], size[0]), 90)
    paths = write_results(source, whole, identity, ("sr", "seg", "sc", "gsps"), tmp_path, picture=picture, now=NOW)

    assert len(paths) == 4
    own = INHERITED.get(path.name, r"(?!)")
    for one in paths:
        assert [line for line in complaints(one) if not re.search(own, line)] == [], one.name


@pytest.mark.parametrize("name", ["seg_of_cr_binary.dcm", "sr_no_pixels.dcm", "xa_96_frames_jpeg.dcm"])
def test_what_is_no_single_picture_is_refused(name: str, identity: BundleIdentity, tmp_path: Path) -> None:
    if not (SHARED / name).exists():
        pytest.skip("the shared pictures are not here")
    source = dcmread(SHARED / name, stop_before_pixels=True)

    with pytest.raises(FoveolaError):
        write_results(source, Prediction(), identity, ("sr", "gsps"), tmp_path)

    assert list(tmp_path.iterdir()) == []
