from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
import torch
import torchvision
from hypothesis import given, settings
from hypothesis import strategies as st
from pycocotools import mask as coco

from foveola.runtime.answer import decode, decode_boxes, probabilities, threshold_of
from foveola.runtime.errors import FoveolaError
from foveola.runtime.image import mask_to_image, prepare
from foveola.runtime.manifest import InputSpec, TaskOutput
from foveola.runtime.prediction import Prediction, prediction_json, run_lengths
from foveola.runtime.suppression import nms
from foveola.runtime.task import Task

SPEC = InputSpec(height=32, width=32, channels=1)
RNG = np.random.default_rng(3)
Array = np.ndarray[Any, Any]


def task(kind: Any, *classes: str, **fields: Any) -> Task:
    return Task(name="t", kind=kind, classes=classes, **fields)


def answer(output: TaskOutput, size: tuple[int, int] = (32, 32), /, **raw: Array) -> Prediction:
    geometry = prepare(np.zeros(size, np.uint8), SPEC)[1]
    return decode((output,), {name.replace("_", "."): array for name, array in raw.items()}, geometry, SPEC)


# --- probabilities


def test_probabilities_agree_with_torch() -> None:
    raw = RNG.normal(scale=5, size=(6, 4)).astype(np.float32)
    tensor = torch.from_numpy(raw)

    np.testing.assert_allclose(probabilities(task("multilabel", *"abcd"), raw), tensor.sigmoid().numpy(), atol=1e-6)
    np.testing.assert_allclose(probabilities(task("multiclass", *"abcd"), raw), tensor.softmax(1).numpy(), atol=1e-6)
    np.testing.assert_allclose(
        probabilities(task("binary", "no", "yes"), raw[:, :1]), tensor[:, :1].sigmoid().numpy(), atol=1e-6
    )
    grid = RNG.normal(size=(2, 3, 5, 7)).astype(np.float32)
    np.testing.assert_allclose(
        probabilities(task("segmentation", *"ab"), grid), torch.from_numpy(grid).softmax(1).numpy(), atol=1e-6
    )


@pytest.mark.parametrize("kind", ["multilabel", "multiclass", "ordinal"])
def test_extreme_logits_stay_probabilities_without_a_warning(kind: Any) -> None:
    raw = np.array([[1e4, -1e4], [-1e4, 1e4], [88.0, -104.0]], np.float32)

    chances = probabilities(task(kind, *("abc" if kind == "ordinal" else "ab")), raw)

    assert np.isfinite(chances).all()
    assert chances.min() >= 0
    assert chances.max() <= 1


@settings(max_examples=200, deadline=None)
@given(st.lists(st.lists(st.floats(-30, 30), min_size=4, max_size=4), min_size=1, max_size=5))
def test_grades_are_probabilities_whatever_the_logits_say(rows: list[list[float]]) -> None:
    chances = probabilities(task("ordinal", *"01234"), np.array(rows))

    assert chances.min() >= 0
    np.testing.assert_allclose(chances.sum(axis=1), 1, atol=1e-12)


def test_falling_logits_give_the_grades_of_their_sigmoids() -> None:
    above = np.array([0.9, 0.6, 0.2])

    chances = probabilities(task("ordinal", *"0123"), np.log(above / (1 - above))[None])

    np.testing.assert_allclose(chances, [[0.1, 0.3, 0.4, 0.2]], atol=1e-12)


def test_gaps_stay_gaps() -> None:
    raw = np.array([[np.nan, 1.0]])

    assert np.isnan(probabilities(task("multilabel", "a", "b"), raw)).tolist() == [[True, False]]


# --- findings, choices, measurements


def test_binary_gives_the_positive_class() -> None:
    output = TaskOutput(task=task("binary", "healthy", "ill"), tensors=("t",), thresholds=(0.5,))

    (finding,) = answer(output, t=np.zeros((1, 1), np.float32)).findings

    assert (finding.label, finding.probability, finding.threshold, finding.positive) == ("ill", 0.5, 0.5, True)


def test_each_label_has_its_own_threshold() -> None:
    output = TaskOutput(task=task("multilabel", "a", "b"), tensors=("t",), thresholds=(0.6, 0.7))

    findings = answer(output, t=np.full((1, 2), np.log(2), np.float32)).findings  # 2/3

    assert [(f.label, f.positive) for f in findings] == [("a", True), ("b", False)]
    assert threshold_of(TaskOutput(task=output.task, tensors=("t",)), 1) == 0.5


def test_a_choice_names_the_most_probable_class() -> None:
    output = TaskOutput(task=task("multiclass", "PA", "AP", "lateral"), tensors=("t",))

    (choice,) = answer(output, t=np.array([[0, 3, 1]], np.float32)).choices

    assert (choice.label, choice.index, choice.classes) == ("AP", 1, ("PA", "AP", "lateral"))
    assert sum(choice.probabilities) == pytest.approx(1)


