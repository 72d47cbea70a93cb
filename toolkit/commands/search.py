"""`foveola search`: the fastest student that passes, found under a device's budget."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from .parts import example, json_option, recipe_argument, runs_option, say_json, set_option, stdout_for_results

if TYPE_CHECKING:
    from ..search.search import Found


@click.command(
    epilog=example(
        "foveola search demo-search",
        "foveola search chest-xray-search --device intel-n100 --budget latency_ms=25,size_mb=8 --trials 40",
        "foveola search chest-xray-search --storage postgresql://db/search --join",
    )
)
@recipe_argument
@click.option(
    "--device", default="", metavar="ID", help="Device that it is for (`foveola devices`); else the recipe's."
)
@click.option(
    "--budget",
    "budget",
    multiple=True,
    metavar="NAME=NUMBER,...",
    help="latency_ms and size_mb; the first one is made small. Else the device's own.",
)
@click.option("--trials", type=click.IntRange(min=1), help="Candidates in all; else as the recipe says.")
@click.option(
    "--finalists", type=click.IntRange(min=1), help="How many are confirmed at most; else as the recipe says."
)
@click.option("--sampler", type=click.Choice(["tpe", "nsga2", "random"]), help="Who proposes; else as the recipe says.")
@click.option(
    "--latency",
    type=click.Choice(["auto", "measured", "predicted"]),
    default="auto",
    show_default=True,
    help="`auto` measures where this machine is such a device, and else predicts.",
)
@click.option(
    "--workers", type=click.IntRange(min=1, max=64), default=1, show_default=True, help="Processes on this machine."
)
@click.option("--storage", default="", metavar="URL|FILE", help="Study for workers on many machines; else in the run.")
@click.option("--join", is_flag=True, help="Only work at the trials of a search that somebody else leads.")
@click.option("--confirm/--no-confirm", default=True, help="Prove the finalists on the test split, which is seen once.")
@set_option
@runs_option
@json_option
def search(
    recipe: str,
    device: str,
    budget: tuple[str, ...],
    trials: int | None,
    finalists: int | None,
    sampler: str | None,
    latency: str,
    workers: int,
    storage: str,
    join: bool,
    confirm: bool,
    changes: tuple[str, ...],
    runs: Path,
    as_json: bool,
) -> int:
    """Search for the fastest student that passes.

    RECIPE has a `search:` section: what may vary, how short a trial is, how many finalists there are. Data and teacher
    are made once. Each candidate is costed untrained (over the budget: not trained), trained shortly, stopped where
    that is hopeless, and held against the teacher on the validation images. The fastest of the Pareto front are trained
    at full length and proved on the test split, which the search never saw; the exit code is the best verdict (0 pass,
    3 fail, 6 underpowered). Stopped at any point, the same command goes on from there.
    """
    import msgspec

    from ...runtime.errors import UsageError
    from ..progress import make_progress
    from ..recipe import find_recipe
    from ..search.draft import read_draft
    from ..search.search import Wish
    from ..search.search import search as run_search

    if join and workers > 1:
        raise UsageError("--workers", "one process joins", "start the command once for each worker")
    wanted = {
        "budget": budget,
        "trials": trials,
        "finalists": finalists,
        "sampler": sampler,
        "storage": storage,
        "latency": latency,
        "confirm": confirm,
        "join": join,
        "helpers": [_helper()] * (workers - 1),
    }
    _share_cores(workers)
    with stdout_for_results():
        draft = read_draft(find_recipe(recipe), changes, device)
        found = run_search(draft, runs, msgspec.convert(wanted, Wish), make_progress())
    if as_json:
        say_json(_as_json(found))
    elif not join:
        _show(found)
    return found.exit_code


def _helper() -> list[str]:
    """Give the same command as another worker: it only joins."""
    words = sys.argv[1:]
    for place in [place for place, word in enumerate(words) if word == "--workers"]:
        words[place : place + 2] = ["--workers=1", "--join"]
    words = ["--workers=1" if word.startswith("--workers=") else word for word in words]
    return [sys.executable, "-m", "foveola.toolkit", *words, *([] if "--join" in words else ["--join"])]


def _share_cores(workers: int) -> None:
    """Give each worker its share of the cores; helpers inherit it."""
    if workers > 1:
        import torch

        threads = max(1, (os.cpu_count() or 1) // workers)
        os.environ["OMP_NUM_THREADS"] = os.environ["MKL_NUM_THREADS"] = str(threads)
        torch.set_num_threads(threads)


def _as_json(found: Found) -> dict[str, object]:
    import msgspec

    winner = found.winner
    return {
        "recipe": found.recipe,
        "device": found.device,
        "folder": found.folder,
        "budget": dict(found.budget.limits),
        "latency": found.timing,
        "trials": msgspec.to_builtins(found.trials),
        "front": [one.row.number for one in found.trials if one.front],
        "finalists": msgspec.to_builtins(found.finalists, enc_hook=str),
        "winner": None if winner is None else winner.number,
        "winner_recipe": None if winner is None else winner.recipe,
        "bundle": None if winner is None else winner.bundle,
        "report": found.page,
        "exit_code": int(found.exit_code),
    }


def _show(found: Found) -> None:
    """Print the front, the finalists and where everything lies."""
    from rich.console import Console

    from ..search.table import final_table, trial_table

    console = Console(highlight=False)
    console = console if console.is_terminal else Console(highlight=False, width=120)
    console.print(trial_table(found.trials, found.budget))
    if found.finalists:
        console.print(final_table(found.finalists))
    winner = found.winner
    if winner is not None:
        click.echo(f"winner  trial {winner.number}  {winner.recipe}")
        click.echo(f"bundle  {winner.bundle}")
    click.echo(f"latency {found.timing}")
    click.echo(f"report  {found.page}")
