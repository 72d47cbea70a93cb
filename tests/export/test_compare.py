"""Differences and flips, counted by hand."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import ArrayLike, NDArray

from foveola.export.compare import Raw, compare_engines
from foveola.runtime.manifest import OutputDifference, TaskOutput
from foveola.runtime.task import Task


def f32(values: ArrayLike) -> NDArray[np.float32]:
    return np.asarray(values, np.float32)


def logit(probability: float) -> float:
    return float(np.log(probability / (1 - probability)))


BINARY = TaskOutput(
    task=Task(name="edema", kind="binary", classes=("no", "yes")), tensors=("edema",), thresholds=(0.3,)
)
LABELS = TaskOutput(
    task=Task(name="labels", kind="multilabel", classes=("a", "b")), tensors=("labels",), thresholds=(0.5, 0.9)
)
VIEW = TaskOutput(task=Task(name="view", kind="multiclass", classes=("pa", "ap", "lat")), tensors=("view",))
GRADE = TaskOutput(task=Task(name="grade", kind="ordinal", classes=("0", "1", "2")), tensors=("grade",))
AGE = TaskOutput(
    task=Task(name="age", kind="regression", classes=("age",)), tensors=("age",), mean=(50.0,), std=(10.0,)
)
LUNGS = TaskOutput(task=Task(name="lungs", kind="segmentation", classes=("left", "right")), tensors=("lungs",))
LESIONS = TaskOutput(
    task=Task(name="lesions", kind="segmentation", classes=("ma", "he"), exclusive=False),
    tensors=("lesions",),
    thresholds=(0.5, 0.2),
)
SPOTS = TaskOutput(
    task=Task(name="spots", kind="detection", classes=("nodule",)),
    tensors=("spots.boxes", "spots.scores"),
    thresholds=(0.4,),
    stride=8,
)

Counts = dict[str, tuple[int, int]]  # tensor -> decisions, flips


def one(tensor: str, values: ArrayLike) -> Raw:
    return {tensor: f32(values)}


def spots(corner: float, probability: float) -> Raw:
    return {"spots.boxes": f32(np.full((1, 4, 1, 1), corner)), "spots.scores": f32([[[[logit(probability)]]]])}


def lungs(first: float) -> Raw:
    return one("lungs", [[[[first, 0.0]], [[1.0, 1.0]], [[0.0, 0.0]]]])


def lesions(second: float) -> Raw:
    return one("lesions", [[[[1.0]], [[logit(second)]]]])


CASES: dict[str, tuple[TaskOutput, Raw, Raw, Counts]] = {
    "a binary decision is made at its threshold": (
        BINARY, one("edema", [[logit(0.29)]]), one("edema", [[logit(0.31)]]), {"edema": (1, 1)},
    ),
    "each label has its own threshold": (
        LABELS, one("labels", [[0.1, logit(0.89)]]), one("labels", [[0.2, logit(0.91)]]), {"labels": (2, 1)},
    ),
    "a class is the most probable one": (VIEW, one("view", [[3, 2, 1]]), one("view", [[2, 3, 1]]), {"view": (1, 1)}),
    "a scaled logit chooses the same": (VIEW, one("view", [[3, 2, 1]]), one("view", [[30, 2, 1]]), {"view": (1, 0)}),
    "a grade is the most probable one": (GRADE, one("grade", [[2, -2]]), one("grade", [[2, 2]]), {"grade": (1, 1)}),
    "a measure has no decision": (AGE, one("age", [[0.1]]), one("age", [[0.9]]), {"age": (0, 0)}),
    "a pixel's label is its largest logit": (LUNGS, lungs(2.0), lungs(0.0), {"lungs": (2, 1)}),
    "a pixel may have several structures": (LESIONS, lesions(0.19), lesions(0.21), {"lesions": (2, 1)}),
    "boxes have differences, scores have decisions": (
        SPOTS, spots(0.0, 0.39), spots(1.0, 0.41), {"spots.boxes": (0, 0), "spots.scores": (1, 1)},
    ),
}  # fmt: skip


@pytest.mark.parametrize(("output", "reference", "answer", "expected"), CASES.values(), ids=CASES.keys())
def test_decisions_are_those_of_the_device(output: TaskOutput, reference: Raw, answer: Raw, expected: Counts) -> None:
    comparison = compare_engines("onnxruntime", [(reference, answer)], [output])

    assert {line.tensor: (line.decisions, line.flips) for line in comparison.outputs} == expected


def test_differences_are_taken_over_all_images_and_values() -> None:
    pairs = [({"age": f32([[1.0]])}, {"age": f32([[1.5]])}), ({"age": f32([[2.0]])}, {"age": f32([[1.0]])})]

    comparison = compare_engines("openvino", iter(pairs), [AGE])

    assert comparison.engine == "openvino"
    assert comparison.images == 2
    assert comparison.outputs == (OutputDifference(tensor="age", largest=1.0, mean=0.75, decisions=0, flips=0),)


def test_equal_outputs_have_no_difference_and_no_flip() -> None:
    raw = {"view": f32(np.random.default_rng(0).standard_normal((7, 3)))}

    comparison = compare_engines("openvino", [(raw, raw)], [VIEW])

    assert comparison.images == 7
    assert comparison.outputs == (OutputDifference(tensor="view", largest=0.0, mean=0.0, decisions=7, flips=0),)


def test_an_engine_that_answers_in_another_shape_is_our_mistake() -> None:
    with pytest.raises(RuntimeError, match="shape"):
        compare_engines("openvino", [({"age": f32([[1.0]])}, {"age": f32([[1.0, 2.0]])})], [AGE])
