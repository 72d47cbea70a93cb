"""Prune a finished network to a target, round by round, and let it recover.

Each round: channels are ranked, as many go as the round's share of the target asks for, batch normalisation is
estimated anew, and the network trains on. The last round must meet the target on the exported graph.

- Recovery is guided by a teacher where there is one, else it goes by the reference standard alone.
- Every round's network is kept until the end, so that a killed run goes on where it was and no time is taken twice.
- The pruned network takes the same input and gives the same tensors of the same shapes.

    pruned = prune_network(folder_of_student, dataset, Target("speedup", 2.0), Rule(), meter=..., ...)
"""

from __future__ import annotations

import copy
import shutil
from collections.abc import Callable
from pathlib import Path

import msgspec
import numpy as np
from numpy.typing import NDArray
from torch import nn

from ....devices.profile import Profile
from ....runtime.errors import FoveolaError
from ...answers import rescaled
from ...batches import TrainingData
from ...checkpoint import Objective
from ...course import Report, Scores
from ...data.dataset import Dataset
from ...finished import LOCKED, finish
from ...fit import Supervised
from ...knobs import Plan
from ...models.network import Network, load_network, save_network
from ...supervision import labelled, training_data, validation
from ...teachers.recalibrate import estimate_norms
from ...train import input_scale
from ...work import write_atomic
from ...workers import leads, wait_for
from ..distill import Distilled
from ..go_on import Guide, go_on
from .fit_target import Fit
from .graph import Removals, trace
from .groups import Choice, find_groups
from .importance import Importance, fill_gradients, scores
from .layers import changed_layers, layer_shapes
from .meter import Clock, Meter
from .record import Pruned, Reading, Round, Target, describe, write_pruned
from .search import MOST
from .shrink import shrink
from .widths import Scope, choose

ROUNDS, SHRUNK = "rounds", "shrunk.json"
CLOCK_IMAGES = 8

Judge = Callable[[nn.Module], Scores]
Scored = dict[str, float]


class Rule(msgspec.Struct, frozen=True, kw_only=True):
    """How channels are chosen.

    Args:
        importance: by which they are ranked.
        scope: within which.
        multiple: widths are multiples of it.
        rounds: in how many rounds the target is reached.
        norm_images: training images on which batch normalisation is estimated anew; 0 keeps its statistics.
        gradient_images: training images that give the gradients of `taylor` and `hessian`.
        keep: paths of modules that are left alone.
    """

    importance: Importance = "magnitude"
    scope: Scope = "isomorphic"
    multiple: int = 8
    rounds: int = 1
    norm_images: int = 256
    gradient_images: int = 64
    keep: tuple[str, ...] = ()


