"""The whole story of the rule: look at good images, take their spreads, set the limits, try the rule, write it down.

Spreads, the average picture and the features' statistics come from training images, limits from validation images;
images of the proof are not looked at.

    fitness, account = find_fitness("radiograph", dataset, spec, {"onnxruntime": session.run}, tensor, ...)
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import msgspec
import numpy as np
from numpy.typing import NDArray

from ...runtime.errors import FoveolaError
from ...runtime.fitness.manifest import Fitness, FitnessKind, Novelty, Trial
from ...runtime.fitness.novelty import Distance
from ...runtime.manifest import InputSpec
from ..data.dataset import Dataset
from ..parity.bands import groups_of
from .limits import WORST, Array, bounds_of, excess, least_images, limit_of, spreads_of
from .seen import Run, Seen, look_at, measures_of, template_of
from .spoil import FAULTS
from .statistics import fit_novelty
from .trials import STRANGERS, Judge, Limits, crossed, halves_of, run_trials
from .ungradable import Ungradable, ungradable

TYPICAL, LIMITING, TRIED = 400, 1000, 48  # images at most: of training, of validation, and of these spoiled
LEAST_TYPICAL = 20
PLACE = "fitness"


class Account(msgspec.Struct, frozen=True, kw_only=True):
    """What was found beside the rule itself, for the report: how often good images are refused, and whose.

    Args:
        ungradable: by engine; the limits were set without the image's patient.
        groups: of the first engine, by attribute and value.
    """

    ungradable: dict[str, Ungradable]
    groups: dict[str, dict[str, Ungradable]]


def find_fitness(
    kind: FitnessKind,
    dataset: Dataset,
    spec: InputSpec,
    runs: Mapping[str, Run],
    tensor: str,
    *,
    false_alarms: float,
    progress: Callable[[float, float, str], None],
) -> tuple[Fitness, Account]:
    """Find the rule for a bundle.

    Args:
        kind: of the pictures.
        dataset: its splits `train` and `val`.
        spec: the network's input.
        runs: engine -> run of its artefact, the first that of the statistics.
        tensor: output with the features; empty leaves the novelty out.
        false_alarms: share of good images that may be refused.
        progress: called with (done, total, text).

    Raises:
        FoveolaError: too few images.
    """
    check_images(dataset, false_alarms, novelty=bool(tensor))
    share = false_alarms / 2 if tensor else false_alarms
    first = dict(list(runs.items())[:1])
    typical = _look(dataset.subset("train"), kind, spec, first, tensor, TYPICAL, _counted(progress, 0.0, 0.3))
    seen = _look(dataset.subset("val"), kind, spec, runs, tensor, LIMITING, _counted(progress, 0.3, 0.5))
    template = template_of(typical.small, kind)
    spreads = spreads_of(measures_of(typical.small, kind, template), kind)
    found = np.array([excess(one, spreads, kind) for one in measures_of(seen.small, kind, template)])
    found = np.minimum(found, WORST)
    limit = limit_of(found, share, PLACE)
    novelty, distances = _novelty(typical, seen, tensor, share)
    halves = halves_of(seen.patients)
    outside = _outside(found, distances, halves, share)
    judge = Judge(
        kind=kind,
        template=template,
        spreads=spreads,
        spec=spec,
        distance=Distance(novelty) if novelty is not None else None,
        run=next(iter(runs.values()), None),
    )
    good = next(iter(outside.values()))
    fitness = Fitness(
        kind=kind,
        bounds=bounds_of(spreads, limit, kind),
        template=template.astype("<f4").tobytes(),
        novelty=novelty,
        false_alarms=false_alarms,
        typical=len(typical),
        images=len(seen),
        alarms=int((good > 1).sum()),
        trials=_trials(judge, seen, _limits(found, distances, halves, share), good, progress),
    )
    return fitness, _account(outside, seen)


def _trials(
    judge: Judge, seen: Seen, own: Sequence[Limits], good: Array, progress: Callable[[float, float, str], None]
) -> tuple[Trial, ...]:
    """Try the rule on some of the validation images, spoiled; they stand first among the good ones."""
    tried = _spread_over(len(seen), TRIED)
    order = [*tried, *(place for place in range(len(seen)) if place not in set(tried))]
    faults = FAULTS[judge.kind]
    return run_trials(
        judge,
        faults,
        [seen.copies[place] for place in tried],
        [seen.patients[place] for place in order],
        [own[place] for place in tried],
        good[order],
        _counted(progress, 0.5, 1.0, len(faults) * len(tried) + STRANGERS),
    )


def check_images(dataset: Dataset, false_alarms: float, *, novelty: bool) -> None:
    """See whether there are enough images.

    Raises:
        FoveolaError: too few of training, or too few of validation for so small a share of false alarms.
    """
    train, val = len(dataset.subset("train")), len(dataset.subset("val"))
    if train < LEAST_TYPICAL:
        raise FoveolaError(PLACE, f"{train} images in split 'train', {LEAST_TYPICAL} are needed", "add images")
    least = least_images(false_alarms / 2 if novelty else false_alarms)
    if val < least:
        fault = f"{val} images in split 'val', {least} are needed for {false_alarms:g} false alarms"
        raise FoveolaError(PLACE, fault, "add images, or allow more false alarms")


def _look(
    dataset: Dataset,
    kind: FitnessKind,
    spec: InputSpec,
    runs: Mapping[str, Run],
    tensor: str,
    most: int,
    step: Callable[[], None],
) -> Seen:
    seen = look_at(dataset, kind, spec, runs, tensor, most=most, step=step)
    if not len(seen):
        raise FoveolaError(PLACE, "no image can be read", "see `foveola data check`")
    return seen


def _counted(
    progress: Callable[[float, float, str], None], start: float, end: float, count: int = TYPICAL
) -> Callable[[], None]:
    done = 0

    def step() -> None:
        nonlocal done
        done += 1
        progress(start + (end - start) * min(done / count, 1.0), 1, "finding which images are fit")

    return step


def _novelty(typical: Seen, seen: Seen, tensor: str, share: float) -> tuple[Novelty | None, dict[str, Array]]:
    """Fit the statistics, and give each engine's distances of the validation images."""
    if not tensor or not seen.features:
        return None, {}
    fitted = fit_novelty(next(iter(typical.features.values())), tensor)
    distance = Distance(fitted)
    found = {
        engine: np.array([distance({tensor: row[None]}) for row in features])
        for engine, features in seen.features.items()
    }
    limits = {engine: limit_of(values, share, PLACE) for engine, values in found.items()}
    return msgspec.structs.replace(fitted, limits=limits), found


