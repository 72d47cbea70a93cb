"""What holds for all kinds: names, times, patients, odd headers, faults."""

from __future__ import annotations

import os
import subprocess
import sys
import warnings
from contextlib import suppress
from datetime import datetime
from io import BytesIO
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence

from foveola.runtime.bundle import Bundle
from foveola.runtime.dicom_results.identity import BundleIdentity, identity_of
from foveola.runtime.dicom_results.write import make_results, parse_kinds, write_results
from foveola.runtime.errors import FoveolaError, MissingPartError, UsageError
from foveola.runtime.prediction import Prediction

from .conftest import NOW, Written, mask

KINDS = ["sr", "seg", "sc", "gsps"]


def test_the_same_answer_at_the_same_time_is_the_same_bytes(written: Written, dx: Dataset, op: Dataset) -> None:
    for number, source in enumerate((dx, op)):
        first, again = written(source, folder=f"a{number}"), written(source, folder=f"b{number}")

        assert [path.name for path in first.values()] == [path.name for path in again.values()]
        for kind, path in first.items():
            assert path.read_bytes() == again[kind].read_bytes(), kind


def test_the_same_answer_later_has_the_same_names_and_its_own_time(written: Written) -> None:
    first, later = written(), written(now=datetime(2030, 1, 2, 3, 4, 5), folder="later")

    for kind, path in first.items():
        assert later[kind].name == path.name
        assert dcmread(later[kind]).InstanceCreationDate == "20300102"
        assert dcmread(path).InstanceCreationTime == "050607"


@pytest.mark.parametrize(
    "other",
    [{"digest": "f" * 64}, {"engine": "openvino int8"}],
    ids=["another bundle", "another engine"],
)
def test_another_answerer_gives_other_names(written: Written, identity: BundleIdentity, other: dict[str, str]) -> None:
    mine, theirs = written(), written(who=msgspec.structs.replace(identity, **other), folder="theirs")

    for kind in KINDS:
        one, two = dcmread(mine[kind]), dcmread(theirs[kind])
        assert one.SOPInstanceUID != two.SOPInstanceUID
        assert one.SeriesInstanceUID != two.SeriesInstanceUID


def test_all_names_of_a_call_differ_and_are_valid(written: Written, cr: Dataset) -> None:
    first = [dcmread(path) for path in written().values()]
    cr.SOPInstanceUID = "1.2.3.4.6"
    second = [dcmread(path) for path in written(cr, folder="second").values()]

    names = [uid for one in first + second for uid in (one.SOPInstanceUID, one.SeriesInstanceUID)]
    assert len(set(names)) == 16
    assert all(uid.is_valid and len(uid) <= 64 for uid in names)


def test_a_report_with_a_segmentation_is_another_than_one_without(written: Written) -> None:
    assert written(kinds=("sr",))["sr"].name != written(kinds=("sr", "seg"))["sr"].name


def test_patient_and_study_are_the_sources(written: Written, cr: Dataset) -> None:
    cr.PatientIdentityRemoved = "YES"
    cr.DeidentificationMethod = "by hand"

    for path in written(cr).values():
        result = dcmread(path)
        assert (result.PatientID, result.PatientName, result.PatientSex) == ("P1", "Doe^Jane", "F")
        assert (result.StudyInstanceUID, result.StudyDate, result.AccessionNumber) == ("1.2.3", "20260101", "A1")
        assert (result.PatientIdentityRemoved, result.DeidentificationMethod) == ("YES", "by hand")
        assert result.SeriesInstanceUID != cr.SeriesInstanceUID


def test_a_stripped_header_gives_empty_attributes_and_invents_none(written: Written, cr: Dataset) -> None:
    keep = {"SOPClassUID", "SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID", "Rows", "Columns"}
    keep |= {"SamplesPerPixel", "PhotometricInterpretation"}
    for element in list(cr):
        if element.keyword not in keep:
            del cr[element.tag]

    for path in written(cr).values():
        result = dcmread(path)
        for keyword in ("PatientID", "PatientName", "PatientBirthDate", "PatientSex", "StudyDate", "StudyTime"):
            assert keyword in result
            assert not result[keyword].value, keyword


