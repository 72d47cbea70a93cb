"""Quantisation-aware training: a student learns with the rounding of its int8 graph, and ships as that very graph.

- What is trained is the exported float graph with fake quantisers where `quantize` puts the real ones, so the int8
  graph that is written of it afterwards has the same operators and quantisers as without this training.
- Branches are merged and batch normalisation is folded first (`Structure`): what is rounded in training is what is
  rounded on the device (Jacob et al., CVPR 2018, sec. 3.2).
- The activations' ranges start from calibration and are learned (LSQ, Esser et al., ICLR 2020); they go into
  `ranges.json`, which `quantize` takes instead of calibrating.
- The teacher's answers and the reference standard teach as in distillation, but for features, which a graph has not.
- The int8 graph itself decides on the validation images: a training that left the worst task worse changes nothing.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import msgspec
import onnx
import torch

from ...export.calibrate import Method, write_ranges
from ...export.fake_quant import QuantisedGraph, Steps
from ...export.quantize import Calibrated, Overflow, WeightBits, calibrate_graph, layers_named
from ...runtime.errors import FoveolaError
from ..answers import answer_images, rescaled
from ..checkpoint import Epoch
from ..course import Course, Report, Scores
from ..data.arrays import prepare_arrays
from ..data.dataset import Dataset, calibration_set
from ..finished import HISTORY, LOCKED, lock_teacher
from ..fit import fit, forget, make_fabric
from ..json_files import write_json
from ..knobs import Plan
from ..models.network import Network, load_network, save_network
from ..score import score_answers
from ..supervision import check_splits, labelled, training_data
from ..train import input_scale
from ..variants.slack import worst
from ..workers import leads
from .go_on import Guide, keep_records
from .lessons import TAUGHT
from .overflow import spread
from .qat_judge import Judge, Worth
from .qat_network import (
    GraphNetwork,
    Quantised,
    export_float,
    folded_copy,
    put_into_graph,
    put_weights,
    shared_weights,
)
from .quantise import FLOAT_GRAPH, RANGES

QAT = "qat.json"
HANDED_ON = ("pruned.json", "rehearsed.json", TAUGHT)


class Rounding(msgspec.Struct, frozen=True, kw_only=True):
    """How the int8 graph rounds, and which images set the ranges that the training starts from; as of `quantize`.

    Args:
        opset: of the graph.
        weight_bits: of the device.
        overflow: the cure where they are 7.
        float_layers: layers that stay float beside the last of each head.
        steps: whether the activations' steps are learned, follow an average of the batches' extremes, or stay fixed.
        split: whose images are calibrated on.
        images: at most so many of them.
        min_images: fewer are refused.
        method: how the first ranges are set.
    """

    opset: int
    weight_bits: WeightBits = 8
    overflow: Overflow = "fit"
    float_layers: tuple[str, ...] = ()
    steps: Steps = "learned"
    split: str = "calibration"
    images: int = 256
    min_images: int = 128
    method: Method = "minmax"


class QatRecord(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The file `qat.json`.

    Args:
        format: of this file.
        kept: whether weights and ranges are `trained`, or those of the student and of `calibration`.
        why: in words.
        before: slack of each task without training: of the int8 graph against the float network, on validation images.
        after: the same after the training; empty where there was none.
        agreement_db: signal to noise of the int8 graph's answers against the fake quantisers', the worst output; None
            where they are equal.
        steps: how the activations' steps were found.
        weight_bits: for which the weights were trained.
        overflow: likewise.
    """

    format: Literal[1] = 1
    kept: Literal["trained", "calibration"]
    why: str
    before: dict[str, float]
    after: dict[str, float]
    agreement_db: float | None
    steps: Steps
    weight_bits: WeightBits
    overflow: Overflow


def train_quantised(
    student: Path,
    dataset: Dataset,
    plan: Plan,
    rounding: Rounding,
    *,
    guide: Guide | None = None,
    only_below: float | None = None,
    folder: Path,
    cache: Path,
    seed: int,
    report: Report,
    say: Callable[[str], None],
    log: Path | None = None,
) -> QatRecord:
    """Train a student with the rounding of its int8 graph; saved as a finished step with `ranges.json` and `qat.json`.

    Args:
        student: folder of the finished student.
        dataset: train, val and calibration images.
        plan: the training; a tenth of the student's own rate does.
        rounding: of the int8 graph.
        guide: the teacher's part; None: the reference standard alone.
        only_below: train only where the worst task's slack without training is below it; None: in any case.
        folder: where the results go; a training that was cut off there goes on.
        cache: where decoded images are kept.
        seed: of everything random.
        report: progress.
        say: told in lines what was found.
        log: CSV of the curve.

    Raises:
        FoveolaError: a two-stage detector, a graph that torch cannot run, calibration images that are too few or used
            elsewhere, or a teacher that sees another part of the picture.
    """
    check_splits(dataset)
    network = folded_copy(_one_stage(load_network(student)))
    calibrated = _calibrate(network, dataset, rounding, cache)
    judge = Judge(
        network, dataset, weight_bits=rounding.weight_bits, overflow=rounding.overflow, cache=cache, report=report
    )
    before = judge.worth(calibrated)
    say(f"int8 without training: {_told(before)}")
    graph = _graph(network, calibrated, rounding)
    after, history = None, list[Epoch]()
    if only_below is None or before.least < only_below:
        history = _fit(
            network, graph, dataset, plan, guide, folder=folder, cache=cache, seed=seed, report=report, log=log
        )
        learned = _learned(calibrated, graph)
        after = judge.worth(learned)
        say(f"int8 after training: {_told(after)}")
        if after.rank >= before.rank:
            calibrated = learned
        else:
            graph = _graph(network, calibrated, rounding)
    put_weights(network, graph.weights())
    record = _record(before, after, judge.agreement(calibrated, graph), rounding, only_below)
    say(f"kept: {record.why}")
    if leads():
        keep_records(student, folder, HANDED_ON)
        _save(network, graph, record, history, dataset, folder, cache)
    return record


