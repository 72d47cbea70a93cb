"""Laws of a teacher's metrics: values against independent tools and by hand, intervals by patient, honest notes."""

from __future__ import annotations

import contextlib
import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from sklearn.metrics import (
    accuracy_score,
    cohen_kappa_score,
    f1_score,
    jaccard_score,
    mean_absolute_error,
    recall_score,
    roc_auc_score,
)
from small import SPEC, TASKS, squares

from foveola.runtime.errors import FoveolaError
from foveola.runtime.manifest import InputSpec
from foveola.runtime.task import Task
from foveola.toolkit.answers import RawAnswers
from foveola.toolkit.checkpoint import Epoch
from foveola.toolkit.data.arrays import prepare_arrays
from foveola.toolkit.parity.bootstrap import resample_counts
from foveola.toolkit.parity.measured import Setting
from foveola.toolkit.parity.protocol import TaskRules
from foveola.toolkit.teachers.class_metrics import measure_classes, measure_labels, measure_values
from foveola.toolkit.teachers.dense_metrics import IOUS, mask_overlaps, measure_boxes, measure_masks
from foveola.toolkit.teachers.measure import Measure
from foveola.toolkit.teachers.metrics import forgetting, measure_task, without_padding

BINARY = Task(name="ill", kind="binary", classes=("no", "yes"))
LABELS = Task(name="signs", kind="multilabel", classes=("left", "top", "rare"))
CLASSES = Task(name="place", kind="multiclass", classes=("a", "b", "c"))
GRADES = Task(name="grade", kind="ordinal", classes=("none", "some", "much"))
AGE = Task(name="age", kind="regression", classes=("age",), unit="years")
ONE = Task(name="lung", kind="segmentation", classes=("lung",))
TWO = Task(name="lungs", kind="segmentation", classes=("right", "left"))
OPEN = Task(name="parts", kind="segmentation", classes=("upper", "lower"), exclusive=False)
BOXES = Task(name="boxes", kind="detection", classes=("nodule", "mass"))


def setting_of(patients: NDArray[np.intp], resamples: int = 300) -> Setting:
    return Setting(
        patients=patients, resamples=resamples, seed=5, alpha=0.025, power=0.8, rules=TaskRules(endpoints={})
    )


def pairs(count: int) -> NDArray[np.intp]:
    """Two images a patient."""
    return np.arange(count) // 2


def one(measures: list[Measure], metric: str, label: str = "") -> Measure:
    (found,) = [measure for measure in measures if (measure.metric, measure.label) == (metric, label)]
    return found


@pytest.fixture(scope="module")
def binary() -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    rng = np.random.default_rng(0)
    truth = (rng.random((80, 1)) < 0.4).astype(np.float64)
    return truth, np.clip(0.25 * truth + 0.25 + 0.2 * rng.standard_normal((80, 1)), 0, 1)


def test_binary_metrics_are_those_of_scikit_learn(binary: tuple[NDArray[np.float64], NDArray[np.float64]]) -> None:
    truth, probability = binary
    said = probability[:, 0] >= 0.42

    found = measure_labels(BINARY, truth, probability, (0.42,), setting_of(pairs(80)))

    yes = truth[:, 0] > 0.5
    assert [measure.metric for measure in found] == ["auc", "accuracy", "sensitivity", "specificity"]
    assert [measure.main for measure in found] == [True, False, False, False]
    assert found[0].value == pytest.approx(roc_auc_score(yes, probability[:, 0]))
    assert found[1].value == pytest.approx(accuracy_score(yes, said))
    assert found[2].value == pytest.approx(recall_score(yes, said))
    assert found[3].value == pytest.approx(recall_score(~yes, ~said))
    for measure in found:
        assert measure.low is not None
        assert measure.high is not None
        assert measure.value is not None
        assert 0 <= measure.low < measure.value < measure.high <= 1
    assert (found[0].cases, found[0].patients, found[0].positives) == (80, 40, int(yes.sum()))


def test_a_threshold_moves_decisions_and_not_the_auc(binary: tuple[NDArray[np.float64], NDArray[np.float64]]) -> None:
    truth, probability = binary
    low, high = (measure_labels(BINARY, truth, probability, (cut,), setting_of(pairs(80))) for cut in (0.2, 0.7))

    assert low[0] == high[0]
    assert (low[2].value or 0) > (high[2].value or 0)


def test_copies_of_a_patients_images_do_not_narrow_an_interval(
    binary: tuple[NDArray[np.float64], NDArray[np.float64]],
) -> None:
    truth, probability = binary
    patients = pairs(80)

    once = measure_labels(BINARY, truth, probability, (), setting_of(patients))
    copied = np.repeat(truth, 3, axis=0), np.repeat(probability, 3, axis=0)
    thrice = measure_labels(BINARY, copied[0], copied[1], (), setting_of(np.repeat(patients, 3)))

    for a, b in zip(once, thrice, strict=True):
        assert (a.value, a.low, a.high) == pytest.approx((b.value, b.low, b.high), abs=1e-9)
        assert b.cases == 3 * a.cases
        assert b.patients == a.patients


