"""One trial from its values to its row: costed untrained, trained, costed and judged; stopped wherever that decides.

Every trial leaves its recipe (`trial.yaml`, as it was run) and the same candidate at full length to the signed bundle
(`full.yaml`); both run by `foveola run`.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import msgspec

from ...runtime.errors import FoveolaError, MissingPartError
from .. import pipeline
from ..answers import RawAnswers, answer_images
from ..data.dataset import Dataset
from ..models.network import load_network
from ..plan import run_folder
from ..progress import Progress
from ..recipe import Recipe
from .budget import Budget
from .cost import Meter
from .draft import Draft
from .judge import Reference
from .pool import lend, share_cache
from .quiet import Quiet
from .row import Cost, Row
from .section import Scalar
from .space import named
from .stopping import hopeless
from .watch import HopelessError, Watch


class Site(msgspec.Struct, frozen=True, kw_only=True, eq=False):
    """Where trials are run, and by what they are judged.

    Args:
        draft: the recipe that is varied.
        budget: of the device.
        folder: of the search.
        base: run folder of the recipe, where data, protocol and teacher lie.
        runs: the worker's own folder of runs.
        dataset: the data.
        meter: finds costs.
        reference: the teacher's scores.
        quiet: holds still for the clocks of others.
        voice: who is told.
    """

    draft: Draft
    budget: Budget
    folder: Path
    base: Path
    runs: Path
    dataset: Dataset
    meter: Meter
    reference: Reference
    quiet: Quiet
    voice: Progress


def run_trial(site: Site, row: Row, rows: Callable[[], Sequence[Row]], keep: Callable[[Row], None]) -> Row:
    """Run one trial.

    Args:
        site: where.
        row: its number and values.
        rows: all trials so far, for the rule that stops.
        keep: takes each new state of the row.

    Returns:
        The row with what became of it; a refusal is a state, not an error.
    """
    start = time.monotonic()
    try:
        row = _trained(site, row, rows, keep)
    except MissingPartError:
        raise  # no fault of the candidate
    except FoveolaError as error:
        row = msgspec.structs.replace(row, state="refused", reason=str(error))
    return msgspec.structs.replace(row, seconds=round(time.monotonic() - start, 1), seen=time.time())


def _trained(site: Site, row: Row, rows: Callable[[], Sequence[Row]], keep: Callable[[Row], None]) -> Row:
    recipe = write_recipes(site.draft, row, site.folder)
    student = site.draft.roles.student
    drafted = site.meter.untrained(recipe, student, site.dataset)
    hoped = None if drafted is None else shrunk(drafted, recipe)
    if hoped is not None and (fault := site.budget.over(hoped, site.draft.search.tolerance)):
        return msgspec.structs.replace(row, state="over", cost=hoped, reason=f"over before training: {fault}")
    row = msgspec.structs.replace(row, cost=hoped)
    keep(row)
    follower = _Follower(site, row, rows, keep)
    folder = run_folder(site.runs, recipe)
    share_cache(site.base, folder)
    lend(recipe, site.base, site.runs)
    watch = Watch(site.voice, f"trial {row.number}", folder, site.quiet, follower.judge)
    try:
        outcome = pipeline.run(recipe, site.runs, watch)
    except HopelessError as given_up:
        site.voice.end("stopped")
        shutil.rmtree(given_up.folder, ignore_errors=True)
        return msgspec.structs.replace(follower.row, state="stopped", reason=given_up.reason)
    of = next(step.folder for step in outcome.steps if step.step == student)
    cost, slacks = judge_step(site, of)
    return msgspec.structs.replace(follower.row, state="done", cost=cost, slacks=slacks)


def judge_step(site: Site, of: Path) -> tuple[Cost, dict[str, float]]:
    """Cost of a finished artefact, and its slack by task against the teacher on the validation images."""
    network = load_network(of)
    val = site.reference.arrays(network.input)
    cost, answers = site.meter.trained(of, network, site.dataset, val)
    found: RawAnswers = answers if answers is not None else answer_images(network, val.images)
    return cost, site.reference.slacks(network, found, val)


class _Follower:
    """Notes a trial's slack epoch by epoch and says when to give it up."""

    def __init__(self, site: Site, row: Row, rows: Callable[[], Sequence[Row]], keep: Callable[[Row], None]) -> None:
        self.site, self.row, self.rows, self.keep = site, row, rows, keep

    def judge(self, step: str, epoch: int, epochs: int, scores: Mapping[str, float]) -> str:
        """Take an epoch's scores; a reason to stop, or none."""
        slack = min(self.site.reference.slacks_of(scores).values(), default=1.0)
        curve = [*self.row.curves.get(step, ()), round(slack, 4)]
        self.row = msgspec.structs.replace(self.row, curves={**self.row.curves, step: curve}, seen=time.time())
        self.keep(self.row)
        search = self.site.draft.search
        if not search.stop or epoch >= epochs or epoch <= search.warmup * epochs:
            return ""
        budget = self.site.budget
        within = [row for row in self.rows() if row.cost is None or not budget.over(row.cost)]
        return hopeless(curve, step, self.row.cost, within, budget.figure)


def write_recipes(draft: Draft, row: Row, folder: Path) -> Recipe:
    """Write both recipes of a trial and give the short one, checked."""
    values: dict[str, Scalar] = row.values
    own = folder / "trials" / f"{row.number:04d}"
    told = f"Trial {row.number} of the search over {draft.recipe.name}: {named(values)}"
    draft.read(draft.whole(values), own / "full.yaml", f"{told}; at full length, to the signed bundle.")
    return draft.read(draft.trial(values), own / "trial.yaml", f"{told}; as it was run.")


def shrunk(cost: Cost, recipe: Recipe) -> Cost:
    """What pruning may at best make of an untrained candidate; as it is where nothing is pruned."""
    for step in recipe.steps:
        if step.kind != "prune":
            continue
        factor = (
            float(getattr(step.stage, "speedup", 0) or 0) or 1 / (1 - float(getattr(step.stage, "ratio", 0) or 0)) ** 2
        )
        latency = None if cost.latency_ms is None else cost.latency_ms / factor
        if latency is not None and (wanted := float(getattr(step.stage, "latency_ms", 0) or 0)):
            latency = min(latency, wanted)
            factor = max(factor, (cost.latency_ms or wanted) / wanted)
        cost = msgspec.structs.replace(cost, latency_ms=latency, size_mb=cost.size_mb / factor**2)
    return cost
