"""Codes against the dictionary that pydicom generates from the standard."""

from __future__ import annotations

from typing import Any

import pytest
from pydicom.sr import _concepts_dict

from foveola.runtime.dicom_results import codes as house

concepts: Any = _concepts_dict.concepts


@pytest.mark.parametrize("label", sorted(house.SCT) + sorted(house.DCM))
def test_a_standard_code_is_one_of_the_standards_context_groups(label: str) -> None:
    scheme, keyword = ("SCT", house.SCT[label]) if label in house.SCT else ("DCM", house.DCM[label])

    concept = house.label_term(label).concept

    ((value, (meaning, groups)),) = concepts[scheme][keyword].items()
    assert (concept.value, concept.meaning, concept.scheme_designator) == (value, meaning, scheme)
    assert groups, "no context group of the standard has it"


@pytest.mark.parametrize("unit", sorted(house.UNITS))
def test_a_known_unit_is_ucums(unit: str) -> None:
    concept = house.unit_concept(unit.upper() if unit != "µm" else unit)

    assert concept.value in concepts["UCUM"][house.UNITS[unit]]


@pytest.mark.parametrize(
    ("label", "keyword", "side"),
    [
        ("right_lung", "Lung", "Right"),
        ("Left-Clavicle", "Clavicle", "Left"),
        ("lungs", "Lung", ""),
        ("Optic Disc", "OpticNerveHead", ""),
        ("Effusion", "Effusion", ""),
    ],
)
def test_a_label_is_known_by_its_words(label: str, keyword: str, side: str) -> None:
    term = house.label_term(label)

    assert term.concept.value in concepts["SCT"][keyword]
    assert (term.side.meaning if term.side else "") == side


@pytest.mark.parametrize("label", ["right", "Pleural_Thickening", "left behind", "", "肺炎", "x" * 99, "{}\\^"])
def test_any_other_label_gets_a_private_code_that_fits(label: str) -> None:
    concept = house.label_term(label).concept

    assert concept.scheme_designator == "99FOVEOLA"
    assert 1 <= len(concept.value) <= 16
    assert concept.value.isascii()
    assert 1 <= len(concept.meaning) <= 64
    assert concept.value == house.label_term(label).concept.value


def test_long_labels_with_the_same_beginning_stay_apart() -> None:
    codes = {house.private("L", "a_label_that_goes_on_and_on_" + end).value for end in ("1", "2", "3")}

    assert len(codes) == 3


@pytest.mark.parametrize(("unit", "value"), [("beats per minute", "{beats_per_minute}"), ("a{b}", "{a_b_}")])
def test_a_unit_that_ucum_does_not_have_is_an_annotation(unit: str, value: str) -> None:
    assert house.unit_concept(unit).value == value
