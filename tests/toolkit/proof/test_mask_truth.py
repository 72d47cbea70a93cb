from __future__ import annotations

from pathlib import Path

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray
from PIL import Image
from sklearn.metrics import f1_score

from foveola.runtime.errors import FoveolaError
from foveola.runtime.prediction import Box, Choice, Finding, Mask, Measurement, Prediction
from foveola.runtime.task import Task
from foveola.toolkit.data.dataset import Columns, Dataset, read_dataset
from foveola.toolkit.parity.protocol import Biomarker, Protocol, Rule, TaskRules
from foveola.toolkit.parity.surface import surface_measures
from foveola.toolkit.proof.answer_rows import box_rows, is_scored, mask_layers, score_row, score_width
from foveola.toolkit.proof.mask_truth import (
    Truth,
    dice_against,
    dice_of,
    marker_of,
    marker_of_truth,
    read_truth,
    surfaces_against,
    wanted_of,
    worst_surfaces,
)
from foveola.toolkit.proof.rows import row_of

Layers = NDArray[np.bool_]
SIZE = (12, 16)
EYE = Task(name="eye", kind="segmentation", classes=("cup", "disc"), columns=("map",), ignore_column="veil")
LUNGS = Task(name="lungs", kind="segmentation", classes=("right", "left"), columns=("right", "left"), exclusive=False)
RULES = TaskRules(endpoints={"nsd": Rule(), "hd95": Rule()}, tolerance=1.0, spacing=0.5)
RATIO = Biomarker(kind="cup_disc_ratio", task="eye", inner=("cup",), outer=("cup", "disc"))


def drawn(*boxes: tuple[int, int, int, int]) -> Layers:
    """One mask a box: top, left, height, width."""
    layers = np.zeros((len(boxes), *SIZE), dtype=bool)
    for layer, (top, left, height, width) in zip(layers, boxes, strict=True):
        layer[top : top + height, left : left + width] = True
    return layers


def truth_of(layers: Layers, *unknown: int) -> Truth:
    known = np.ones_like(layers)
    known[list(unknown)] = False
    return Truth(layers & known, known)


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """Three images: one with all masks, one with a gap in each task, one of a healthy eye without any structure."""
    cells = ["a.png,p1,map.png,veil.png,right.png,left.png", "b.png,p2,,,right.png,", "c.png,p3,none,,none,none"]
    (tmp_path / "manifest.csv").write_text("\n".join(["file,patient_id,map,veil,right,left", *cells]) + "\n")
    rng = np.random.default_rng(0)
    for name in "abc":
        Image.fromarray(rng.integers(0, 255, SIZE, np.uint8)).save(tmp_path / f"{name}.png")
    labels = np.zeros(SIZE, np.uint8)
    labels[2:10, 2:12], labels[4:8, 4:8] = 2, 1
    labels[0, 0] = 255
    Image.fromarray(labels).save(tmp_path / "map.png")
    for name, box in (("veil", (6, 6, 6, 10)), ("right", (2, 2, 8, 4)), ("left", (2, 10, 8, 4))):
        Image.fromarray(drawn(box)[0].astype(np.uint8) * 255).save(tmp_path / f"{name}.png")
    return tmp_path


def read(place: Path) -> Dataset:
    return read_dataset(place, [EYE, LUNGS], columns=Columns(file="file", patient="patient_id", split=""))


# --- reading ---


def test_a_label_map_becomes_a_mask_a_class_without_what_is_ignored(place: Path) -> None:
    truth = read_truth(read(place), EYE, 0, SIZE)

    assert truth is not None
    cup, disc, veil = drawn((4, 4, 4, 4), (2, 2, 8, 10), (6, 6, 6, 10))
    assert np.array_equal(truth.inside[0], cup & ~veil)
    assert np.array_equal(truth.inside[1], disc & ~cup & ~veil)  # classes of one map exclude each other
    unknown = veil.copy()
    unknown[0, 0] = True
    assert np.array_equal(truth.known, np.stack([~unknown] * 2))


def test_a_structure_without_a_file_is_not_known_and_one_that_is_not_there_is_empty(place: Path) -> None:
    dataset = read(place)

    gap, healthy = (read_truth(dataset, LUNGS, index, SIZE) for index in (1, 2))

    assert gap is not None
    assert healthy is not None
    assert gap.known.any(axis=(1, 2)).tolist() == [True, False]
    assert not gap.inside[1].any()
    assert healthy.known.all()
    assert not healthy.inside.any()


def test_an_image_without_any_mask_has_no_truth(place: Path) -> None:
    dataset = read(place)

    assert read_truth(dataset, EYE, 1, SIZE) is None
    assert read_truth(dataset, msgspec.structs.replace(EYE, name="other"), 0, SIZE) is None