@pytest.mark.parametrize(
    ("keyword", "value", "comes_out"),
    [
        ("PatientBirthDate", "sometime", ""),
        ("StudyDate", "2026.01.02", "20260102"),
        ("StudyTime", "10:11:12", "101112"),
        ("StudyTime", "noon", ""),
        ("PatientSex", "female", ""),
        ("PatientAge", "62", None),
        ("PatientID", "x" * 99, ""),
        ("PatientWeight", "heavy", None),
    ],
)
@pytest.mark.filterwarnings("ignore:(?i)invalid value|the value length")  # of pydicom, while this test sets it
def test_a_broken_attribute_is_left_out_or_empty(
    written: Written, cr: Dataset, keyword: str, value: str, comes_out: str | None
) -> None:
    raw = Dataset()
    raw.update(cr)
    raw.add_new(keyword, "LO", value)
    element = raw[keyword]
    element.VR = cr.get_item(keyword).VR if keyword in cr else {"PatientAge": "AS", "PatientWeight": "LO"}[keyword]
    if keyword == "PatientWeight":
        element.VR, element._value = "DS", value

    for path in written(raw).values():
        result = dcmread(path).get(keyword)
        assert (result or "") == comes_out if comes_out is not None else result is None


def test_text_of_any_character_set_comes_out_as_it_was(written: Written, cr: Dataset, tmp_path: Path) -> None:
    cr.SpecificCharacterSet = "ISO_IR 100"
    cr.PatientName = "Müller^Zoë"
    cr.StudyDescription = "Thorax über Kopf"
    cr.save_as(tmp_path / "latin.dcm", implicit_vr=True, little_endian=True)
    source = dcmread(tmp_path / "latin.dcm", force=True)

    for path in written(source).values():
        result = dcmread(path)
        assert result.SpecificCharacterSet == "ISO_IR 192"
        assert (result.PatientName, result.StudyDescription) == ("Müller^Zoë", "Thorax über Kopf")
        assert "Müller".encode() in path.read_bytes()


def test_a_label_of_any_script_is_written(written: Written) -> None:
    answer = Prediction(masks=(mask("肺", (1, 1, 9, 9)),))

    paths = written(prediction=answer)

    assert dcmread(paths["seg"]).SegmentSequence[0].SegmentLabel == "肺"


def test_the_source_is_not_changed(written: Written, dx: Dataset) -> None:
    dx.VOILUTSequence = Sequence([Dataset()])
    dx.VOILUTSequence[0].LUTDescriptor = [4, 0, 16]
    dx.VOILUTSequence[0].add_new("LUTData", "US", [0, 1, 2, 3])
    before = dx.to_json_dict()

    written(dx)

    assert dx.to_json_dict() == before


def test_private_elements_pixels_and_overlays_stay_behind(written: Written, cr: Dataset) -> None:
    cr.private_block(0x0011, "SECRET", create=True).add_new(1, "LO", "canary")
    cr.add_new((0x6000, 0x3000), "OW", b"canary")
    cr.PixelData = b"canary"
    cr["PixelData"].VR = "OW"

    for path in written(cr).values():
        assert b"canary" not in path.read_bytes()


@pytest.mark.parametrize(
    ("keyword", "value", "said"),
    [
        ("SOPInstanceUID", "", "SOPInstanceUID is absent"),
        ("StudyInstanceUID", None, "StudyInstanceUID is absent"),
        ("SOPClassUID", "1.2.840.10008.5.1.4.1.1.999", "is of the class 1.2.840.10008.5.1.4.1.1.999, no image"),
        ("SOPClassUID", "1.2.840.10008.5.1.4.1.1.88.33", "Comprehensive SR Storage, no image"),
        ("SOPClassUID", "1.2.840.10008.5.1.4.1.1.66.4", "Segmentation Storage, no image"),
        ("SOPClassUID", "1.2.840.10008.5.1.4.1.1.4.1", "does not allow the kind seg"),
        ("NumberOfFrames", 2, "2 frames"),
        ("Rows", None, "Rows or Columns are absent"),
        ("Rows", 47, "the mask of right_lung is (48, 64), the image (47, 64)"),
    ],
)
def test_a_source_that_cannot_be_referred_to_is_refused_by_name(
    written: Written, cr: Dataset, tmp_path: Path, keyword: str, value: Any, said: str
) -> None:
    if value is None:
        del cr[keyword]
    else:
        setattr(cr, keyword, value)

    with pytest.raises(FoveolaError, match="image ") as refused:
        written(cr, kinds=("seg", "gsps"))

    assert said in str(refused.value)
    assert "\n" not in str(refused.value)
    assert not (tmp_path / "out").exists()


