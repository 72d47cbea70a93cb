from __future__ import annotations

import msgspec
import numpy as np
import pytest
from numpy.typing import NDArray

from foveola.runtime.errors import FoveolaError
from foveola.toolkit.parity.cases import Cases

from .conftest import BINARY, binary_scores, by_metric, compare, make_cases

Array = NDArray[np.float64]


def with_images(cases: Cases, images: tuple[str, ...]) -> Cases:
    return msgspec.structs.replace(cases, images=images)


def doubled(count: int) -> tuple[Cases, tuple[Array, Array, Array]]:
    """Every case twice: the copies have other keys, the same image and the same patient."""
    truth, teacher, student = binary_scores(count)
    plain = make_cases(count)
    names = tuple(f"image{n}" for n in range(count))
    cases = Cases(
        keys=(*plain.keys, *(f"{key}-copy" for key in plain.keys)), patients=plain.patients * 2, images=names * 2
    )
    return cases, (np.tile(truth, (2, 1)), np.tile(teacher, (2, 1)), np.tile(student, (2, 1)))


def test_a_copied_case_counts_once_and_is_counted() -> None:
    once = compare(BINARY, *binary_scores(100), cases=make_cases(100))
    cases, material = doubled(100)

    twice = compare(BINARY, *material, cases=cases)

    assert twice.endpoints == once.endpoints
    assert twice.policies["copies of an image left out"] == 100
    assert twice.policies["images of the patient who has most"] == once.policies["images of the patient who has most"]


def test_without_digests_nothing_is_known_of_copies() -> None:
    cases, material = doubled(100)

    found = compare(BINARY, *material, cases=with_images(cases, ()))

    assert by_metric(found)["auc"].cases == 200


def test_one_image_of_two_patients_is_refused() -> None:
    cases = with_images(make_cases(100), ("same", "same", *(f"image{n}" for n in range(98))))

    with pytest.raises(FoveolaError, match="1 image.s. belong to two patients, first case00001"):
        compare(BINARY, *binary_scores(100), cases=cases)


def test_a_patient_with_three_hundred_images_is_named_and_is_one_patient() -> None:
    truth, teacher, student = binary_scores(400)
    cases = Cases(
        keys=tuple(f"case{n:03d}" for n in range(400)),
        patients=tuple("often" if n < 300 else f"patient{n}" for n in range(400)),
    )

    found = compare(BINARY, truth, teacher, student, cases=cases)

    assert any("one patient has 300 of 400 cases (75%)" in note for note in found.notes)
    assert by_metric(found)["auc"].patients == 101
    alone = by_metric(compare(BINARY, truth, teacher, student))["auc"]
    assert by_metric(found)["auc"].low < alone.low  # type: ignore[operator]