class Shrunk(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A round's network before its recovery, as it is kept beside it."""

    ratio: float
    reading: Reading | None
    left_alone: dict[str, str]
    scores: dict[str, float]


def prune_network(
    of: Path,
    dataset: Dataset,
    target: Target,
    rule: Rule,
    *,
    clock: Clock | None,
    device: Profile,
    plan: Plan | None,
    guide: Guide | None,
    folder: Path,
    cache: Path,
    seed: int,
    report: Report,
    say: Callable[[str], None],
    log: Path | None = None,
) -> Pruned:
    """Prune the network of a finished step and save it as a finished step, with `pruned.json`.

    Args:
        of: the step's folder; a student's or a teacher's network.
        dataset: with train and val cases.
        target: what is to be reached.
        rule: how channels are chosen.
        clock: the form that is timed; None where the target is a ratio.
        device: the profile.
        plan: the training of each recovery; None for none.
        guide: the teacher's part in it; None: the reference standard alone.
        folder: where the results go.
        cache: where decoded images are kept.
        seed: of everything random.
        report: progress.
        say: told in a line what was found.
        log: CSV of the last recovery's curve.

    Raises:
        FoveolaError: nothing shrank, or the target cannot be met (the nearest is named).
        UsageError: no such layer in `rule.keep`.
    """
    network = load_network(of)
    whole = copy.deepcopy(network)
    data, judge = _data(network, dataset, guide, cache, report)
    places = labelled(dataset.subset("train"))
    meter = Meter(whole, clock, device, _images(data)) if clock is not None and leads() else None
    unpruned = judge(whole).by_task
    rounds: list[Round] = []
    shrunk: Shrunk | None = None
    for number in range(1, rule.rounds + 1):
        here = folder / ROUNDS / str(number)
        finished = folder if number == rule.rounds else here / "recovered"
        if leads() and not (here / SHRUNK).exists():
            report(number - 1, rule.rounds, f"round {number} of {rule.rounds}: which channels go")
            shrunk, thin = _shrink(
                network,
                target,
                rule,
                meter,
                lambda one: _gradients(one, data, places, rule, guide),
                part=number / rule.rounds,
                reached=shrunk.reading.speedup if shrunk and shrunk.reading else 1.0,
            )
            _settle(thin, data, rule.norm_images)
            _keep(thin, msgspec.structs.replace(shrunk, scores=judge(thin).by_task), here)
        wait_for(here / SHRUNK)
        shrunk = msgspec.json.decode((here / SHRUNK).read_bytes(), type=Shrunk)
        _tell(shrunk, number, rule.rounds, say)
        if (finished / LOCKED).exists():
            network = load_network(finished)
        else:
            network = load_network(here)
            own = seed + number - 1
            _recover(network, dataset, plan, guide, folder=finished, cache=cache, seed=own, report=report, log=log)
        recovered = judge(network.eval()).by_task if plan is not None else {}
        speedup = shrunk.reading.speedup if shrunk.reading else None
        rounds.append(Round(ratio=shrunk.ratio, speedup=speedup, pruned=shrunk.scores, recovered=recovered))
    assert shrunk is not None
    record = _account(whole, network.cpu(), target, rule, tuple(rounds), shrunk, unpruned)
    if leads():
        write_pruned(record, folder)
        shutil.rmtree(folder / ROUNDS)
    say(describe(record))
    return record


def _data(
    network: Network, dataset: Dataset, guide: Guide | None, cache: Path, report: Report
) -> tuple[TrainingData, Judge]:
    """Training images with a teacher's answers to them, and the validation."""
    if guide is None:
        data, _ = training_data(network, dataset, cache, report)
    else:
        scale = input_scale(guide.input, network.input)
        answers = rescaled(guide.answers, guide.scale, network.target_scale)
        data, _ = training_data(network, dataset, cache, report, answers, scale)
    return data, validation(dataset, network, cache, report)


# --- one round ---


def _shrink(
    network: Network,
    target: Target,
    rule: Rule,
    meter: Meter | None,
    gradients: Callable[[Network], None],
    *,
    part: float,
    reached: float,
) -> tuple[Shrunk, Network]:
    """Rank the channels and take as many as the target asks for.

    Args:
        network: as the round before left it.
        target: of all rounds.
        rule: how channels are chosen.
        meter: times what comes out; None where the target is a ratio.
        gradients: fills those that the importance asks for.
        part: of the target that is to be reached by this round, 1 in the last.
        reached: speed-up of the rounds before.

    Raises:
        FoveolaError: nothing shrank, or the last round misses the target.
    """
    if rule.importance != "magnitude":
        gradients(network)
    choice = find_groups(network, trace(network), rule.keep)
    marks = scores(choice.groups, rule.importance)
    network.zero_grad(set_to_none=True)

    def at(ratio: float) -> Removals:
        return choose(choice.groups, marks, ratio, rule.scope, rule.multiple)

    if meter is None:
        ratio = 1 - (1 - target.value) ** (1 / rule.rounds)  # each round takes the same share of what is left
        if not at(ratio):
            raise _nothing_shrank(ratio, rule, choice)
        return Shrunk(ratio=ratio, reading=None, left_alone=choice.left, scores={}), shrink(network, at(ratio))
    if not at(MOST):
        raise _nothing_shrank(MOST, rule, choice)
    fit = Fit(network, at, meter, target)
    ratio, reading = fit.nearest(part, reached)
    thin = shrink(network, at(ratio)) if ratio else network
    if part == 1 and _count(thin) == _count(meter.unpruned):  # a target so near that the whole network meets it
        raise _nothing_shrank(ratio, rule, choice)
    return Shrunk(ratio=ratio, reading=reading, left_alone=choice.left, scores={}), thin


def _nothing_shrank(ratio: float, rule: Rule, choice: Choice) -> FoveolaError:
    widest = max((group.width for group in choice.groups), default=0)
    fault = f"nothing shrank at {ratio:.0%} of the channels"
    if not choice.groups:
        return FoveolaError("prune", f"{fault}: every layer is left alone", "name fewer layers in keep")
    fault += f": {len(choice.groups)} groups of at most {widest} channels keep multiples of {rule.multiple}"
    return FoveolaError("prune", fault, "ask for more, or give a smaller channel_multiple")


def _images(data: TrainingData) -> NDArray[np.float32]:
    """A few images for the clock, spread over all."""
    return np.array(data.images[_spread(np.arange(len(data)), CLOCK_IMAGES)], dtype=np.float32)


def _spread(places: NDArray[np.int64], most: int) -> NDArray[np.int64]:
    return np.asarray(places[np.linspace(0, len(places) - 1, min(most, len(places))).round().astype(np.int64)])


def _gradients(
    network: Network, data: TrainingData, places: NDArray[np.int64], rule: Rule, guide: Guide | None
) -> None:
    """Through the objective that the recovery has."""
    hint = 0 if guide is None or guide.answers.hint is None else guide.answers.hint.shape[1]
    objective: Objective = (
        Supervised(network) if guide is None else Distilled(network, guide.lessons, hint_channels=hint)
    )
    fill_gradients(objective, data, _spread(places, rule.gradient_images), rule.importance)


def _settle(network: Network, data: TrainingData, images: int) -> None:
    """Estimate the statistics of batch normalisation anew, since other channels come in."""
    if images:
        estimate_norms(network, data, _spread(np.arange(len(data)), images))
    network.eval()


def _keep(network: Network, shrunk: Shrunk, here: Path) -> None:
    here.mkdir(parents=True, exist_ok=True)
    save_network(network, here)
    write_atomic(here / SHRUNK, msgspec.json.encode(shrunk))


def _recover(
    network: Network,
    dataset: Dataset,
    plan: Plan | None,
    guide: Guide | None,
    *,
    folder: Path,
    cache: Path,
    seed: int,
    report: Report,
    log: Path | None,
) -> None:
    """Train on, or only lock thresholds anew where there is no recovery."""
    folder.mkdir(parents=True, exist_ok=True)
    if plan is None:
        finish(network, dataset, [], folder, cache)
        return
    go_on(network, dataset, plan, guide=guide, folder=folder, cache=cache, seed=seed, report=report, log=log)


def _tell(shrunk: Shrunk, number: int, rounds: int, say: Callable[[str], None]) -> None:
    which = f"round {number} of {rounds}: " if rounds > 1 else ""
    took = f"{which}{shrunk.ratio:.0%} of the channels asked for"
    if shrunk.reading is not None:
        took += f", {shrunk.reading.speedup:.2f} times faster ({shrunk.reading.source})"
    worst = min(shrunk.scores.items(), key=lambda pair: pair[1], default=None)
    say(took + (f"; worst task before recovery: {worst[0]} {worst[1]:.3f}" if worst else ""))


def _account(
    whole: Network, thin: Network, target: Target, rule: Rule, rounds: tuple[Round, ...], last: Shrunk, unpruned: Scored
) -> Pruned:
    before, after = layer_shapes(whole), layer_shapes(thin)
    return Pruned(
        target=target,
        reading=last.reading,
        importance=rule.importance,
        scope=rule.scope,
        multiple=rule.multiple,
        rounds=rounds,
        unpruned=unpruned,
        channels=(sum(one.outputs for one in before.values()), sum(one.outputs for one in after.values())),
        parameters=(_count(whole), _count(thin)),
        macs=(sum(one.macs for one in before.values()), sum(one.macs for one in after.values())),
        layers=changed_layers(before, after),
        left_alone=last.left_alone,
    )


def _count(network: Network) -> int:
    return sum(one.numel() for one in network.parameters())