def test_all_metrics_are_resampled_by_one_matrix(binary: tuple[NDArray[np.float64], NDArray[np.float64]]) -> None:
    truth, probability = binary
    setting = setting_of(pairs(80))
    right = (probability[:, 0] >= 0.5) == (truth[:, 0] > 0.5)

    found = one(measure_labels(BINARY, truth, probability, (), setting), "accuracy")

    drawn = [counts[setting.patients] for block in resample_counts(40, 300, 5) for counts in block]
    shares = [float(counts @ right / counts.sum()) for counts in drawn]
    low, high = np.quantile(shares, [0.025, 0.975])
    assert found.low is not None
    assert found.high is not None
    assert found.low <= low < high <= found.high
    assert found.high - found.low < 1.25 * (high - low)


def test_a_perfect_score_keeps_an_honest_width() -> None:
    truth = np.repeat([0.0, 1.0], 15)[:, None]

    found = measure_labels(BINARY, truth, 0.1 + 0.8 * truth, (), setting_of(np.arange(30)))

    for measure in found:
        assert measure.value == measure.high == 1
        assert measure.low is not None
        assert 0.6 < measure.low < 0.95


def test_a_label_with_few_patients_is_named_and_not_in_the_mean() -> None:
    rng = np.random.default_rng(1)
    reference = (rng.random((60, 3)) < 0.5).astype(np.float64)
    reference[:, 2] = 0
    reference[:4, 2] = 1
    reference[5:9, 1] = np.nan
    probability = np.clip(0.4 * np.nan_to_num(reference) + 0.5 * rng.random((60, 3)), 0, 1)

    found = measure_labels(LABELS, reference, probability, (), setting_of(np.arange(60)))

    known = ~np.isnan(reference[:, 1])
    areas = [
        roc_auc_score(reference[:, 0], probability[:, 0]),
        roc_auc_score(reference[known, 1], probability[known, 1]),
    ]
    assert found[0].value == pytest.approx(np.mean(areas))
    assert "rare" in found[0].note
    assert [measure.label for measure in found] == ["", "left", "top", "rare"]
    assert found[2].cases == 56
    assert "only 4 positive patients" in found[3].note
    assert found[3].value == pytest.approx(roc_auc_score(reference[:, 2], probability[:, 2]))


def test_one_class_only_has_no_auc_and_says_so() -> None:
    found = measure_labels(BINARY, np.ones((20, 1)), np.full((20, 1), 0.7), (), setting_of(np.arange(20)))

    assert found[0].value is None
    assert "one class only, positive" in found[0].note
    assert one(found, "sensitivity").value == 1
    assert one(found, "specificity").value is None


def test_chance_is_said() -> None:
    rng = np.random.default_rng(2)
    truth = np.repeat([0.0, 1.0], 30)[:, None]

    found = measure_labels(BINARY, truth, rng.random((60, 1)), (), setting_of(np.arange(60)))

    assert "not shown to be better than chance" in found[0].note


def test_without_a_reference_there_is_no_metric() -> None:
    nothing = np.full((4, 1), np.nan)

    assert measure_labels(BINARY, nothing, np.zeros((4, 1)), (), setting_of(np.arange(4))) == []
    assert measure_classes(CLASSES, nothing, np.ones((4, 3)) / 3, setting_of(np.arange(4))) == []
    assert measure_values(AGE, nothing, np.zeros((4, 1)), setting_of(np.arange(4))) == []
    assert measure_boxes(BOXES, [np.zeros((0, 6))] * 4, [None] * 4, setting_of(np.arange(4))) == []


def test_class_metrics_are_those_of_scikit_learn() -> None:
    rng = np.random.default_rng(3)
    truth = rng.integers(0, 3, 90)
    power = np.exp(1.2 * np.eye(3)[truth] + rng.standard_normal((90, 3)))
    probability = power / power.sum(axis=1, keepdims=True)
    reference = truth[:, None].astype(np.float64)

    classes = measure_classes(CLASSES, reference, probability, setting_of(pairs(90)))
    grades = measure_classes(GRADES, reference, probability, setting_of(pairs(90)))

    chosen = probability.argmax(axis=1)
    assert one(classes, "accuracy").value == pytest.approx(accuracy_score(truth, chosen))
    assert one(classes, "accuracy").main
    assert one(classes, "ovr_auc").value == pytest.approx(roc_auc_score(truth, probability, multi_class="ovr"))
    assert one(grades, "kappa").value == pytest.approx(cohen_kappa_score(truth, chosen, weights="quadratic"))
    assert grades[0].metric == "kappa"
    assert grades[0].main