def test_a_measurement_is_in_its_unit() -> None:
    output = TaskOutput(task=task("regression", "age", unit="years"), tensors=("t",), mean=(48.0,), std=(16.0,))

    (age,) = answer(output, t=np.array([[-0.5]], np.float32)).measurements

    assert (age.name, age.value, age.unit) == ("age", 40.0, "years")


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("kind", ["binary", "multiclass", "ordinal", "regression", "segmentation", "detection"])
def test_an_answer_that_is_no_number_is_refused(kind: Any, bad: float) -> None:
    one = task(kind, "a", "b")
    tensors = ("t.boxes", "t.scores") if kind == "detection" else ("t",)
    shape = (1, one.channels, 4, 4) if kind in ("segmentation", "detection") else (1, one.channels)
    raw = {tensors[-1].replace(".", "_"): np.zeros(shape, np.float32)}
    if kind == "detection":
        raw["t_boxes"] = np.zeros((1, 4, 4, 4), np.float32)
    raw[tensors[-1].replace(".", "_")].flat[-1] = bad

    with pytest.raises(FoveolaError, match=r"task t: output '.*' holds NaN or infinity; there is no answer"):
        answer(TaskOutput(task=one, tensors=tensors, mean=(0,) * 2, std=(1,) * 2, stride=8), (32, 32), **raw)


@pytest.mark.parametrize("shape", [(1, 3), (2, 2), (1, 2, 1), (2,)])
def test_an_output_of_another_shape_is_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(FoveolaError, match=r"output 't' has shape .*, not \(1, 2, ...\)"):
        answer(TaskOutput(task=task("multilabel", "a", "b"), tensors=("t",)), t=np.zeros(shape, np.float32))


def test_an_absent_output_is_refused() -> None:
    with pytest.raises(FoveolaError, match="the graph has no output 't'"):
        answer(TaskOutput(task=task("multilabel", "a", "b"), tensors=("t",)))


# --- masks


@pytest.mark.parametrize("classes", ["a", "ab", "abcd"])
def test_exclusive_masks_are_the_argmax_of_the_grown_probabilities(classes: str) -> None:
    raw = RNG.normal(scale=2, size=(1, len(classes) + 1, 8, 8)).astype(np.float32)
    output = TaskOutput(task=task("segmentation", *classes), tensors=("t",))

    masks = answer(output, (100, 80), t=raw).masks

    geometry = prepare(np.zeros((100, 80), np.uint8), SPEC)[1]
    assert geometry.pad_x == 3
    winner = mask_to_image(torch.from_numpy(raw).softmax(1)[0].numpy(), geometry, SPEC).argmax(axis=0)
    for index, mask in enumerate(masks, start=1):
        assert np.count_nonzero(mask.pixels != (winner == index)) <= 2  # softmax of two makers, at a tie
        assert mask.area_px == np.count_nonzero(mask.pixels)
        assert mask.fraction == mask.area_px / 8000
    assert np.sum([mask.pixels for mask in masks], axis=0).max() <= 1


def test_at_a_tie_the_earlier_class_has_the_pixel() -> None:
    output = TaskOutput(task=task("segmentation", "a", "b"), tensors=("t",))

    even = answer(output, t=np.zeros((1, 3, 8, 8), np.float32)).masks
    against = np.array([-9, 0, 0], np.float32)[None, :, None, None] * np.ones((1, 3, 8, 8), np.float32)
    first, second = answer(output, t=against).masks

    assert [mask.area_px for mask in even] == [0, 0]
    assert (first.area_px, second.area_px) == (32 * 32, 0)


def test_overlapping_masks_use_their_thresholds() -> None:
    output = TaskOutput(
        task=task("segmentation", "disc", "cup", exclusive=False), tensors=("t",), thresholds=(0.5, 0.9)
    )

    disc, cup = answer(output, t=np.full((1, 2, 8, 8), np.log(4), np.float32)).masks  # 0.8

    assert (disc.area_px, cup.area_px) == (32 * 32, 0)


def test_run_lengths_are_those_of_coco() -> None:
    for pixels in (RNG.random((13, 7)) > 0.5, np.ones((3, 4), bool), np.zeros((3, 4), bool), np.eye(5, dtype=bool)):
        packed: Any = coco.frPyObjects({"size": list(pixels.shape), "counts": run_lengths(pixels)}, *pixels.shape)  # pyright: ignore[reportCallIssue, reportArgumentType]

        assert packed["counts"] == coco.encode(np.asfortranarray(pixels.astype(np.uint8)))["counts"]


# --- boxes


def test_nms_agrees_with_torchvision() -> None:
    for seed in range(20):
        rng = np.random.default_rng(seed)
        corner = rng.random((200, 2)) * 100
        boxes = np.concatenate([corner, corner + rng.random((200, 2)) * 60], axis=1).astype(np.float32)
        scores = rng.permutation(200).astype(np.float32)

        kept = nms(boxes, scores, 0.4)

        assert kept.tolist() == torchvision.ops.nms(torch.from_numpy(boxes), torch.from_numpy(scores), 0.4).tolist()
        assert nms(boxes, scores, 0.4, most=5).tolist() == kept[:5].tolist()


