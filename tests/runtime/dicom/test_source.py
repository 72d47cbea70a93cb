"""The seam: a device is handed any file, and DICOM is one of them."""

from __future__ import annotations

import io
import json
import subprocess
import sys
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from dicom_objects import GREY, cr, opened, written
from PIL import Image
from pydicom.filebase import DicomBytesIO
from pydicom.filewriter import write_dataset

from foveola.runtime.__main__ import main
from foveola.runtime.bundle import Bundle
from foveola.runtime.dicom.rule import SourceRule
from foveola.runtime.errors import FoveolaError
from foveola.runtime.manifest import encode_manifest
from foveola.runtime.predict import Predictor
from foveola.runtime.source import is_dicom, open_source
from foveola.runtime.verbs.predict import image_files


def square(kind: type[np.uint8] | type[np.uint16] = np.uint8) -> Any:
    """The tiny image: black, with one square of 16 white pixels a side."""
    pixels = np.zeros((64, 64), kind)
    pixels[16:32, 32:48] = np.iinfo(kind).max
    return pixels


def test_a_dicom_object_is_answered_like_the_same_picture_as_png(tiny_bundle: Bundle, tiny_image: bytes) -> None:
    predictor = Predictor(tiny_bundle, "onnxruntime")
    expected = predictor.predict(tiny_image)
    negative = cr(255 - square(), PhotometricInterpretation="MONOCHROME1")

    for dataset in (cr(square()), cr(square(np.uint16)), negative):
        found = predictor.predict(written(dataset))
        assert [one.positive for one in found.findings] == [one.positive for one in expected.findings]
        told = [one.probability for one in expected.findings]
        assert [one.probability for one in found.findings] == pytest.approx(told, abs=1e-3)
        assert [box.score for box in found.boxes] == pytest.approx([box.score for box in expected.boxes], abs=1e-3)
        assert [mask.area_px for mask in found.masks] == [mask.area_px for mask in expected.masks]


def test_the_manifests_rule_is_held(bundle_with: Any, tiny_manifest: Any) -> None:
    manifest = msgspec.structs.replace(tiny_manifest, source=SourceRule(modalities=("DX",)))
    predictor = Predictor(bundle_with({"manifest.json": encode_manifest(manifest)}), "onnxruntime")

    with pytest.raises(FoveolaError, match=r"^study\.dcm: modality CR is not one"):
        predictor.predict(written(cr(square())), "study.dcm")


def test_the_data_set_comes_with_the_picture() -> None:
    source = opened(cr(square()))

    assert source.dataset is not None
    assert (source.picture.mode, str(source.dataset.PatientName)) == ("L", "Nobody^Here")


def test_deep_grey_is_prepared_without_loss_of_its_depth() -> None:
    picture = opened(cr(np.arange(4096, dtype=np.uint16).reshape(64, 64), stored=12)).picture

    assert picture.mode == "I;16"
    assert len(np.unique(np.asarray(picture))) == 4096


def test_the_first_bytes_decide_and_not_the_name(tmp_path: Path, tiny_image: bytes) -> None:
    png, object_ = tmp_path / "a.dcm", tmp_path / "b.png"
    png.write_bytes(tiny_image)
    object_.write_bytes(written(cr(square())))

    assert open_source(png, GREY).dataset is None
    assert open_source(object_, GREY).dataset is not None
    for data in (b"", b"\x89PNG", b"\xff\xd8\xff\xe0", b"BM", b"II*\0", bytes(132)):
        assert not is_dicom(data)


def test_a_picture_is_read_without_loading_pydicom(tmp_path: Path, tiny_image: bytes) -> None:
    (tmp_path / "a.png").write_bytes(tiny_image)
    code = (
        "import sys; from pathlib import Path; import foveola.runtime.predict, foveola.runtime.__main__;"
        "from foveola.runtime.source import open_source; from foveola.runtime.manifest import InputSpec;"
        f"open_source(Path({str(tmp_path / 'a.png')!r}), InputSpec(height=8, width=8, channels=1));"
        "print(sorted({'pydicom', 'openjpeg', 'jpeg_ls', 'highdicom'} & set(sys.modules)))"
    )

    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("absent", ["pydicom", "jpeg_ls"])