def test_an_error_is_compared_with_that_of_a_constant() -> None:
    rng = np.random.default_rng(4)
    age = rng.normal(50, 12, (60, 1))
    age[3] = np.nan
    known = ~np.isnan(age[:, 0])

    good = measure_values(AGE, age, np.nan_to_num(age) + rng.normal(0, 3, (60, 1)), setting_of(pairs(60)))
    flat_answers = np.full((60, 1), 55.0)
    flat = measure_values(AGE, age, flat_answers, setting_of(pairs(60)))

    assert flat[0].value == pytest.approx(mean_absolute_error(age[known], flat_answers[known]))
    assert good[0].note == ""
    assert "not shown to be better than a constant" in flat[0].note
    assert good[0].cases == 59


def test_dice_and_mean_iou_equal_hand_values() -> None:
    truth, answer = np.zeros((4, 4), np.uint8), np.zeros((4, 4), np.uint8)
    truth[1, :], answer[1, 2:], answer[2, 2:] = 1, 1, 1  # 4 and 4 pixels, 2 of them shared
    raw = np.stack([1.0 - answer, answer])[None].astype(np.float32)

    found = measure_masks(ONE, raw, truth[None], (), setting_of(np.arange(1)))

    assert one(found, "dice").value == pytest.approx(2 * 2 / (4 + 4))
    assert one(found, "iou", "lung").value == pytest.approx(2 / 6)
    assert one(found, "iou", "background").value == pytest.approx(10 / 14)
    assert one(found, "miou").value == pytest.approx((2 / 6 + 10 / 14) / 2)
    assert "only 1 patient" in found[0].note


def test_masks_are_measured_as_scikit_learn_does_and_ignored_pixels_do_not_count() -> None:
    rng = np.random.default_rng(6)
    target = rng.integers(0, 3, (12, 8, 8)).astype(np.uint8)
    target[:, :, 0] = 255
    target[3] = 255  # a gap
    raw = rng.standard_normal((12, 3, 8, 8)).astype(np.float32)

    found = measure_masks(TWO, raw, target, (), setting_of(pairs(12)))

    dice, iou = [], []
    for logits, wanted in zip(raw, target, strict=True):
        seen = wanted != 255
        if seen.any():
            sides = wanted[seen], logits.argmax(0)[seen]
            dice.append(f1_score(*sides, labels=[1, 2], average=None))  # pyright: ignore[reportArgumentType]
            iou.append(jaccard_score(*sides, labels=[0, 1, 2], average=None))  # pyright: ignore[reportArgumentType]
    assert one(found, "dice").value == pytest.approx(np.mean(dice))
    assert one(found, "dice", "left").value == pytest.approx(np.mean(dice, axis=0)[1])
    assert one(found, "miou").value == pytest.approx(np.mean(iou))
    assert found[0].cases == 11


def test_open_masks_have_a_background_where_all_of_them_are_known() -> None:
    target = np.zeros((1, 2, 2, 2), np.uint8)
    target[0, 0, 0], target[0, 1, :, 0] = 1, 255
    raw = np.where(target == 1, 3.0, -3.0).astype(np.float32)

    strict, loose = (mask_overlaps(OPEN, raw, target, limits) for limits in ((0.99, 0.5), ()))

    assert loose.wanted.tolist() == [[1, 2, 0]]  # background: the column that both know, less the upper one's pixel
    assert strict.found[0, 1] == 0
    assert loose.found[0, 1] == 2


def test_padding_is_no_part_of_a_mask(tmp_path: Path) -> None:
    dataset = squares(tmp_path / "data", tuple(task for task in TASKS if task.name == "square"))
    arrays = prepare_arrays(dataset, InputSpec(height=64, width=96, channels=1))

    known = without_padding(arrays, "square")[0]

    assert (known[:, :16] == 255).all()
    assert (known[:, 80:] == 255).all()
    assert (known[:, 16:80] == arrays.masks["square"][0][:, 16:80]).all()


def test_average_precision_of_three_boxes_equals_the_hand_value() -> None:
    wanted = [np.array([[0, 0, 10, 10, 0], [20, 20, 30, 30, 0]]), np.array([[5, 5, 15, 15, 0]])]
    answers = [
        np.array([[0, 0, 10, 10, 0.9, 0], [40, 40, 50, 50, 0.8, 0], [20, 20, 30, 30, 0.7, 0]]),
        np.zeros((0, 6)),
    ]

    found = measure_boxes(BOXES, answers, wanted, setting_of(np.arange(2)))

    # Precision 1 up to recall 1/3 (34 of 101 recalls), 2/3 up to recall 2/3 (33 more), then nothing.
    assert found[0].value == pytest.approx((34 * 1 + 33 * 2 / 3) / 101)
    assert found[0].positives == 3
    assert "mass" in found[0].note
    assert "only 2 patients" in found[0].note


