"""The segmentation, read back by highdicom."""

from __future__ import annotations

from typing import Any

import highdicom as hd
import numpy as np
import pytest
from pydicom.dataset import Dataset
from pydicom.sr.codedict import codes

from foveola.runtime.prediction import Prediction

from .conftest import COLUMNS, ROWS, Written, mask


@pytest.fixture(params=["cr", "dx", "op"])
def source(request: pytest.FixtureRequest) -> Dataset:
    dataset: Dataset = request.getfixturevalue(request.param)
    return dataset


def test_the_pixels_come_back_as_they_were(written: Written, source: Dataset, answer: Prediction) -> None:
    segmentation = hd.seg.segread(written(source)["seg"])

    pixels = segmentation.get_pixels_by_source_instance([source.SOPInstanceUID])
    assert pixels.shape == (1, ROWS, COLUMNS, 2)
    for number, one in enumerate(answer.masks):
        np.testing.assert_array_equal(pixels[0, ..., number] == 1, one.pixels)


def test_an_empty_mask_keeps_its_frame(written: Written) -> None:
    segmentation = hd.seg.segread(written()["seg"])

    assert segmentation.NumberOfFrames == 2
    assert segmentation.get_segment_description(2).SegmentLabel == "left lung"


def test_frame_and_segment_have_one_number_even_where_masks_overlap(written: Written) -> None:
    masks = tuple(mask(f"part {n}", (n, n, n + 9, n + 9)) for n in range(5))

    segmentation = hd.seg.segread(written(prediction=Prediction(masks=masks))["seg"])

    frames = segmentation.PerFrameFunctionalGroupsSequence
    assert [f.SegmentIdentificationSequence[0].ReferencedSegmentNumber for f in frames] == [1, 2, 3, 4, 5]
    pixels = segmentation.get_pixels_by_source_instance(["1.2.3.4.5"])
    np.testing.assert_array_equal(pixels[0, ..., 3] == 1, masks[3].pixels)


def test_a_segment_says_what_it_is_and_who_drew_it(written: Written) -> None:
    segmentation = hd.seg.segread(written()["seg"])

    right = segmentation.get_segment_description(1)
    assert right.segmented_property_category == codes.SCT.AnatomicalStructure
    assert right.segmented_property_type == codes.SCT.Lung
    modifier = right.SegmentedPropertyTypeCodeSequence[0].SegmentedPropertyTypeModifierCodeSequence[0]
    assert modifier.CodeMeaning == "Right"
    assert right.SegmentAlgorithmType == "AUTOMATIC"
    algorithm = right.SegmentationAlgorithmIdentificationSequence[0]
    assert (algorithm.AlgorithmName, algorithm.AlgorithmVersion) == ("chest", "1.4")
    assert "bundle sha256=" + "0123456789abcdef" * 4 in algorithm.AlgorithmParameters
    assert len({tuple(segmentation.get_segment_description(n).RecommendedDisplayCIELabValue) for n in (1, 2)}) == 2


def test_a_label_that_the_standard_does_not_know_is_of_no_claimed_kind(written: Written) -> None:
    masks = (mask("cotton_wool", (1, 1, 9, 9)), mask("haemorrhage", (2, 2, 5, 5)))

    segmentation = hd.seg.segread(written(prediction=Prediction(masks=masks))["seg"])

    unknown, known = segmentation.get_segment_description(1), segmentation.get_segment_description(2)
    assert unknown.segmented_property_category == codes.SCT.SpatialAndRelationalConcept
    assert unknown.segmented_property_type.scheme_designator == "99FOVEOLA"
    assert unknown.segmented_property_type.meaning == "cotton wool"
    assert known.segmented_property_category == codes.SCT.MorphologicallyAbnormalStructure
    assert known.segmented_property_type == codes.SCT.Hemorrhage


def test_report_and_segmentation_track_a_structure_by_the_same_name(written: Written) -> None:
    paths = written()

    segment = hd.seg.segread(paths["seg"]).get_segment_description(1)
    report: Any = hd.sr.srread(paths["sr"])
    groups = report.content.get_planar_roi_measurement_groups(tracking_uid=segment.tracking_uid)

    assert [group.tracking_identifier for group in groups] == [segment.tracking_id]


def test_without_masks_there_is_no_segmentation(written: Written) -> None:
    assert set(written(prediction=Prediction(), kinds=("sr", "seg"))) == {"sr"}
