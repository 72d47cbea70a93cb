"""The report, read back by highdicom and pydicom."""

from __future__ import annotations

from typing import Any

import highdicom as hd
import msgspec
import numpy as np
import pytest
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.sr.codedict import codes

from foveola.runtime.prediction import Box, Choice, Measurement, Prediction, Quality

from .conftest import COLUMNS, ROWS, Written, header


def read(written: Written, *arguments: Any, **options: Any) -> Any:
    return hd.sr.srread(written(*arguments, **options)["sr"])


def group_of(report: Any, tracking: str) -> Any:
    groups = report.content.get_image_measurement_groups() + report.content.get_planar_roi_measurement_groups()
    (group,) = [one for one in groups if one.tracking_identifier == tracking]
    return group


def numbers(group: Any) -> dict[str, tuple[float, str]]:
    return {one.name.meaning: (one.value, one.unit.value) for one in group.get_measurements()}


def evaluations(group: Any) -> dict[str, str]:
    return {one.name.meaning: one.value.meaning for one in group.get_qualitative_evaluations()}


def texts(dataset: Dataset) -> list[str]:
    """All text of a content tree."""
    found = [dataset.TextValue] if "TextValue" in dataset else []
    for item in dataset.get("ContentSequence", []):
        found += texts(item)
    return found


def test_a_finding_stands_with_probability_threshold_and_decision(written: Written) -> None:
    report = read(written)

    positive, negative = group_of(report, "signs.Pneumothorax"), group_of(report, "signs.Pleural_Thickening")
    assert numbers(positive) == {"Probability": (0.875, "1"), "Threshold Value": (0.5, "1")}
    assert positive.finding_type == codes.SCT.Pneumothorax
    assert evaluations(positive) == {"Decision at the threshold": "Positive"}
    assert numbers(negative) == {"Probability": (0.125, "1"), "Threshold Value": (0.25, "1")}
    assert evaluations(negative) == {"Decision at the threshold": "Negative"}
    assert negative.finding_type.scheme_designator == "99FOVEOLA"
    assert negative.finding_type.meaning == "Pleural Thickening"


def test_a_probability_comes_back_to_the_last_bit_of_float32(written: Written, answer: Prediction) -> None:
    exact = float(np.float32(1) / np.float32(3))
    finding = msgspec.structs.replace(answer.findings[0], probability=exact)

    report = read(written, prediction=Prediction(findings=(finding,)))

    value, _ = numbers(group_of(report, "signs.Pneumothorax"))["Probability"]
    assert np.float32(value) == np.float32(exact)


def test_a_choice_names_its_class_and_every_probability(written: Written) -> None:
    group = group_of(read(written), "grade")

    assert evaluations(group) == {"grade": "severe"}
    assert numbers(group) == {"Probability of none": (0.25, "1"), "Probability of severe": (0.75, "1")}


def test_a_measure_has_its_unit_in_ucum(written: Written) -> None:
    assert numbers(group_of(read(written), "age.age")) == {"age": (61.25, "a")}


def test_a_box_is_a_region_of_the_source(written: Written) -> None:
    group = group_of(read(written), "spots.nodule.box 1")

    assert group.finding_type == codes.SCT.Nodule
    corners = [[40.5, 10.0], [50.5, 10.0], [50.5, 20.0], [40.5, 20.0], [40.5, 10.0]]
    np.testing.assert_allclose(group.roi.value, corners)
    assert numbers(group) == {"Probability": (0.97, "1")}
    assert evaluations(group) == {"Decision at the threshold": "Positive"}
    region = next(item for item in group[0].ContentSequence if item.ValueType == "SCOORD")
    assert region.ContentSequence[0].ReferencedSOPSequence[0].ReferencedSOPInstanceUID == "1.2.3.4.5"


def test_a_box_below_its_threshold_is_not_marked(written: Written) -> None:
    assert (
        len(read(written).content.get_planar_roi_measurement_groups(graphic_type=hd.sr.GraphicTypeValues.POLYLINE)) == 1
    )


def test_a_box_never_leaves_the_image(written: Written) -> None:
    box = Box(task="spots", label="nodule", score=0.9, x1=-3.0, y1=-1.0, x2=COLUMNS + 9.0, y2=ROWS + 1.0, positive=True)

    region = group_of(read(written, prediction=Prediction(boxes=(box,))), "spots.nodule.box 1").roi.value

    assert region.min() >= 0
    assert region.max(axis=0).tolist() == [COLUMNS, ROWS]


def test_a_mask_refers_to_its_frame_of_the_segmentation(written: Written) -> None:
    paths = written()
    report, segmentation = hd.sr.srread(paths["sr"]), dcmread(paths["seg"])

    right, left = group_of(report, "lungs.right_lung"), group_of(report, "lungs.left_lung")
    for number, group in ((1, right), (2, left)):
        reference = group.referenced_segmentation_frame
        assert reference.referenced_sop_instance_uid == segmentation.SOPInstanceUID
        assert reference.referenced_frame_numbers == [number]
        assert reference.source_image_for_segmentation.referenced_sop_instance_uid == "1.2.3.4.5"
    assert numbers(right) == {"Area": (320, "{pixels}"), "Fraction of the image": (pytest.approx(320 / 3072), "1")}
    assert right.finding_type == codes.SCT.Lung
    assert right.finding_sites[0].laterality == codes.SCT.Right
    evidence = {instance for _, _, instance, _ in report.get_evidence()}
    assert evidence == {"1.2.3.4.5", segmentation.SOPInstanceUID}