def test_nms_of_nothing_is_nothing() -> None:
    assert nms(np.zeros((0, 4)), np.zeros(0), 0.5).tolist() == []
    assert nms(np.ones((3, 4)), np.ones(3), 0.5).tolist() == [0, 1, 2]  # boxes without area overlap nothing


KNOBS: dict[str, Any] = {"stride": 8, "height": 32, "width": 40, "nms_iou": 0.5, "score_floor": 0.05, "max_boxes": 100}


def test_boxes_are_decoded_and_suppressed_as_torchvision_does() -> None:
    distances = RNG.normal(size=(4, 4, 5)).astype(np.float32)
    logits = RNG.normal(size=(3, 4, 5)).astype(np.float32)

    found = decode_boxes(distances, logits, **KNOBS)

    reach = torch.nn.functional.softplus(torch.from_numpy(distances).double()) * 8
    y, x = torch.meshgrid(torch.arange(4) * 8 + 4.0, torch.arange(5) * 8 + 4.0, indexing="ij")
    every = torch.stack([x - reach[0], y - reach[1], x + reach[2], y + reach[3]], dim=-1).reshape(-1, 4).repeat(3, 1)
    every = torchvision.ops.clip_boxes_to_image(every, (32, 40))
    scores = torch.from_numpy(logits).double().sigmoid().reshape(-1)
    labels = torch.arange(3).repeat_interleave(20)
    kept = torchvision.ops.batched_nms(every, scores, labels, 0.5)
    expected = torch.cat([every, scores[:, None], labels[:, None]], dim=1)[kept]
    np.testing.assert_allclose(found, expected.numpy(), atol=1e-5)


def test_floor_and_most_boxes_are_kept_to() -> None:
    distances, logits = np.full((4, 4, 5), -3.0), RNG.normal(size=(1, 4, 5))

    few = decode_boxes(distances, logits, **{**KNOBS, "max_boxes": 3})
    high = decode_boxes(distances, logits, **{**KNOBS, "score_floor": 0.6})
    none = decode_boxes(distances, logits, **{**KNOBS, "score_floor": 1.0})

    assert len(few) == 3
    assert (np.diff(few[:, 4]) <= 0).all()
    assert high[:, 4].min() >= 0.6
    assert none.shape == (0, 6)


def test_boxes_are_in_image_pixels_with_their_decision() -> None:
    output = TaskOutput(
        task=task("detection", "x", "y"), tensors=("t.boxes", "t.scores"), stride=8, thresholds=(0.9, 0.99)
    )
    scores = np.full((1, 2, 4, 4), -9.0, np.float32)
    scores[0, :, 1, 2] = 3.0  # 0.953

    boxes = answer(output, (64, 64), t_boxes=np.full((1, 4, 4, 4), -1.0, np.float32), t_scores=scores).boxes

    reach = np.log1p(np.exp(-1)) * 8 * 2
    assert [(b.label, b.positive) for b in boxes] == [("x", True), ("y", False)]
    for b in boxes:
        assert (b.x1, b.y1, b.x2, b.y2) == pytest.approx((40 - reach, 24 - reach, 40 + reach, 24 + reach))


def test_a_box_in_the_padding_is_none() -> None:
    output = TaskOutput(task=task("detection", "x"), tensors=("t.boxes", "t.scores"), stride=8)
    scores = np.full((1, 1, 4, 4), -9.0, np.float32)
    scores[0, 0, 0, 0] = 9.0

    boxes = answer(output, (16, 64), t_boxes=np.full((1, 4, 4, 4), -5.0, np.float32), t_scores=scores).boxes

    assert boxes == ()


def test_a_whole_prediction_is_plain_json() -> None:
    outputs = (
        TaskOutput(task=Task(name="f", kind="multilabel", classes=("a", "b")), tensors=("f",)),
        TaskOutput(task=Task(name="v", kind="multiclass", classes=("a", "b")), tensors=("v",)),
        TaskOutput(task=Task(name="m", kind="regression", classes=("a",)), tensors=("m",), mean=(0.0,), std=(1.0,)),
        TaskOutput(task=Task(name="s", kind="segmentation", classes=("a",)), tensors=("s",)),
        TaskOutput(task=Task(name="d", kind="detection", classes=("a",)), tensors=("d.b", "d.s"), stride=8),
    )
    raw = {"f": (1, 2), "v": (1, 2), "m": (1, 1), "s": (1, 2, 8, 8), "d.b": (1, 4, 4, 4), "d.s": (1, 1, 4, 4)}
    geometry = prepare(np.zeros((20, 30), np.uint8), SPEC)[1]
    arrays = {name: RNG.normal(size=shape).astype(np.float32) for name, shape in raw.items()}

    plain = prediction_json(decode(outputs, arrays, geometry, SPEC))

    again = json.loads(json.dumps(plain, allow_nan=False))
    assert set(again) == {"findings", "choices", "measurements", "masks", "boxes"}
    assert all(again.values())
    assert sum(again["masks"][0]["runs"]["counts"]) == 600
    assert "runs" not in prediction_json(decode(outputs, arrays, geometry, SPEC), runs=False)["masks"][0]
