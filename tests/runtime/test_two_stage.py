"""Two-stage decoding against torchvision's own, and what a manifest may not ask of it."""

from __future__ import annotations

import itertools
import time
from typing import Any

import msgspec
import numpy as np
import pytest
import torch
import torchvision
from torch import nn
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.roi_heads import RoIHeads
from torchvision.models.detection.rpn import RegionProposalNetwork

from foveola.runtime.answer import boxes_of, decode
from foveola.runtime.box_map import comparable, comparable_outputs, score_map
from foveola.runtime.errors import FoveolaError
from foveola.runtime.image import prepare
from foveola.runtime.manifest import InputSpec, Proposals, TaskOutput
from foveola.runtime.suppression import nms
from foveola.runtime.task import Task
from foveola.runtime.two_stage import decode_two_stage

Raw = dict[str, np.ndarray[Any, Any]]
LEVELS = (60, 40, 7)
ROWS, CLASSES = sum(LEVELS), 3
SPEC = InputSpec(height=64, width=96, channels=1)
NAMES = ("t.proposals", "t.objectness", "t.classes", "t.deltas")
OUTPUT = TaskOutput(
    task=Task(name="t", kind="detection", classes=("a", "b", "c")),
    tensors=NAMES,
    thresholds=(0.5, 0.6, 0.7),
    max_boxes=20,
    proposals=Proposals(levels=LEVELS, kept=30),
)


def raw(seed: int, spread: float = 3.0) -> Raw:
    """Dense tensors of one image; rows of a level by falling objectness, as TopK gives them."""
    rng = np.random.default_rng(seed)
    low, side = rng.uniform(-10, 90, (ROWS, 2)), rng.exponential(20, (ROWS, 2))
    corners = np.clip(np.concatenate([low, low + side], 1), 0, [96, 64, 96, 64])
    strength = np.concatenate([np.sort(rng.normal(0, spread, count))[::-1] for count in LEVELS])
    classes, deltas = rng.normal(0, spread, (ROWS, CLASSES + 1)), rng.normal(0, 2, (ROWS, CLASSES, 4))
    return {
        name: x.astype(np.float32)[None] for name, x in zip(NAMES, (corners, strength, classes, deltas), strict=True)
    }


def torchvision_boxes(tensors: Raw) -> np.ndarray[Any, Any]:
    """What torchvision's own modules make of the same tensors."""
    corners, strength, logits, deltas = (torch.from_numpy(tensors[name]) for name in NAMES)
    tops = {"training": 30, "testing": 30}
    rpn: Any = RegionProposalNetwork(AnchorGenerator(), nn.Identity(), 0.7, 0.3, 8, 0.5, tops, tops, 0.7)
    rpn.eval()._get_top_n_idx = lambda objectness, counts: torch.arange(ROWS)[None]  # the tensors hold the best already
    kept, _ = rpn.filter_proposals(corners, strength, [(64, 96)], list(LEVELS))
    rows = [int((corners[0] == box).all(1).nonzero()[0, 0]) for box in kept[0]]
    heads: Any = RoIHeads(nn.Identity(), nn.Identity(), nn.Identity(), 0.5, 0.5, 8, 0.25, None, 0.05, 0.5, 20)
    background = torch.zeros(ROWS, 1, 4)
    offsets = torch.cat((background, deltas[0]), 1).flatten(1)
    boxes, scores, labels = heads.postprocess_detections(logits[0][rows], offsets[rows], kept, [(64, 96)])
    return np.asarray(torch.cat((boxes[0], scores[0][:, None], labels[0][:, None] - 1.0), 1))


@pytest.mark.parametrize("seed", range(20))
def test_boxes_are_those_of_torchvision(seed: int) -> None:
    tensors = raw(seed)

    found = boxes_of(OUTPUT, tensors, SPEC)

    assert len(found) > 5
    np.testing.assert_allclose(found, torchvision_boxes(tensors), atol=1e-4)


def test_sure_proposals_keep_their_order_where_their_probabilities_are_all_one() -> None:
    tensors = raw(1)
    tensors["t.objectness"] += 40

    np.testing.assert_allclose(boxes_of(OUTPUT, tensors, SPEC), torchvision_boxes(tensors), atol=1e-4)


def test_very_unsure_proposals_are_ordered_without_a_warning() -> None:
    tensors = raw(2)
    tensors["t.objectness"] -= 1000

    assert np.isfinite(boxes_of(OUTPUT, tensors, SPEC)).all()


