"""`predict --dicom-out` from the command line to the files."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.uid import ExplicitVRLittleEndian

from foveola.runtime.__main__ import main
from foveola.runtime.errors import ExitCode
from foveola.toolkit.commands.table import foveola

Capture = pytest.CaptureFixture[str]


@pytest.fixture
def study(tmp_path: Path, cr: Dataset) -> Path:
    """The tiny bundle's picture as a radiograph of 12 bits."""
    cr.Rows = cr.Columns = 64
    pixels = np.zeros((64, 64), np.uint16)
    pixels[16:32, 32:48] = 4095
    cr.add_new("PixelData", "OW", pixels.tobytes())
    path = tmp_path / "study.dcm"
    cr.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    cr.save_as(path, enforce_file_format=True)
    return path


@pytest.fixture
def cr(cr: Dataset) -> Dataset:
    cr.ensure_file_meta()
    return cr


def test_predict_writes_what_it_answered(tiny_path: Path, study: Path, tmp_path: Path, capsys: Capture) -> None:
    out = tmp_path / "results"

    code = main(["predict", str(tiny_path), str(study), "--dicom-out", str(out), "--json"])

    (image,) = json.loads(capsys.readouterr().out)["images"]
    assert code == ExitCode.DONE
    assert sorted(image["dicom"]) == sorted(map(str, out.iterdir()))
    report, segmentation = (dcmread(path) for path in image["dicom"])
    assert (report.Modality, segmentation.Modality) == ("SR", "SEG")
    written = np.count_nonzero(segmentation.pixel_array)
    assert written == image["prediction"]["masks"][0]["area_px"]


def test_predict_writes_the_kinds_that_are_asked_for_and_tells(
    tiny_path: Path, study: Path, tmp_path: Path, capsys: Capture
) -> None:
    out = tmp_path / "results"

    arguments = ["--dicom-out", str(out), "--dicom-kinds", "gsps,sc"]
    assert main(["predict", str(tiny_path), str(study), *arguments]) == ExitCode.DONE

    told = capsys.readouterr().out
    names = [path.name for path in out.iterdir()]
    assert sorted(name.split(".")[-2] for name in names) == ["gsps", "sc"]
    assert all(name in told for name in names)


def test_both_command_lines_write_the_same_names(tiny_path: Path, study: Path, tmp_path: Path) -> None:
    out = tmp_path / "results"
    assert main(["predict", str(tiny_path), str(study), "--dicom-out", str(out)]) == ExitCode.DONE
    names = sorted(path.name for path in out.iterdir())

    arguments = ["predict", str(tiny_path), str(study), "--dicom-out", str(out)]
    assert CliRunner().invoke(foveola, arguments, standalone_mode=False).exit_code == 0

    assert sorted(path.name for path in out.iterdir()) == names


def test_an_image_that_is_not_dicom_is_refused_and_the_others_are_written(
    tiny_path: Path, study: Path, tiny_image: bytes, tmp_path: Path, capsys: Capture
) -> None:
    picture, out = tmp_path / "chest.png", tmp_path / "results"
    picture.write_bytes(tiny_image)

    code = main(["predict", str(tiny_path), str(picture), str(study), "--dicom-out", str(out), "--json"])

    first, second = json.loads(capsys.readouterr().out)["images"]
    assert code == ExitCode.REFUSED
    assert "is no DICOM image; leave out --dicom-out" in first["error"]
    assert len(second["dicom"]) == len(list(out.iterdir())) == 2


def test_kinds_without_a_place_to_write_them_are_a_usage_error(tiny_path: Path, study: Path, capsys: Capture) -> None:
    assert main(["predict", str(tiny_path), str(study), "--dicom-kinds", "sr"]) == ExitCode.USAGE

    assert "--dicom-kinds: no results are written; give --dicom-out as well" in capsys.readouterr().err


def test_an_unknown_kind_is_a_usage_error(tiny_path: Path, study: Path, capsys: Capture) -> None:
    arguments = ["--dicom-out", "results", "--dicom-kinds", "pdf"]
    assert main(["predict", str(tiny_path), str(study), *arguments]) == ExitCode.USAGE

    assert "there is no kind 'pdf'; take some of sr, seg, sc, gsps" in capsys.readouterr().err


def test_an_absent_extra_is_told_before_anything_is_answered(
    tiny_path: Path, study: Path, tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delitem(sys.modules, "foveola.runtime.dicom_results.makers", raising=False)
    monkeypatch.delitem(sys.modules, "foveola.runtime.dicom_results.report", raising=False)
    monkeypatch.setitem(sys.modules, "highdicom", None)

    code = main(["predict", str(tiny_path), str(study), "--dicom-out", str(tmp_path / "results")])

    assert code == ExitCode.PART_MISSING
    assert "highdicom: is not installed; pip install 'foveola[dicom]'" in capsys.readouterr().err


def test_without_the_option_nothing_is_written_and_png_needs_no_extra(
    tiny_path: Path, study: Path, tmp_path: Path, capsys: Capture
) -> None:
    before = sorted(tmp_path.iterdir())

    assert main(["predict", str(tiny_path), str(study), "--json"]) == ExitCode.DONE

    assert "dicom" not in json.loads(capsys.readouterr().out)["images"][0]
    assert sorted(tmp_path.iterdir()) == before


def test_two_pictures_of_one_uid_are_not_written_over_each_other(
    tiny_path: Path, study: Path, tmp_path: Path, capsys: Capture
) -> None:
    """As careless de-identification makes them; a mere copy of a picture is written again."""
    copy, other, out = tmp_path / "copy.dcm", tmp_path / "other.dcm", tmp_path / "results"
    copy.write_bytes(study.read_bytes())
    dataset = dcmread(study)
    dataset.PixelData = bytes(len(dataset.PixelData))
    dataset.save_as(other)

    code = main(["predict", str(tiny_path), *map(str, (study, copy, other)), "--dicom-out", str(out), "--json"])

    first, second, third = json.loads(capsys.readouterr().out)["images"]
    assert code == ExitCode.REFUSED
    assert first["dicom"] == second["dicom"]
    assert "has the SOP Instance UID of another image" in third["error"]
    segmentation = dcmread(next(out.glob("*.seg.dcm")))
    assert np.count_nonzero(segmentation.pixel_array) == first["prediction"]["masks"][0]["area_px"]


def test_a_dicom_image_without_the_extra_ends_with_the_code_of_a_missing_part(
    tiny_path: Path, study: Path, tiny_image: bytes, tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    picture = tmp_path / "chest.png"
    picture.write_bytes(tiny_image)
    monkeypatch.delitem(sys.modules, "foveola.runtime.dicom.read", raising=False)
    monkeypatch.setitem(sys.modules, "pydicom", None)

    code = main(["predict", str(tiny_path), str(study), str(picture), "--json"])

    told = capsys.readouterr()
    first, second = json.loads(told.out)["images"]
    assert code == ExitCode.PART_MISSING
    assert told.err == "pydicom: is not installed; pip install 'foveola[dicom]'\n"
    assert "error" in first
    assert second["prediction"]["findings"]