def _one_stage(network: Network) -> Network:
    """The network, whose outputs all have losses of their own.

    Raises:
        FoveolaError: a two-stage detector, which chooses its proposals on the way.
    """
    plan = network.architecture
    if plan.role == "teacher" and any(task.kind == "detection" for task in plan.tasks):
        fault = "a two-stage detector cannot be trained as a graph"
        raise FoveolaError("qat", fault, "quantize it without, or distil a student")
    return network


def _calibrate(network: Network, dataset: Dataset, rounding: Rounding, cache: Path) -> Calibrated:
    """Export the float graph and measure the first ranges, just as `quantize` does."""
    chosen = calibration_set(dataset, rounding.split, rounding.images, rounding.min_images)
    arrays = prepare_arrays(chosen, network.input, cache=cache)
    with tempfile.TemporaryDirectory() as scratch:
        path = Path(scratch) / FLOAT_GRAPH
        origins = export_float(network, path, rounding.opset)
        return calibrate_graph(
            path,
            spread(arrays, len(arrays)),
            method=rounding.method,
            float_layers=layers_named(onnx.load(path).graph, origins, rounding.float_layers),
            min_images=rounding.min_images,
        )


def _graph(network: Network, calibrated: Calibrated, rounding: Rounding) -> QuantisedGraph:
    shared = shared_weights(network, calibrated.model)
    return QuantisedGraph(
        calibrated,
        weight_bits=rounding.weight_bits,
        overflow=rounding.overflow,
        steps=rounding.steps,
        trained=lambda name: name in shared,
    )


def _fit(
    network: Network,
    graph: QuantisedGraph,
    dataset: Dataset,
    plan: Plan,
    guide: Guide | None,
    *,
    folder: Path,
    cache: Path,
    seed: int,
    report: Report,
    log: Path | None,
) -> list[Epoch]:
    """Train the graph in place; its validation is that of its fake quantisers."""
    answers, scale = None, 1.0
    if guide is not None:
        scale = input_scale(guide.input, network.input)
        answers = rescaled(guide.answers, guide.scale, network.target_scale)
    data, names = training_data(network, dataset, cache, report, answers, scale)
    train, val = dataset.subset("train"), dataset.subset("val")
    everything = guide is not None and guide.lessons.unlabelled
    arrays = prepare_arrays(val.take(labelled(val)), network.input, cache=cache)

    def validate(candidate: torch.nn.Module) -> Scores:
        assert isinstance(candidate, GraphNetwork)
        device = next(candidate.parameters()).device
        found = answer_images(candidate.eval(), arrays.images, hint=False, device=device)
        return score_answers(candidate.tasks, found, arrays, candidate.target_scale)

    course = Course(data, validate, plan, names=names, places=None if everything else labelled(train))
    objective = Quantised(GraphNetwork(network, graph), None if guide is None else guide.lessons)
    # Rounding to a grid of 8 bits means nothing in numbers of 8 bits themselves: no bf16.
    history = fit(objective, course, seed=seed, folder=folder, report=report, log=log, fabric=make_fabric("32-true"))
    objective.cpu()
    return history


def _learned(calibrated: Calibrated, graph: QuantisedGraph) -> Calibrated:
    """The graph as it was trained."""
    model = put_into_graph(calibrated.model, graph.weights())
    return msgspec.structs.replace(calibrated, model=model, ranges=graph.ranges())


def _told(worth: Worth) -> str:
    task, least = worst(worth.slacks)
    return f"worst slack {least:.2f} ({task or 'no task'}), mean score {worth.score:.3f}"


def _record(
    before: Worth, after: Worth | None, agreement_db: float | None, rounding: Rounding, only_below: float | None
) -> QatRecord:
    kept: Literal["trained", "calibration"] = "calibration"
    if after is None:
        why = f"without training the worst slack is {before.least:.2f}, at least {only_below} as asked"
    else:
        kept = "trained" if after.rank >= before.rank else "calibration"
        chosen = "those of the training" if kept == "trained" else "those before the training"
        why = f"{chosen}; worst slack {before.least:.2f} before it, {after.least:.2f} after"
    return QatRecord(
        kept=kept,
        why=why,
        before=before.slacks,
        after={} if after is None else after.slacks,
        agreement_db=agreement_db,
        steps=rounding.steps,
        weight_bits=rounding.weight_bits,
        overflow=rounding.overflow,
    )


def _save(
    network: Network,
    graph: QuantisedGraph,
    record: QatRecord,
    history: list[Epoch],
    dataset: Dataset,
    folder: Path,
    cache: Path,
) -> None:
    """Write the finished step; thresholds are locked on the rounded answers, which are the ones that ship."""
    save_network(network, folder)
    write_ranges(graph.ranges(), folder / RANGES)
    write_json(folder / QAT, record)
    write_json(folder / HISTORY, history)
    write_json(folder / LOCKED, lock_teacher(GraphNetwork(network, graph).eval(), dataset, cache=cache))
    forget(folder)