def test_a_row_s_place_within_its_level_does_not_matter() -> None:
    tensors = raw(3)
    rng = np.random.default_rng(0)
    ends = np.cumsum((0, *LEVELS))
    order = np.concatenate([rng.permutation(np.arange(a, b)) for a, b in itertools.pairwise(ends)])

    shuffled = {name: x[:, order] for name, x in tensors.items()}

    assert not np.array_equal(shuffled["t.proposals"], tensors["t.proposals"])
    np.testing.assert_array_equal(boxes_of(OUTPUT, shuffled, SPEC), boxes_of(OUTPUT, tensors, SPEC))
    np.testing.assert_array_equal(
        comparable([OUTPUT], shuffled, SPEC)["t.map"], comparable([OUTPUT], tensors, SPEC)["t.map"]
    )


def test_levels_do_not_suppress_each_other() -> None:
    tensors = {name: np.zeros((1, 2, *x.shape[2:]), np.float32) for name, x in raw(0).items()}
    tensors["t.proposals"][:] = (8, 8, 40, 40)
    tensors["t.classes"][0, :, 1], tensors["t.classes"][0, 1, 2] = 8, 7.5

    together, apart = (
        boxes_of(msgspec.structs.replace(OUTPUT, proposals=Proposals(levels=levels)), tensors, SPEC)
        for levels in ((2,), (1, 1))
    )

    assert together[:, 5].tolist() == [0]
    assert apart[:, 5].tolist() == [0, 1]


def test_an_image_whose_proposals_are_all_slivers_has_no_box() -> None:
    tensors = raw(4)
    tensors["t.proposals"][..., 2] = tensors["t.proposals"][..., 0]

    assert boxes_of(OUTPUT, tensors, SPEC).shape == (0, 6)


def test_suppression_by_group_agrees_with_torchvision() -> None:
    rng = np.random.default_rng(5)
    low = rng.uniform(0, 50, (200, 2))
    boxes = np.concatenate([low, low + rng.uniform(5, 30, (200, 2))], axis=1).astype(np.float32)
    scores, groups = rng.permutation(200).astype(np.float32), rng.integers(0, 4, 200)

    kept = nms(boxes, scores, 0.4, groups=groups)

    wanted = torchvision.ops.batched_nms(
        torch.from_numpy(boxes), torch.from_numpy(scores), torch.from_numpy(groups), 0.4
    )
    assert kept.tolist() == wanted.tolist()


def test_boxes_reach_the_prediction_with_label_and_threshold() -> None:
    from PIL import Image

    _, geometry = prepare(Image.new("L", (192, 128)), SPEC)

    boxes = decode((OUTPUT,), raw(6), geometry, SPEC).boxes

    assert {box.label for box in boxes} <= {"a", "b", "c"}
    assert [box.score for box in boxes] == sorted((box.score for box in boxes), reverse=True)
    assert all(box.positive == (box.score >= {"a": 0.5, "b": 0.6, "c": 0.7}[box.label]) for box in boxes)
    assert max(box.x2 for box in boxes) > 96  # in pixels of the image, which is twice as large as the input


@pytest.mark.parametrize("name", NAMES)
def test_dense_tensors_of_another_shape_are_refused(name: str) -> None:
    tensors = raw(0)
    tensors[name] = tensors[name][:, :-1]

    with pytest.raises(FoveolaError, match=rf"{name}.*has shape \(1, 106.*not \(1, 107"):
        boxes_of(OUTPUT, tensors, SPEC)


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("name", NAMES)
def test_dense_tensors_that_are_not_finite_give_no_box(name: str, value: float) -> None:
    tensors = raw(0)
    tensors[name].flat[3] = value

    with pytest.raises(FoveolaError, match="NaN or infinity"):
        boxes_of(OUTPUT, tensors, SPEC)


def test_the_largest_finite_numbers_give_finite_boxes() -> None:
    tensors = raw(0)
    tensors["t.deltas"][:] = np.finfo(np.float32).max * np.sign(tensors["t.deltas"])
    tensors["t.classes"][:] = np.finfo(np.float32).max * np.sign(tensors["t.classes"])
    harsh = msgspec.structs.replace(OUTPUT, proposals=Proposals(levels=LEVELS, weights=(0.001, 0.001, 0.001, 0.001)))

    assert np.isfinite(boxes_of(harsh, tensors, SPEC)).all()