def coco_map(answers: list[NDArray[np.float64]], truths: list[NDArray[np.float64]], labels: int) -> NDArray[np.float64]:
    """AP by IoU (10, labels) by pycocotools."""

    def box(image: int, label: float, corners: list[float]) -> dict[str, Any]:
        x1, y1, x2, y2 = corners
        size = [x2 - x1, y2 - y1]
        return {"image_id": image, "category_id": int(label), "bbox": [x1, y1, *size], "area": size[0] * size[1]}

    drawn = [box(i, row[4], row[:4]) | {"iscrowd": 0} for i, rows in enumerate(truths) for row in rows.tolist()]
    found = [box(i, row[5], row[:4]) | {"score": row[4]} for i, rows in enumerate(answers) for row in rows.tolist()]
    with contextlib.redirect_stdout(io.StringIO()):
        coco: Any = COCO()
        coco.dataset = {
            "images": [{"id": n} for n in range(len(truths))],
            "annotations": [one | {"id": n + 1} for n, one in enumerate(drawn)],
            "categories": [{"id": k} for k in range(labels)],
        }
        coco.createIndex()
        evaluation: Any = COCOeval(coco, coco.loadRes(found), "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
    return np.asarray(evaluation.eval["precision"][:, :, :, 0, -1].mean(axis=1), np.float64)


def test_precision_is_that_of_pycocotools_at_every_overlap() -> None:
    rng = np.random.default_rng(7)
    answers, truths = [], []
    for _ in range(30):
        count = int(rng.integers(1, 5))
        corner = rng.random((count, 2)) * 60
        box = np.concatenate([corner, corner + 10 + rng.random((count, 2)) * 30], axis=1)
        label = rng.integers(0, 2, (count, 1))
        near = box + rng.normal(0, 1.5, box.shape)
        truths.append(np.concatenate([box, label], axis=1))
        answers.append(np.concatenate([near, rng.random((count, 1)), label], axis=1))

    found = measure_boxes(BOXES, answers, list(truths), setting_of(np.arange(30), 100))

    expected = coco_map(answers, truths, 2)
    assert len(IOUS) == 10
    assert one(found, "map50").value == pytest.approx(expected[0].mean())
    assert one(found, "map50", "mass").value == pytest.approx(expected[0, 1])
    assert one(found, "map").value == pytest.approx(expected.mean())


def test_images_without_annotation_take_no_part_in_boxes() -> None:
    wanted = [np.array([[0, 0, 10, 10, 0]]), None]
    false_alarm = np.array([[0, 0, 10, 10, 0.9, 0]])

    found = measure_boxes(BOXES, [false_alarm, false_alarm], wanted, setting_of(np.arange(2)))

    assert found[0].value == 1
    assert found[0].cases == 1


def test_every_kind_of_task_is_measured_from_raw_answers(tmp_path: Path) -> None:
    dataset = squares(tmp_path / "data")
    arrays, count = prepare_arrays(dataset, SPEC), len(dataset)
    rng = np.random.default_rng(8)
    raw = {
        task.name: rng.standard_normal((count, task.channels, *((8, 8) if task.kind == "segmentation" else ()))).astype(
            np.float32
        )
        for task in TASKS
        if task.kind != "detection"
    }
    answers = RawAnswers(raw, {"things": [np.zeros((0, 6), np.float32)] * count})
    setting = setting_of(np.arange(count), 100)
    scale = {"side": ((20.0,), (5.0,))}

    for task in TASKS:
        found = measure_task(task, answers, arrays, (), scale, setting)

        assert found[0].main, task.name
        assert all(measure.task == task.name for measure in found)
    raw["corner"][3, 1] = np.nan
    with pytest.raises(FoveolaError, match=r"task 'corner': the answers to 1 of 16 cases are not finite"):
        measure_task(dataset.task("corner"), answers, arrays, (), scale, setting)


def test_forgetting_is_the_best_score_so_far_less_the_last() -> None:
    history = [
        Epoch(0, 0.1, {}, 0.0, {"a": 0.2}, task="a"),
        Epoch(1, 0.1, {}, 0.0, {"a": 0.8, "b": -0.1}, task="b"),
        Epoch(2, 0.1, {}, 0.0, {"a": 0.6, "b": 0.5}, task="a"),
    ]

    assert forgetting(history) == pytest.approx({"a": 0.2, "b": 0.0})
    assert forgetting([]) == {}