def test_a_mask_of_another_size_than_the_answers_is_refused(place: Path) -> None:
    with pytest.raises(FoveolaError, match="a mask has the size of its image"):
        read_truth(read(place), EYE, 0, (12, 12))


# --- Dice ---


PAIR = arrays(np.bool_, (2, 5, 6))


@given(PAIR, PAIR)
@settings(max_examples=40, deadline=None)
def test_dice_is_scikit_learns_f1_of_the_pixels(one: Layers, other: Layers) -> None:
    wanted = [
        f1_score(a.ravel(), b.ravel(), zero_division=1.0)  # pyright: ignore[reportArgumentType]
        for a, b in zip(one, other, strict=True)
    ]

    assert dice_of(one, other) == pytest.approx(wanted)
    assert dice_of(other, one) == dice_of(one, other)


@pytest.mark.parametrize(
    ("truth", "answer", "dice"),
    [
        ((0, 0, 0, 0), (0, 0, 0, 0), 1.0),
        ((0, 0, 0, 0), (2, 2, 1, 1), 0.0),
        ((2, 2, 3, 3), (0, 0, 0, 0), 0.0),
        ((2, 2, 4, 4), (2, 2, 4, 4), 1.0),
        ((2, 2, 4, 4), (2, 4, 4, 4), 0.5),
    ],
    ids=["both empty", "truth empty", "answer empty", "equal", "half"],
)
def test_dice_has_an_answer_for_empty_masks(
    truth: tuple[int, int, int, int], answer: tuple[int, int, int, int], dice: float
) -> None:
    assert dice_against(truth_of(drawn(truth)), drawn(answer)) == [dice]


def test_a_structure_that_is_not_annotated_is_nan_in_every_measure() -> None:
    layers = drawn((2, 2, 6, 6), (2, 10, 6, 4))
    truth = truth_of(layers, 1)

    dice, (nsd, hd95) = dice_against(truth, layers), surfaces_against(truth, layers, RULES)

    assert [values[0] for values in (dice, nsd, hd95)] == [1.0, 1.0, 0.0]
    assert np.isnan([values[1] for values in (dice, nsd, hd95)]).all()


def test_an_ignored_pixel_counts_for_neither_side() -> None:
    layers = drawn((2, 2, 6, 6))
    known = np.ones_like(layers)
    known[:, :, 8:] = False
    wild = layers | drawn((0, 8, 12, 8))  # all that it says wrongly is ignored

    truth = Truth(layers & known, known)

    assert dice_against(truth, wild) == [1.0]
    assert surfaces_against(truth, wild, RULES) == ([1.0], [0.0])


def test_surfaces_are_measured_a_class_with_the_protocols_spacing_and_tolerance() -> None:
    layers, answer = drawn((2, 2, 6, 6), (2, 10, 6, 4)), drawn((2, 4, 6, 6), (4, 10, 6, 4))

    nsd, hd95 = surfaces_against(truth_of(layers), answer, RULES)

    assert list(zip(nsd, hd95, strict=True)) == [surface_measures(layers[k], answer[k], 0.5, 1.0) for k in range(2)]
    assert hd95 == [1.0, 1.0]  # two pixels of half a millimetre
    assert nsd == [1.0, 1.0]


@given(PAIR, PAIR)
@settings(max_examples=30, deadline=None)
def test_to_miss_a_structure_is_never_better_than_any_answer(layers: Layers, answer: Layers) -> None:
    truth, silent = truth_of(layers), np.zeros_like(answer)
    found = [k for k in range(2) if layers[k].any()]

    (nsd, hd95), (no_nsd, no_hd95) = (surfaces_against(truth, each, RULES) for each in (answer, silent))
    dice, no_dice = dice_against(truth, answer), dice_against(truth, silent)

    assert all(no_dice[k] <= dice[k] and no_nsd[k] <= nsd[k] and no_hd95[k] >= hd95[k] for k in found)


# --- biomarkers ---


def test_a_biomarker_of_the_reference_is_that_of_a_model_with_the_same_masks() -> None:
    layers = drawn((4, 4, 4, 4), (2, 2, 8, 10))

    assert marker_of(RATIO, EYE.classes, layers) == marker_of_truth(RATIO, EYE.classes, truth_of(layers)) == 0.5


@pytest.mark.parametrize("unknown", [0, 1], ids=["cup", "disc"])
def test_a_reference_that_lacks_a_part_has_no_biomarker(unknown: int) -> None:
    layers = drawn((4, 4, 4, 4), (2, 2, 8, 10))

    assert np.isnan(marker_of_truth(RATIO, EYE.classes, truth_of(layers, unknown)))


def test_a_biomarker_without_a_part_in_the_masks_is_nan() -> None:
    layers = drawn((0, 0, 0, 0), (2, 2, 8, 10))

    assert np.isnan(marker_of(RATIO, EYE.classes, layers))
    assert np.isnan(marker_of_truth(RATIO, EYE.classes, truth_of(layers)))


