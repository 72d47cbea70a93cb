"""Metrics of masks and boxes; see `metrics.py` for the rules.

Masks are compared image by image at the network's input size, without its padding. Dice and IoU of a structure are the
mean over images, those of a task the mean over structures; an image in which neither side has the structure counts 1.
mIoU averages the background too (methods as in MTPret's lung masks). Boxes follow COCO's rules (`parity/detection.py`).
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ...runtime.answer import probabilities
from ...runtime.task import Task
from ..data.masks import IGNORE
from ..parity.by_class import mean_known
from ..parity.cases import Array, ratio
from ..parity.detection import IOU, ClassMatches, average_precision, match_class, replicate_precision
from ..parity.measured import Setting, too_few
from .measure import BOOTSTRAP, Measure, bootstrapped, drawn_sums, patients_of, said, started, unseen

BACKGROUND = "background"
IOUS = tuple(round(0.5 + 0.05 * step, 2) for step in range(10))  # 0.5, 0.55 .. 0.95, as COCO averages them


class Overlaps(msgspec.Struct, frozen=True, kw_only=True):
    """Pixels by image and layer (N, 1 + C), background first; NaN where the reference is not known."""

    shared: Array
    found: Array
    wanted: Array

    @property
    def dice(self) -> Array:
        """2 |P and Y| / (|P| + |Y|), 1 where both are empty."""
        return _or_one(2 * self.shared, self.found + self.wanted)

    @property
    def iou(self) -> Array:
        """|P and Y| / |P or Y|, 1 where both are empty."""
        return _or_one(self.shared, self.found + self.wanted - self.shared)


def mask_overlaps(task: Task, raw: NDArray[np.float32], target: NDArray[np.uint8], limits: Sequence[float]) -> Overlaps:
    """Count pixels.

    Args:
        task: segmentation.
        raw: (N, K, h, w) logits; brought to the target's size, bilinear.
        target: (N, H, W) labels, or (N, C, H, W) of 0 and 1 where not exclusive; 255 is ignored.
        limits: (C,) thresholds where not exclusive; empty means 0.5.
    """
    counts = np.full((3, len(target), len(task.classes) + 1), np.nan)
    least = np.array(limits or (0.5,) * len(task.classes))[:, None, None]
    for place, (logits, wanted) in enumerate(zip(raw, target, strict=True)):
        height, width = wanted.shape[-2:]
        grid = np.stack([_resized(one, (width, height)) for one in logits])
        if task.exclusive:
            known = np.broadcast_to(wanted != IGNORE, (len(task.classes), height, width))
            layers = np.arange(1, len(task.classes) + 1)[:, None, None]
            answer, truth = grid.argmax(axis=0) == layers, wanted == layers
        else:
            known, truth = wanted != IGNORE, wanted == 1
            answer = probabilities(task, grid[None])[0] >= least
        for layer, (seen, yes, true) in enumerate(zip(known, answer, truth, strict=True), 1):
            if seen.any():
                counts[:, place, layer] = (yes & true & seen).sum(), (yes & seen).sum(), (true & seen).sum()
        everywhere = known.all(axis=0)
        if everywhere.any():
            empty, none = ~answer.any(axis=0) & everywhere, ~truth.any(axis=0) & everywhere
            counts[:, place, 0] = (empty & none).sum(), empty.sum(), none.sum()
    return Overlaps(shared=counts[0], found=counts[1], wanted=counts[2])


def measure_masks(
    task: Task, raw: NDArray[np.float32], target: NDArray[np.uint8], limits: Sequence[float], setting: Setting
) -> list[Measure]:
    """Dice (main), mIoU, and both of each structure; arguments as `mask_overlaps`, N cases of `setting.patients`."""
    overlaps = mask_overlaps(task, raw, target, limits)
    structures = [k for k in range(1, len(task.classes) + 1) if np.nansum(overlaps.wanted[:, k])]
    known = ~np.isnan(overlaps.wanted)
    if not known[:, 1:].any():
        return []
    layers = [k for k in (0, *structures) if known[:, k].any()]
    with_any = [patients_of(np.nan_to_num(overlaps.wanted[:, k]) > 0, setting) for k in structures]
    absent = [name for k, name in enumerate(task.classes, 1) if k not in structures]
    note = said(
        f"not in the mean, since no image has it: {', '.join(absent)}" if absent else "",
        too_few(min(with_any), "") if with_any else "the reference holds nothing to find",
    )
    rows = [
        _over_layers(task, metric, values, chosen, setting, main=metric == "dice", note=note)
        for metric, values, chosen in (("dice", overlaps.dice, structures), ("miou", overlaps.iou, layers))
    ]
    rows[0] = _nothing_found(rows[0])
    if 0 not in layers:
        gap = "without the background, which is not known where a structure is a gap"
        rows[1] = msgspec.structs.replace(rows[1], note=said(gap, rows[1].note))
    names = (BACKGROUND, *task.classes)
    for k, patients in zip(structures, with_any, strict=True):
        if len(task.classes) > 1:
            few = too_few(patients) if patients != patients_of(known[:, k], setting) else ""
            row = _over_layers(task, "dice", overlaps.dice, [k], setting, label=names[k], note=few)
            rows.append(msgspec.structs.replace(row, positives=int((overlaps.wanted[:, k] > 0).sum())))
    rows += [_over_layers(task, "iou", overlaps.iou, [k], setting, label=names[k]) for k in layers]
    return rows


def _over_layers(
    task: Task,
    metric: str,
    values: Array,
    layers: Sequence[int],
    setting: Setting,
    *,
    label: str = "",
    main: bool = False,
    note: str = "",
) -> Measure:
    """Mean over layers of the means over images; `values` (N, 1 + C) with NaN."""
    chosen = values[:, list(layers)]
    known = ~np.isnan(chosen)
    base = started(task.name, metric, np.asarray(known.any(axis=1)), setting, BOOTSTRAP, label=label, main=main)
    base = msgspec.structs.replace(base, note=note)
    if not known.any():
        return base
    drawn = drawn_sums(np.concatenate([known, np.where(known, chosen, 0.0)], axis=1).astype(np.float64), setting)
    means = ratio(drawn[:, len(layers) :], drawn[:, : len(layers)])
    value = float(mean_known(np.array([[_mean(column) for column in chosen.T]]), 1)[0])
    return bootstrapped(base, value, mean_known(means, 1), setting, span=(0.0, 1.0))


def measure_boxes(
    task: Task,
    answers: Sequence[NDArray[np.floating]],
    references: Sequence[NDArray[np.floating] | None],
    setting: Setting,
) -> list[Measure]:
    """Measure mAP at IoU 0.5 (main), AP of each class, and mAP over IoU 0.5 to 0.95.

    Args:
        task: detection.
        answers: (M, 6) an image: x1, y1, x2, y2, score, class index.
        references: (B, 5) an image: x1, y1, x2, y2, class index; None where nobody drew boxes.
        setting: the patients and the bootstrap.
    """
    known = np.array([one is not None for one in references], np.bool_)
    if not known.any():
        return []
    nothing = np.zeros((0, 6))
    truths = [nothing[:, :5] if one is None else np.asarray(one, np.float64) for one in references]
    found = [np.asarray(one, np.float64) if seen else nothing for one, seen in zip(answers, known, strict=True)]
    present = [k for k in range(len(task.classes)) if any((one[:, 4] == k).any() for one in truths)]
    base = started(task.name, "map50", known, setting, BOOTSTRAP, main=True)
    if not present:
        return [msgspec.structs.replace(base, note="the reference holds nothing to find")]
    by_iou = {iou: [match_class(found, truths, k, iou) for k in present] for iou in IOUS}
    point = {iou: np.array([average_precision(one) for one in matches]) for iou, matches in by_iou.items()}
    drawn = {
        iou: replicate_precision([matches], setting.patients, setting.resamples, setting.seed)[:, 0]
        for iou, matches in by_iou.items()
    }
    rows = [
        _precision(base, task, by_iou[IOU], present, point[IOU], drawn[IOU], setting),
        _precision(
            msgspec.structs.replace(base, metric="map", main=False),
            task,
            by_iou[IOU],
            present,
            np.mean(list(point.values()), axis=0),
            np.mean(list(drawn.values()), axis=0),
            setting,
        ),
    ]
    rows[0] = _nothing_found(rows[0])
    for k, label in enumerate(present if len(task.classes) > 1 else ()):
        row = msgspec.structs.replace(base, label=task.classes[label], main=False)
        one = slice(k, k + 1)
        rows.append(_precision(row, task, by_iou[IOU][one], [label], point[IOU][one], drawn[IOU][:, one], setting))
    return rows


def _precision(
    base: Measure,
    task: Task,
    matches: Sequence[ClassMatches],
    present: Sequence[int],
    point: Array,
    drawn: Array,
    setting: Setting,
) -> Measure:
    """Mean over classes of AP: `point` (c,), `drawn` (R, c)."""
    absent = [name for k, name in enumerate(task.classes) if k not in present] if not base.label else []
    fewest = min(patients_of(one.truths > 0, setting) for one in matches)
    note = said(
        f"not in the mean, since no image has it: {', '.join(absent)}" if absent else "",
        too_few(fewest) if fewest < base.patients else "",
    )
    base = msgspec.structs.replace(base, positives=int(sum(one.truths.sum() for one in matches)), note=note)
    right = np.any([one.hits_by_image() > 0 for one in matches], axis=0)
    wrong = np.any([one.hits_by_image() < one.truths for one in matches], axis=0)
    reach = unseen(right, wrong, fewest, setting)
    return bootstrapped(
        base, float(mean_known(point[None], 1)[0]), mean_known(drawn, 1), setting, span=(0.0, 1.0), reach=reach
    )


def _nothing_found(measure: Measure) -> Measure:
    """Say it where zero cannot be excluded."""
    if measure.value is None or (measure.low is not None and measure.low > 0):
        return measure
    return msgspec.structs.replace(measure, note=said(measure.note, "not shown to exceed zero"))


def _resized(logits: NDArray[np.float32], size: tuple[int, int]) -> NDArray[np.float32]:
    picture = Image.fromarray(np.ascontiguousarray(logits, np.float32))
    return np.asarray(picture.resize(size, Image.Resampling.BILINEAR), np.float32)


def _or_one(part: Array, whole: Array) -> Array:
    """Part by whole; 1 where the whole is empty, NaN where it is not known."""
    return np.where(np.isnan(whole), np.nan, np.divide(part, whole, out=np.ones_like(part), where=whole > 0))


def _mean(values: Array) -> float:
    known = values[~np.isnan(values)]
    return float(known.mean()) if len(known) else float("nan")
