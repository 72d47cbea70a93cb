"""The final: the fastest candidates at full length, proved on the test split that the search never saw.

- Each finalist is trained at full length and judged on the validation images once more; who is over the budget or has
  lost a margin there is not proved at all.
- The test split is looked at once. Who is proved, and at which error, is written down before; a search that was
  confirmed takes no further trials: a second look at the same patients would have another error than the protocol's.
- k finalists share the protocol's error: each is proved at alpha / k (Bonferroni), so that the chance that any finalist
  passes wrongly stays below alpha. Holm's procedure would ask less of the second one only after the first has passed,
  and then the first is the answer.
- The winner is the fastest finalist that passes.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import msgspec
import optuna

from ...runtime.errors import FoveolaError
from .. import pipeline
from ..parity.evidence import Verdict
from ..proof.judge import REPORT
from ..recipe import Recipe
from ..ship import CORE
from .budget import cost_of
from .draft import Draft
from .pool import lend
from .row import Cost, Row
from .space import named
from .trial import Site, judge_step

CONFIRMED, TRAINED = "confirmed", "trained-"  # attributes of the study; the second one for each finalist


class Look(msgspec.Struct, frozen=True, kw_only=True):
    """The one look at the test split: who was proved and at which error, written down before."""

    finalists: tuple[int, ...]
    alpha: float  # of each
    trials: int  # that had been looked at by then


class Trained(msgspec.Struct, frozen=True, kw_only=True):
    """A finalist after its full training: cost, and slack by task on the validation images."""

    number: int
    cost: Cost
    slacks: dict[str, float]


class Confirmed(msgspec.Struct, frozen=True, kw_only=True):
    """One finalist.

    Args:
        number: of its trial.
        verdict: of the proof at the shared error; None where it was not proved.
        cost: after full training.
        slacks: likewise, on the validation images.
        why: why it was not proved; empty: it was.
        missed: primary endpoints that did not pass, with the reason.
        recipe: file of the candidate at full length.
        report: of the proof.
        bundle: signed, of the winner alone.
        winner: whether it is the fastest that passes.
    """

    number: int
    verdict: Verdict | None = None
    cost: Cost
    slacks: dict[str, float]
    why: str = ""
    missed: tuple[str, ...] = ()
    recipe: Path
    report: Path | None = None
    bundle: Path | None = None
    winner: bool = False


def read_look(study: optuna.study.Study) -> Look | None:
    """What was written down before the test split was looked at; None where it was not yet."""
    kept = study.user_attrs.get(CONFIRMED)
    return None if kept is None else msgspec.convert(kept, Look)


def check_closed(look: Look | None, trials: int, place: Path) -> None:
    """Refuse further trials once the test split was looked at.

    Raises:
        FoveolaError: more are asked for than there were.
    """
    if look is not None and trials > look.trials:
        fault = f"confirmed after {look.trials} trials; the test split is looked at once"
        raise FoveolaError(str(place), fault, "begin another search with other test patients")


def confirm(site: Site, study: optuna.study.Study, rows: Sequence[Row], trials: int, runs: Path) -> list[Confirmed]:
    """Train the finalists at full length, prove who may be proved, and sign the winner.

    Args:
        site: where trials were run.
        study: remembers the full trainings and the look.
        rows: the finalists, fastest first; the same as at an earlier look.
        trials: that were looked at.
        runs: folder of all runs, in which the finalists are run.
    """
    entered = [_entered(site, study, row, runs) for row in rows]
    look = read_look(study)
    if look is None:
        fit = tuple(one.number for one in entered if not one.why)
        if not fit:
            return entered
        look = Look(finalists=fit, alpha=_alpha(site.draft) / len(fit), trials=trials)
        study.set_user_attr(CONFIRMED, msgspec.to_builtins(look))
    by_number = {row.number: row for row in rows}
    proved = [
        _prove(site, by_number[one.number], one, look.alpha, runs) if one.number in look.finalists else one
        for one in entered
    ]
    figure = site.budget.figure
    passing = [one for one in proved if one.verdict == "pass"]
    best = min(passing, key=lambda one: cost_of(one.cost, figure) or 0.0, default=None)
    return [_signed(site, by_number[one.number], one, look.alpha, runs) if one is best else one for one in proved]


def _alpha(draft: Draft) -> float:
    stage = next(step.stage for step in draft.recipe.steps if step.name == draft.roles.protocol)
    return float(getattr(stage, "alpha", 0.025))


def _entered(site: Site, study: optuna.study.Study, row: Row, runs: Path) -> Confirmed:
    """Train a finalist at full length where its trial was shorter, and judge it; measured once and then remembered."""
    path = site.folder / "finals" / f"{row.number:04d}.yaml"
    kept = study.user_attrs.get(f"{TRAINED}{row.number}")
    if kept is not None:
        trained = msgspec.convert(kept, Trained)
    else:
        recipe = _recipe(site, row, path, None)
        for source in sorted((site.folder / "workers").glob(f"*/{recipe.name}")):
            lend(recipe, source, runs)
        student = site.draft.roles.student
        outcome = pipeline.run(_until(recipe, student), runs, _Named(site, row.number))
        cost, slacks = judge_step(site, next(step.folder for step in outcome.steps if step.step == student))
        trained = Trained(number=row.number, cost=cost, slacks=slacks)
        study.set_user_attr(f"{TRAINED}{row.number}", msgspec.to_builtins(trained))
    why = _unfit(site, trained)
    return Confirmed(number=row.number, cost=trained.cost, slacks=trained.slacks, why=why, recipe=path)


def _unfit(site: Site, trained: Trained) -> str:
    """Why a finalist is not proved; empty where it is."""
    over = site.budget.over(trained.cost)
    if over:
        return f"over the budget: {over}"
    task = min(trained.slacks, key=lambda name: trained.slacks[name], default="")
    least = site.draft.search.least_slack
    if task and trained.slacks[task] < least:
        return (
            f"{task} has {trained.slacks[task]:.2f} of its margin left on the validation images, {least:g} is asked for"
        )
    return ""


def _recipe(site: Site, row: Row, path: Path, alpha: float | None) -> Recipe:
    shared = "" if alpha is None else f"; alpha {alpha:g}"
    told = f"Finalist {row.number} of the search over {site.draft.recipe.name}: {named(row.values)}{shared}."
    return site.draft.read(site.draft.whole(row.values, alpha=alpha), path, told)


def _prove(site: Site, row: Row, one: Confirmed, alpha: float, runs: Path) -> Confirmed:
    recipe = _recipe(site, row, one.recipe, alpha)
    roles = site.draft.roles
    outcome = pipeline.run(_until(recipe, roles.proof), runs, _Named(site, row.number))
    proof = next(found for found in outcome.proofs if found.step == roles.proof)
    missed = [e for e in proof.evidence.endpoints if e.primary and e.verdict != "pass"]
    return msgspec.structs.replace(
        one,
        verdict=proof.evidence.verdict,
        missed=tuple(f"{' '.join(filter(None, (e.engine, e.task, e.label, e.metric)))}: {e.reason}" for e in missed),
        report=proof.folder / REPORT,
    )


def _signed(site: Site, row: Row, one: Confirmed, alpha: float, runs: Path) -> Confirmed:
    """Run what the recipe has after the proof: the signature, and whatever follows."""
    recipe = _recipe(site, row, one.recipe, alpha)
    outcome = pipeline.run(recipe, runs, _Named(site, one.number))
    signed = [path for path in outcome.find("*.foveola") if path.name != CORE]
    reports = outcome.find(REPORT)
    return msgspec.structs.replace(
        one, winner=True, bundle=signed[-1] if signed else None, report=reports[-1] if reports else one.report
    )


def _until(recipe: Recipe, last: str) -> Recipe:
    """The recipe up to one step, in its order."""
    names = [step.name for step in recipe.steps]
    return msgspec.structs.replace(recipe, steps=recipe.steps[: names.index(last) + 1])


class _Named:
    """The site's voice with the finalist's number before each step, left open at the end."""

    def __init__(self, site: Site, number: int) -> None:
        self.voice, self.quiet, self.number = site.voice, site.quiet, number

    def begin(self, step: str, number: int, steps: int, reason: str) -> None:
        self.voice.begin(f"finalist {self.number}, {step}", number, steps, reason)

    def advance(self, done: float, total: float, text: str) -> None:
        self.quiet.breathe()
        self.voice.advance(done, total, text)

    def log(self, text: str) -> None:
        self.voice.log(text)

    def end(self, result: str) -> None:
        self.voice.end(result)

    def close(self) -> None:
        return None
