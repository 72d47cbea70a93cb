"""The whole story of a search: share what all trials rest on, look at candidates, draw the front, confirm, report.

    found = search(draft, Path("runs"), Wish(budget=("latency_ms=25",)), voice)
    found.winner, found.page, found.exit_code

Killed at any point, the same call goes on: finished trials are kept in the study, finished steps in their folders, and
the trial that was under way goes on with its last epoch.
"""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import msgspec
import optuna

from ...devices.efficiency import Efficiency
from ...devices.profile import load_profile
from ...runtime.errors import ExitCode, FoveolaError
from .. import pipeline
from ..data.dataset import Dataset
from ..plan import SHORT, make_plan, run_folder
from ..progress import Progress
from ..proof.provenance import here
from ..recipe import DATA, Recipe
from ..stages.data import dataset_of
from ..work import Work
from .budget import Budget, cost_of, parse_budget
from .check import check_space
from .confirm import Confirmed, check_closed, confirm, read_look
from .cost import Meter, measures_here
from .draft import Draft
from .front import Standing, nearest, standings
from .judge import Reference
from .quiet import Quiet
from .report import Account, write_report
from .row import Row
from .section import Sampler, Search
from .study import identity_of, open_study, read_rows
from .trial import Site
from .worker import begin, counted, slot, work

Latency = Literal["auto", "measured", "predicted"]
LAYERS = "layers"  # attribute of the study: the shares from which latencies are predicted
POLL_S = 2.0  # between two looks whether the leader has made the shared steps


class Wish(msgspec.Struct, frozen=True, kw_only=True):
    """What the caller wants of a search beside its recipe.

    Args:
        budget: `latency_ms=25,size_mb=8`; empty: the device's.
        trials: candidates in all; None: as the recipe says.
        finalists: likewise.
        sampler: likewise.
        storage: of the study; empty: a journal file in the search's folder.
        latency: measured here, predicted, or as it comes.
        confirm: False leaves the test split alone.
        join: only work at trials; somebody else leads.
        helpers: command lines of further workers, started once the shared steps are there.
    """

    budget: tuple[str, ...] = ()
    trials: int | None = None
    finalists: int | None = None
    sampler: Sampler | None = None
    storage: str = ""
    latency: Latency = "auto"
    confirm: bool = True
    join: bool = False
    helpers: tuple[tuple[str, ...], ...] = ()


class Found(msgspec.Struct, frozen=True, kw_only=True):
    """What a search has found."""

    recipe: str
    device: str
    folder: Path
    budget: Budget
    timing: str  # how latencies were found
    trials: tuple[Standing, ...]
    finalists: tuple[Confirmed, ...] = ()
    page: Path | None = None

    @property
    def winner(self) -> Confirmed | None:
        """The fastest finalist that passes."""
        return next((one for one in self.finalists if one.winner), None)

    @property
    def exit_code(self) -> ExitCode:
        """Of the command: the best that a finalist reached; done where nothing was confirmed."""
        verdicts = {one.verdict for one in self.finalists if one.verdict is not None}
        if self.winner is not None or not self.finalists:
            return ExitCode.DONE
        return ExitCode.UNDERPOWERED if "underpowered" in verdicts else ExitCode.PROOF_FAILED


def search(draft: Draft, runs: Path, wish: Wish, voice: Progress) -> Found:
    """Search, or go on with a search; see the module.

    Args:
        draft: the recipe that is varied (`read_draft`).
        runs: folder of all runs.
        wish: budget and the like.
        voice: who is told.

    Raises:
        FoveolaError: a value of the space or the budget is wrong, the search was begun otherwise, no candidate keeps
            the budget and its margins (the nearest is named).
    """
    draft = _wished(draft, wish)
    device = load_profile(draft.recipe.device)
    budget = parse_budget(wish.budget, device)
    check_space(draft)
    measures_here(device, wish.latency)
    base = run_folder(runs, draft.recipe)
    share(draft, runs, voice, patient=wish.join)
    folder = base / f"search-{Path(draft.recipe.device).stem}"
    try:
        with slot(folder / "workers") as number, Quiet(folder / "workers") as quiet:
            site = site_of(draft, budget, base, folder, number, wish, quiet, voice)
            study = _study(site, number, wish)
            timing = _agree(site, study)
            _look(site, study, number, wish)
            found = _found(site, study, timing)
            return found if wish.join else _conclude(site, study, found, runs, wish)
    finally:
        voice.close()


def _study(site: Site, number: int, wish: Wish) -> optuna.study.Study:
    draft = site.draft
    return open_study(
        f"{draft.recipe.name}/{Path(draft.recipe.device).stem}",
        wish.storage,
        site.folder,
        draft.search.sampler,
        draft.recipe.seed * 1009 + number,
        identity_of(draft, site.budget, timing_of(site), site.dataset.digest[:SHORT]),
        trials=draft.search.trials,
    )


def _wished(draft: Draft, wish: Wish) -> Draft:
    given = {name: value for name in ("trials", "finalists", "sampler") if (value := getattr(wish, name)) is not None}
    return msgspec.structs.replace(draft, search=msgspec.structs.replace(draft.search, **given))


def share(draft: Draft, runs: Path, voice: Progress, *, patient: bool = False) -> None:
    """Do what every trial begins with: data, protocol and teacher; a worker that joins waits for the leader."""
    shared = draft.shared
    while True:
        if all(planned.why == "reused" for planned in make_plan(shared, runs)):
            return
        try:
            pipeline.run(shared, runs, voice)
            return
        except FoveolaError as error:
            if not patient or "another run" not in error.fault:
                raise
        time.sleep(POLL_S)