def test_kinds_are_read_in_one_order_and_others_refused() -> None:
    assert parse_kinds(" gsps, sr,sr ,") == ("sr", "gsps")
    for text in ("", "sr,pdf"):
        with pytest.raises(UsageError, match="--dicom-kinds"):
            parse_kinds(text)


def test_a_secondary_capture_needs_the_picture(
    cr: Dataset, answer: Prediction, identity: BundleIdentity, tmp_path: Path
) -> None:
    with pytest.raises(FoveolaError, match="needs the picture"):
        write_results(cr, answer, identity, ("sc",), tmp_path)


def test_a_full_disk_leaves_no_half_file(written: Written, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(handle: int, data: bytes) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "write", full)

    with pytest.raises(FoveolaError, match="No space left on device"):
        written()

    assert list((tmp_path / "out").iterdir()) == []


def test_a_refusal_quotes_nothing_of_the_header(written: Written, cr: Dataset) -> None:
    cr.SOPClassUID = "1.2.840.10008.5.1.4.1.1.4.1"  # an image of several frames without functional groups
    cr.PatientName = "Canary^Name"

    with pytest.raises(FoveolaError) as refused:
        written(cr)

    assert "Canary" not in str(refused.value)


@given(st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(0, 255)), min_size=1, max_size=12))
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_mutated_header_is_written_or_refused_and_never_crashes(
    dx: Dataset, answer: Prediction, identity: BundleIdentity, changes: list[tuple[float, int]]
) -> None:
    stream = BytesIO()
    dx.save_as(stream, implicit_vr=False, little_endian=True)
    content = bytearray(stream.getvalue())
    for place, value in changes:
        content[int(place * len(content))] = value
    with warnings.catch_warnings(), suppress(FoveolaError):
        warnings.simplefilter("ignore")  # of pydicom, while this test reads
        try:
            source = dcmread(BytesIO(bytes(content)), force=True)
        except Exception:  # not ours: pydicom cannot read it
            return
        make_results(source, answer, identity, ("sr", "gsps"), now=NOW)


def test_an_absent_extra_names_its_cure(written: Written, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.startswith("foveola.runtime.dicom_results.")]:
        if name.rpartition(".")[2] in ("makers", "report", "segments", "capture", "marks", "codes"):
            monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "highdicom", None)

    with pytest.raises(MissingPartError, match=r"highdicom: is not installed; pip install 'foveola\[dicom\]'"):
        written()


def test_nothing_of_the_extra_is_loaded_before_it_is_used() -> None:
    code = "import sys, foveola.runtime.dicom_results.write; print({'pydicom', 'highdicom'} & set(sys.modules))"

    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert told.stdout.strip() == "set()"


def test_libraries_warnings_do_not_reach_the_user(
    written: Written, cr: Dataset, recwarn: pytest.WarningsRecorder, caplog: pytest.LogCaptureFixture
) -> None:
    cr.PatientName = "Anonymous"  # highdicom warns of a name without a caret

    written(cr)

    assert not recwarn.list
    assert not caplog.records


def test_a_bundle_names_itself(tiny_bundle: Bundle, written: Written, picture: Image.Image) -> None:
    who = identity_of(tiny_bundle, "onnxruntime float32")

    path = written(who=who, kinds=("sr",), now=NOW)["sr"]

    assert f"bundle sha256={tiny_bundle.digest}".encode() in path.read_bytes()