def _limits(found: Array, distances: Mapping[str, Array], halves: NDArray[np.intp], share: float) -> list[Limits]:
    """Give each validation image the limits that it had no part in, for the first engine."""
    outer = crossed(found, halves, share, PLACE)
    if not distances:
        return [Limits(excess=one) for one in outer.tolist()]
    inner = crossed(next(iter(distances.values())), halves, share, PLACE)
    return [Limits(excess=a, novelty=b) for a, b in zip(outer.tolist(), inner.tolist(), strict=True)]


def _outside(found: Array, distances: Mapping[str, Array], halves: NDArray[np.intp], share: float) -> dict[str, Array]:
    """Say by engine how far outside each validation image is; above 1 it would be refused."""
    measured = found / crossed(found, halves, share, PLACE)
    if not distances:
        return {"": measured}
    return {
        engine: np.maximum(measured, values / crossed(values, halves, share, PLACE))
        for engine, values in distances.items()
    }


def _spread_over(count: int, most: int) -> list[int]:
    places: list[int] = np.unique(np.linspace(0, count - 1, min(count, most)).round().astype(int)).tolist()
    return places


def _account(outside: Mapping[str, Array], seen: Seen) -> Account:
    first = next(iter(outside.values())) > 1
    return Account(
        ungradable={engine: ungradable(values > 1, seen.patients) for engine, values in outside.items()},
        groups={
            name: {
                value: ungradable(first[members], [seen.patients[place] for place in np.flatnonzero(members)])
                for value, members in groups_of(name, values)
            }
            for name, values in seen.attributes.items()
        },
    )