def site_of(
    draft: Draft, budget: Budget, base: Path, folder: Path, number: int, wish: Wish, quiet: Quiet, voice: Progress
) -> Site:
    """All that trials need, from the shared steps."""
    shared = draft.shared
    plan = {planned.step.name: planned for planned in make_plan(shared, base.parent)}
    cache = base / "cache"
    cache.mkdir(exist_ok=True)
    dataset = dataset_in(shared, plan[DATA].folder, cache, voice)
    teacher = plan[draft.roles.teacher]
    bundle = next(step.stage for step in draft.recipe.steps if step.name == draft.roles.bundle)
    return Site(
        draft=draft,
        budget=budget,
        folder=folder,
        base=base,
        runs=folder / "workers" / str(number),
        dataset=dataset,
        meter=Meter(
            load_profile(draft.recipe.device),
            getattr(bundle, "engines", ()),
            getattr(bundle, "precisions", ()),
            latency=wish.latency,
            cache=cache,
            quiet=quiet,
        ),
        reference=Reference(dataset, teacher.folder, teacher.digest, cache),
        quiet=quiet,
        voice=voice,
    )


def dataset_in(recipe: Recipe, data: Path, cache: Path, voice: Progress) -> Dataset:
    """The data set of a recipe whose data step is done."""
    work = Work(
        step="search",
        digest="",
        folder=data,
        inputs={},
        digests={},
        data=data,
        cache=cache,
        recipe=recipe,
        reporter=voice,
    )
    return dataset_of(work)


def timing_of(site: Site) -> str:
    """How latencies are found; times that were measured on another processor are not one's own."""
    return f"measured on {_processor()}" if site.meter.here else f"predicted for {site.meter.device.id}"


def _agree(site: Site, study: optuna.study.Study) -> str:
    """Let all workers predict from the same measured layers, those of the first; how latencies are found, in words."""
    if site.meter.here:
        return timing_of(site)
    kept = study.user_attrs.get(LAYERS)
    if kept is None:
        kept = {"processor": _processor(), "efficiency": msgspec.to_builtins(site.meter.shares())}
        study.set_user_attr(LAYERS, kept)
    site.meter.efficiency = msgspec.convert(kept["efficiency"], Efficiency)
    return f"{timing_of(site)} from layers measured on {kept['processor']}"


def _processor() -> str:
    return here().hardware["processor"]


def _look(site: Site, study: optuna.study.Study, number: int, wish: Wish) -> None:
    """Look at candidates until there are enough of them, with as many workers as are wanted."""
    look, wanted = read_look(study), site.draft.search.trials
    check_closed(look, wanted if wish.trials is not None else 0, site.folder)
    if look is not None:
        return
    begin(study, site.draft)
    helpers = [_help(line, site.folder, place) for place, line in enumerate(wish.helpers)]
    try:
        work(site, study, number, wanted)
        for helper in helpers:
            site.quiet.breathe()
            while helper.poll() is None:
                site.quiet.breathe()
                time.sleep(0.2)
        if helpers:
            work(site, study, number, wanted)  # what a helper that died has left
    finally:
        for helper in helpers:
            helper.terminate()


def _help(line: Sequence[str], folder: Path, place: int) -> subprocess.Popen[bytes]:
    """Start another worker; what it says goes into a file."""
    with (folder / "workers" / f"helper-{place + 1}.log").open("ab") as log:
        return subprocess.Popen(line, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=dict(os.environ))


def _found(site: Site, study: optuna.study.Study, timing: str) -> Found:
    return Found(
        recipe=site.draft.recipe.name,
        device=site.draft.recipe.device,
        folder=site.folder,
        budget=site.budget,
        timing=timing,
        trials=standings([_nameless(row) for row in read_rows(study)], site.budget, site.draft.search),
    )


def _nameless(row: Row) -> Row:
    """A row without the name of the machine that ran it."""
    return msgspec.structs.replace(row, worker=row.worker.rpartition(":")[2])


def _conclude(site: Site, study: optuna.study.Study, found: Found, runs: Path, wish: Wish) -> Found:
    """Write the account, confirm, and write it again with the verdicts."""
    found = write_found(found, site.draft.search)
    look, rows = read_look(study), [standing.row for standing in found.trials]
    chosen = [standing.row for standing in found.trials if standing.finalist]
    if look is not None:
        chosen = [row for row in rows if row.number in look.finalists]
    if not chosen:
        raise _none(site, nearest(rows, site.budget, site.draft.search))
    if not wish.confirm:
        return found
    chosen.sort(key=lambda row: cost_of(row.cost, site.budget.figure) or 0.0 if row.cost else 0.0)
    proved = confirm(site, study, chosen, counted(rows), runs)
    found = write_found(msgspec.structs.replace(found, finalists=tuple(proved)), site.draft.search)
    if all(one.verdict is None for one in proved):
        best = max(proved, key=lambda one: min(one.slacks.values(), default=1.0))
        raise _none(
            site, f"no finalist of {len(rows)} candidates keeps it; the nearest is trial {best.number}: {best.why}"
        )
    return found


def _none(site: Site, fault: str) -> FoveolaError:
    place = f"--budget {','.join(f'{name}={value:g}' for name, value in site.budget.limits.items())}"
    return FoveolaError(place, fault, "raise the budget, train longer, or widen the space")


def write_found(found: Found, section: Search) -> Found:
    """Write `trials.jsonl`, `found.json`, `front.svg` and `search.html`."""
    account = Account(
        recipe=found.recipe,
        device=found.device,
        budget=found.budget,
        timing=found.timing,
        trials=found.trials,
        finalists=found.finalists,
        search=section,
    )
    return msgspec.structs.replace(found, page=write_report(account, found.folder))
