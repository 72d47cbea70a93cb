"""Knobs that training functions share; torch-free, so that recipes are read and planned quickly."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from ..runtime.manifest import InputSpec

Share = Annotated[float, Meta(ge=0, le=1)]
Count = Annotated[int, Meta(gt=0)]
Whole = Annotated[int, Meta(ge=0)]
Above = Annotated[float, Meta(gt=0)]
NotNegative = Annotated[float, Meta(ge=0)]
Optimizer = Literal["adamw", "adam", "sgd"]
ClassLesson = Literal["kd", "dist", "dkd"]
ValueLesson = Literal["close", "bounded", "uncertain"]
MaskLesson = Literal["pixels", "channels", "both"]
BoxLesson = Literal["boxes", "scores"]
Hint = Literal["cosine", "similarity", "attention"]
TaskWeights = Literal["fixed", "learned"]


class Augment(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """How far pictures are varied; zero switches a variation off.

    Args:
        rotate: degrees, both ways.
        scale: share of the size, both ways.
        shift: share of the width, both ways.
        brightness: added, both ways, in units of the 0..1 range.
        contrast: share, both ways.
        noise: largest standard deviation of added noise.
        flip: mirror left and right; only where no answer depends on the side.
    """

    rotate: float = 7.0
    scale: float = 0.1
    shift: float = 0.04
    brightness: float = 0.1
    contrast: float = 0.15
    noise: float = 0.02
    flip: bool = False


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """The knobs of the loop.

    Args:
        epochs: passes over the training images.
        batch_size: images a step, over all devices.
        learning_rate: the largest.
        optimizer: `adamw`, `adam` (its weight decay is L2, as in MoCo-CXR) or `sgd`.
        momentum: of SGD.
        weight_decay: on matrices and kernels only.
        schedule: `cosine` rises for the warm-up and falls to zero along a cosine; `constant` rises and stays.
        warmup: share of all steps in which the rate rises.
        clip: largest gradient norm; 0 for none.
        ema: decay of the moving average that is validated and kept; 0 keeps the weights themselves.
        patience: epochs without a better validation score after which the training ends; 0 never ends it early.
        augment: variation of the pictures.
    """

    epochs: int
    batch_size: int
    learning_rate: float
    optimizer: Optimizer = "adamw"
    momentum: float = 0.9
    weight_decay: float = 0.05
    schedule: Literal["cosine", "constant"] = "cosine"
    warmup: float = 0.1
    clip: float = 5.0
    ema: float = 0.99
    patience: int = 0
    augment: Augment = Augment()


class Shape(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The knobs of an architecture; see `Architecture`."""

    backbone: str
    input: InputSpec
    width: int
    mask_stride: Literal[4, 8] = 8
    box_stride: Literal[4, 8] = 8
    output_stride: Literal[8, 16, 32] = 32


class Lessons(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """How a teacher's answers enter a student's loss (see `compress.distill`).

    Args:
        soft_weight: share of the teacher's lesson in each task's loss.
        temperature: by which logits are softened.
        hint_weight: weight of the feature hint; 0 for none.
        class_lesson: `kd`, divergence of softened answers; `dist`, their correlation; `dkd`, decoupled divergence.
        value_lesson: `close` to the teacher's value, `bounded` by the teacher's error, or `uncertain`, with a variance
            that is learned.
        mask_lesson: divergence pixel by pixel (`pixels`), of each channel over the picture (`channels`), or `both`.
        box_lesson: the teacher's sure `boxes` as if annotated, or all of them with its `scores` as targets.
        hint: features are compared by `cosine` after a projection, or without one by the `similarity` of the images
            of a batch, or by their `attention` maps.
        hint_foreground: share of the hint that counts only where the teacher sees boxes.
        relation_weight: weight of distances and angles between the features of a batch's images; 0 for none.
        embedding_cosine: weight of the direction of an embedding; an embedding learns from its teacher alone, so
            `soft_weight` does not touch it.
        embedding_mse: weight of its numbers.
        embedding_relation: weight of the cosines between the images of a batch.
        task_weights: `fixed`, those of the tasks, or `learned` beside them.
        unlabelled: train images without any target teach too, through the teacher's answers.
    """

    soft_weight: Share = 0.7
    temperature: Above = 2.0
    hint_weight: NotNegative = 0.5
    class_lesson: ClassLesson = "kd"
    value_lesson: ValueLesson = "close"
    mask_lesson: MaskLesson = "pixels"
    box_lesson: BoxLesson = "boxes"
    hint: Hint = "cosine"
    hint_foreground: Share = 0.0
    relation_weight: NotNegative = 0.0
    embedding_cosine: NotNegative = 1.0
    embedding_mse: NotNegative = 0.5
    embedding_relation: NotNegative = 1.0
    task_weights: TaskWeights = "fixed"
    unlabelled: bool = True