def test_without_a_segmentation_the_mask_is_measured_and_nothing_dangles(written: Written) -> None:
    report = read(written, kinds=("sr",))

    assert numbers(group_of(report, "lungs.right_lung"))["Area"] == (320, "{pixels}")
    assert {instance for _, _, instance, _ in report.get_evidence()} == {"1.2.3.4.5"}


def test_every_group_names_the_algorithm_by_its_digest(written: Written) -> None:
    content = read(written).content
    groups = content.get_image_measurement_groups() + content.get_planar_roi_measurement_groups()

    assert len(groups) == 8
    for group in groups:
        said = {
            item.name.meaning: item.TextValue
            for item in group[0].ContentSequence
            if item.ValueType == "TEXT" and item.name.meaning == "Algorithm Parameters" and "sha256" in item.TextValue
        }
        assert said == {"Algorithm Parameters": "bundle sha256=" + "0123456789abcdef" * 4}


def test_the_observer_is_the_bundle_and_the_same_for_every_image(written: Written, cr: Dataset) -> None:
    first = read(written).content.get_observer_contexts()[0].observer_identifying_attributes
    cr.SOPInstanceUID = "1.2.3.4.6"
    second = read(written, cr).content.get_observer_contexts()[0].observer_identifying_attributes

    assert (first.name, first.serial_number) == ("chest", "0123456789abcdef" * 4)
    assert first.uid == second.uid


def test_an_unfit_image_gives_its_reason_and_no_number_at_all(written: Written, unfit: Prediction) -> None:
    path = written(prediction=unfit, kinds=("sr",))["sr"]
    report: Any = hd.sr.srread(path)

    (group,) = report.content.get_image_measurement_groups()
    assert evaluations(group) == {"Answer of the algorithm": "Not answered", "Image Quality": "Image is not fit"}
    assert "out of focus (0.03, at least 0.10)" in texts(report)
    assert b"NUM " not in path.read_bytes()


def test_an_unfit_image_gives_no_score_even_where_the_prediction_still_holds_one(
    written: Written, answer: Prediction, unfit: Prediction
) -> None:
    both = msgspec.structs.replace(answer, quality=unfit.quality)

    paths = written(prediction=both)

    assert set(paths) == {"sr", "sc", "gsps"}
    assert b"NUM " not in paths["sr"].read_bytes()
    graphics = dcmread(paths["gsps"])
    assert [layer.GraphicLayer for layer in graphics.GraphicLayerSequence] == ["FOVEOLA CAPTION"]


def test_a_fit_image_says_so_where_it_was_asked(written: Written, answer: Prediction) -> None:
    asked = msgspec.structs.replace(answer, quality=Quality(fit=True))

    assert evaluations(group_of(read(written, prediction=asked), "image"))["Image Quality"] == "Image is fit"
    assert "Image Quality" not in evaluations(group_of(read(written, folder="other"), "image"))


def test_an_answer_without_anything_is_still_a_report(written: Written) -> None:
    report = read(written, prediction=Prediction())

    assert evaluations(group_of(report, "image")) == {"Answer of the algorithm": "Answered"}


def test_nobody_has_verified_it(written: Written) -> None:
    report = read(written)

    flags = (report.CompletionFlag, report.PreliminaryFlag, report.VerificationFlag)
    assert flags == ("COMPLETE", "PRELIMINARY", "UNVERIFIED")


@pytest.mark.parametrize(
    ("modality", "meaning"),
    [("CR", "Computed Radiography"), ("OP", "Ophthalmic Photography"), ("XC", "Imaging procedure")],
)
def test_the_procedure_is_named_by_the_modality(written: Written, modality: str, meaning: str) -> None:
    report = read(written, header("1.2.840.10008.5.1.4.1.1.1", modality), kinds=("sr",))

    (item,) = [item for item in report.ContentSequence if item.ConceptNameCodeSequence[0].CodeValue == "121058"]
    assert item.ConceptCodeSequence[0].CodeMeaning == meaning


def test_names_beyond_the_standards_lengths_are_cut_and_stay_apart(written: Written) -> None:
    long = "a_label_that_goes_on_" * 9
    answer = Prediction(
        choices=(Choice(task="t" * 80, label=long + "1", index=0, probabilities=(1.0,), classes=(long + "1",)),),
        measurements=(Measurement(task="m", name=long + "2", value=1e-30, unit="beats per minute"),),
    )

    group = group_of(read(written, prediction=answer), f"m.{long}2")

    assert list(numbers(group).values()) == [(1e-30, "{beats_per_minute}")]