def test_an_absent_part_names_its_cure(absent: str) -> None:
    dataset = cr(square())
    if absent == "jpeg_ls":
        dataset.compress("1.2.840.10008.1.2.4.80", generate_instance_uid=False)
    code = (
        f"import sys; sys.modules[{absent!r}] = None;"
        "from foveola.runtime.source import open_source; from foveola.runtime.manifest import InputSpec\n"
        "from foveola.runtime.errors import FoveolaError\n"
        "try: open_source(sys.stdin.buffer.read(), InputSpec(height=8, width=8, channels=1))\n"
        "except FoveolaError as error: print(int(error.exit_code), error)"
    )

    done = subprocess.run([sys.executable, "-c", code], input=written(dataset), capture_output=True, check=True)

    package = {"pydicom": "pydicom", "jpeg_ls": "pyjpegls"}[absent]
    assert done.stdout.decode().strip() == f"4 {package}: is not installed; pip install 'foveola[dicom]'"


def test_the_verb_takes_objects_and_folders_of_them(
    tiny_path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "studies" / "1").mkdir(parents=True)
    (tmp_path / "studies" / "1" / "a").write_bytes(written(cr(square())))
    (tmp_path / "studies" / "b.dcm").write_bytes(written(cr(square(), NumberOfFrames=0)))
    (tmp_path / "studies" / "DICOMDIR").write_bytes(b"index")

    code = main(["predict", str(tiny_path), str(tmp_path / "studies"), "--engine", "onnxruntime", "--json"])

    told = capsys.readouterr()
    images = json.loads(told.out)["images"]
    assert code == 1
    assert [Path(image["file"]).name for image in images] == ["a", "b.dcm"]
    assert "prediction" in images[0]
    assert "NumberOfFrames (0028,0008) is not valid" in images[1]["error"]
    assert len(told.err.strip().splitlines()) == 1


def test_an_empty_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FoveolaError, match="a folder without a file"):
        image_files([tmp_path])


def test_the_picture_is_a_pillow_image_that_can_be_saved() -> None:
    stream = io.BytesIO()
    opened(cr(square())).picture.save(stream, "PNG")

    assert np.asarray(Image.open(stream)).tolist() == square().tolist()


def test_what_pydicom_has_to_say_reaches_no_log_and_no_warning(caplog: pytest.LogCaptureFixture) -> None:
    """Its words hold the values that they complain of, a name among them."""
    data = written(cr(square())).replace(b"1.2.826.0.1.3680043.8.498.1", b"1.2.Nobody^Here.1.2.3.4.5.6")
    dataset = opened(data).dataset

    assert dataset is not None
    assert caplog.records == []


def test_several_threads_read_at_once_and_leave_the_warnings_as_they_were() -> None:
    data, filters = written(cr(square())), list(warnings.filters)

    with ThreadPoolExecutor(4) as threads:
        sizes = {source.picture.size for source in threads.map(opened, [data] * 40)}

    assert sizes == {(64, 64)}
    assert list(warnings.filters) == filters


@pytest.mark.parametrize(("implicit", "little"), [(True, True), (False, True), (False, False)])
@pytest.mark.parametrize("first", ["SpecificCharacterSet", "SOPClassUID"])
def test_an_object_without_preamble_is_read_whatever_its_byte_order_and_first_element(
    implicit: bool, little: bool, first: str
) -> None:
    dataset = cr(square(np.uint16))
    if first == "SpecificCharacterSet":
        dataset.SpecificCharacterSet = "ISO_IR 100"
    if not little:
        dataset.PixelData = square(np.uint16).astype(">u2").tobytes()
    stream = DicomBytesIO()
    stream.is_little_endian, stream.is_implicit_VR = little, implicit
    write_dataset(stream, dataset)

    assert np.array_equal(np.asarray(opened(stream.getvalue()).picture), square(np.uint16))
