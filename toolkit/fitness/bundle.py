"""The rule for a bundle that is being made: found with the artefacts that ship, and told beside its core."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from ...export.features import FEATURES
from ...runtime.engine import Session
from ...runtime.fitness.manifest import Fitness
from ...runtime.manifest import EngineName, InputSpec
from ..data.dataset import Dataset
from ..json_files import write_json
from .find import find_fitness
from .knobs import FITNESS, FitnessKnobs


def bundle_fitness(
    wanted: FitnessKnobs | None,
    sessions: Mapping[EngineName, Session],
    dataset: Dataset,
    spec: InputSpec,
    folder: Path,
    progress: Callable[[float, float, str], None],
) -> Fitness | None:
    """Find which images are fit, and write `fitness.json`; nothing where nothing is wanted.

    Args:
        wanted: the recipe's word.
        sessions: of the forms that ship, the first one's features are those of the statistics.
        dataset: its training and validation images.
        spec: the network's input.
        folder: where the account goes.
        progress: called with (done, total, text), from 0.8 to 0.9 of 1.

    Raises:
        FoveolaError: too few images.
    """
    if wanted is None:
        return None
    fitness, account = find_fitness(
        wanted.kind,
        dataset,
        spec,
        {engine: session.run for engine, session in sessions.items()},
        FEATURES if wanted.novelty else "",
        false_alarms=wanted.false_alarms,
        progress=lambda done, total, text: progress(0.8 + 0.1 * done / total, 1, text),
    )
    write_json(folder / FITNESS, account)
    return fitness