PLAIN: dict[str, Any] = {
    "task": {"name": "t", "kind": "detection", "classes": ["a", "b", "c"]},
    "tensors": list(NAMES),
    "proposals": {"levels": [60, 40, 7]},
}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"proposals": {"levels": []}}, "length >= 1"),
        ({"proposals": {"levels": [1] * 9}}, "length <= 8"),
        ({"proposals": {"levels": [0]}}, ">= 1"),
        ({"proposals": {"levels": [10**9]}}, "<= 4096"),
        ({"proposals": {"levels": [9], "kept": 10**9}}, "<= 2048"),
        ({"proposals": {"levels": [9], "kept": 0}}, ">= 1"),
        ({"proposals": {"levels": [9], "nms_iou": 1.5}}, "<= 1"),
        ({"proposals": {"levels": [9], "weights": [10, 10, 5, 0]}}, ">= 0.001"),
        ({"proposals": {"levels": [9], "weights": [10, 10]}}, "length 4"),
        ({"proposals": {"levels": [9], "min_side": -1}}, ">= 0"),
        ({"proposals": {"levels": [9], "top": 3}}, "unknown field `top`"),
        ({"proposals": {}}, "missing required field `levels`"),
        ({"tensors": ["t.boxes", "t.scores"]}, "proposals come in 4 tensors, 2 are named"),
        ({"tensors": ["t.boxes"] * 4}, "proposals come in 4 tensors, 1 are named"),
        ({"max_boxes": 10**9}, "max_boxes is 1000000000, not 1 to 1024"),
        ({"max_boxes": -1}, "max_boxes is -1"),
        ({"task": {"name": "t", "kind": "multilabel", "classes": ["a"]}}, "multilabel has no proposals"),
        (
            {"task": {"name": "t", "kind": "detection", "classes": [str(i) for i in range(200)]}},
            "200000 candidate boxes an image, at most 131072",
        ),
    ],
)
def test_a_manifest_that_asks_too_much_is_refused(change: dict[str, Any], words: str) -> None:
    with pytest.raises(msgspec.ValidationError, match=words):
        msgspec.convert(PLAIN | change, TaskOutput)


def test_a_manifest_with_proposals_is_read_back_as_written() -> None:
    assert msgspec.json.decode(msgspec.json.encode(OUTPUT), type=TaskOutput) == OUTPUT


def test_the_most_that_a_manifest_may_ask_is_done_in_bounded_time() -> None:
    how = Proposals(levels=(4096,) * 8, kept=2048, nms_iou=1.0)
    rng = np.random.default_rng(0)
    rows = sum(how.levels)
    corners = rng.uniform(0, 512, (rows, 4)).astype(np.float32)
    corners[:, 2:] += corners[:, :2]
    start = time.perf_counter()

    found = decode_two_stage(
        corners,
        rng.normal(size=rows),
        rng.normal(size=(rows, 65)),
        rng.normal(size=(rows, 64, 4)),
        how=how,
        height=1024,
        width=1024,
        nms_iou=1.0,
        score_floor=0.0,
        max_boxes=1024,
    )

    assert len(found) == 1024
    assert time.perf_counter() - start < 60


def test_the_map_shows_the_strongest_box_over_each_cell() -> None:
    one = {name: np.zeros((1, 2, *x.shape[2:]), np.float32) for name, x in raw(0).items()}
    one["t.proposals"][:] = ((16, 8, 40, 24), (24, 8, 48, 24))
    one["t.classes"][0, :, 2] = (6, 9)
    output = msgspec.structs.replace(OUTPUT, nms_iou=0.9, proposals=Proposals(levels=(1, 1)))
    floor = np.log(0.05 / 0.95)

    drawn = score_map(output, one, SPEC)[0]

    assert drawn.shape == (3, 8, 12)
    assert np.allclose(drawn[[0, 2]], floor)  # both boxes are b's
    weak, strong = drawn[1, 1, 2], drawn[1, 1, 5]
    assert floor < weak < strong
    assert drawn[1, 1].tolist() == pytest.approx([floor] * 2 + [weak] + [strong] * 3 + [floor] * 6)
    assert np.allclose(drawn[1, [0, 3, 4, 5, 6, 7]], floor)


def test_other_tasks_are_compared_by_their_own_tensors() -> None:
    plain = TaskOutput(task=Task(name="p", kind="binary", classes=("no", "yes")), tensors=("p",))
    logit = np.ones((1, 1), np.float32)

    shown = comparable([plain, OUTPUT], {"p": logit, **raw(0)}, SPEC)
    described = comparable_outputs([plain, OUTPUT])

    assert list(shown) == ["p", "t.map"] == [name for one in described for name in one.tensors]
    assert shown["p"] is logit
    assert described[0] is plain
    assert (described[1].task.activation, described[1].thresholds) == ("sigmoid", OUTPUT.thresholds)