# --- what a protocol asks ---


def test_surfaces_are_measured_where_the_protocol_names_them() -> None:
    protocol = Protocol(
        tasks={
            "eye": RULES,
            "lungs": TaskRules(endpoints={"dice": Rule()}),
            "one": TaskRules(endpoints={"hd95": Rule()}),
        },
        biomarkers={"ratio": RATIO},
    )

    wanted = wanted_of(protocol)

    assert (set(wanted.surfaces), set(wanted.markers)) == ({"eye", "one"}, {"ratio"})
    assert not wanted_of(None).surfaces
    assert not wanted_of(None).markers


# --- a prediction's rows ---


def test_no_answer_is_as_far_off_as_an_empty_mask_and_no_answer_to_what_is_not_annotated() -> None:
    truth = truth_of(drawn((2, 2, 5, 5), (4, 8, 3, 3)), 1)

    nsd, hd95 = worst_surfaces(truth, RULES)

    empty = surfaces_against(truth, np.zeros_like(truth.inside), RULES)
    assert (nsd[0], hd95[0]) == (empty[0][0], empty[1][0])
    assert hd95[0] == pytest.approx(0.5 * np.hypot(*SIZE))
    assert np.isnan([nsd[1], hd95[1]]).all()


def test_a_student_without_an_answer_has_the_worst_surfaces_and_agrees_with_nothing() -> None:
    truth, protocol = truth_of(drawn((2, 2, 5, 5), (4, 8, 3, 3))), Protocol(tasks={"eye": RULES})

    row = row_of((EYE,), None, {"eye": truth}, wanted_of(protocol), {"eye": truth.inside})

    assert (row.nsd["eye"], row.hd95["eye"]) == worst_surfaces(truth, RULES)
    assert row.alike["eye"] == [0.0, 0.0]
    assert not row.dice


def test_a_biomarker_is_not_measured_on_pixels_that_the_reference_ignores() -> None:
    layers = drawn((2, 2, 4, 4), (2, 2, 8, 8))
    known = np.ones_like(layers)
    known[:, 8:, :] = False  # below row 8 nobody looked

    whole, seen = (marker_of(RATIO, EYE.classes, layers, truth) for truth in (None, Truth(layers & known, known)))

    assert [whole, seen] == pytest.approx([4 / 8, 4 / 6])


def test_a_prediction_becomes_one_row_a_task() -> None:
    tasks = {
        "binary": Task(name="sick", kind="binary", classes=("no", "yes")),
        "labels": Task(name="found", kind="multilabel", classes=("a", "b")),
        "grade": Task(name="grade", kind="ordinal", classes=("0", "1", "2")),
        "sizes": Task(name="sizes", kind="regression", classes=("long", "wide"), unit="mm"),
        "boxes": Task(name="spots", kind="detection", classes=("x", "y")),
    }
    prediction = Prediction(
        findings=tuple(
            Finding(task=task, label=label, probability=p, threshold=0.5, positive=p >= 0.5)
            for task, label, p in (("sick", "yes", 0.25), ("found", "a", 0.5), ("found", "b", 0.75))
        ),
        choices=(Choice(task="grade", label="1", index=1, probabilities=(0.2, 0.5, 0.3), classes=("0", "1", "2")),),
        measurements=tuple(
            Measurement(task="sizes", name=name, value=value, unit="mm")
            for name, value in (("long", 9.0), ("wide", 4.0))
        ),
        boxes=(
            Box(task="spots", label="y", score=0.9, x1=1.0, y1=2.0, x2=3.0, y2=4.0, positive=True),
            Box(task="others", label="x", score=0.9, x1=1.0, y1=2.0, x2=3.0, y2=4.0, positive=True),
        ),
        masks=tuple(
            Mask(task=task, label="m", pixels=layer, area_px=int(layer.sum()), fraction=0.0)
            for task, layer in zip(
                ("lungs", "other", "lungs"), drawn((1, 1, 2, 2), (0, 0, 1, 1), (3, 3, 2, 2)), strict=True
            )
        ),
    )

    rows = {name: score_row(task, prediction) for name, task in tasks.items() if is_scored(task)}

    assert rows == {"binary": [0.25], "labels": [0.5, 0.75], "grade": [0.2, 0.5, 0.3], "sizes": [9.0, 4.0]}
    assert {name: score_width(tasks[name]) for name in rows} == {name: len(row) for name, row in rows.items()}
    assert box_rows(tasks["boxes"], prediction).tolist() == [[1.0, 2.0, 3.0, 4.0, 0.9, 1.0]]
    assert box_rows(tasks["boxes"], Prediction()).shape == (0, 6)
    assert np.array_equal(mask_layers(LUNGS, prediction), drawn((1, 1, 2, 2), (3, 3, 2, 2)))
    assert not is_scored(LUNGS)
