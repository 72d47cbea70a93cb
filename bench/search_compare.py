"""Is a search worth its trials? Samplers against each other and against the recipe as it is written.

    python bench/search_compare.py demo-search --runs runs --out compare --trials 16 --seeds 3
    python bench/search_compare.py demo-search --out tiny --trials 2 --seeds 1 --samplers random

Every sampler proposes the same number of candidates from each seed, under one budget; none begins with the recipe as it
is written, which stands apart as the hand-written candidate. A candidate is trained once, whoever proposes it, and its
row is kept in `table.jsonl`: the samplers thus meet the same training noise, and the seeds vary the proposals alone.
Nothing is stopped early, or a row would depend on who came before. Whoever proposes a candidate pays a trial for it,
also where the table has it.

Told are the share of the box between free and the budget, and between a slack and 1, that each front dominates; the
fastest candidate that keeps its margins; and the best slack within the budget. Nothing is confirmed: the test split is
not looked at.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from collections.abc import Sequence
from pathlib import Path

import msgspec

from foveola.devices.profile import load_profile
from foveola.toolkit.plan import run_folder
from foveola.toolkit.progress import make_progress
from foveola.toolkit.recipe import find_recipe
from foveola.toolkit.search.budget import Budget, cost_of, parse_budget
from foveola.toolkit.search.draft import Draft, read_draft
from foveola.toolkit.search.front import hypervolume
from foveola.toolkit.search.quiet import Quiet
from foveola.toolkit.search.row import Row
from foveola.toolkit.search.search import Wish, share, site_of, timing_of
from foveola.toolkit.search.section import Sampler, Scalar
from foveola.toolkit.search.space import named, own_values
from foveola.toolkit.search.study import identity_of, open_study, read_rows, tell
from foveola.toolkit.search.trial import Site, run_trial
from foveola.toolkit.search.worker import propose, said

SAMPLERS: tuple[Sampler, ...] = ("tpe", "nsga2", "random")


class Table:
    """Rows by what was proposed, kept on disk."""

    def __init__(self, path: Path) -> None:
        self.path = path
        lines = path.read_bytes().splitlines() if path.exists() else []
        self.rows = {_key(row.values): row for row in (msgspec.json.decode(line, type=Row) for line in lines)}

    def find(self, site: Site, row: Row) -> Row:
        """The row of a candidate; trained where nobody has proposed it yet."""
        known = self.rows.get(_key(row.values))
        if known is None:
            numbered = msgspec.structs.replace(row, number=len(self.rows))  # names its recipe's folder
            known = run_trial(site, numbered, lambda: (), lambda _: None)
            self.rows[_key(row.values)] = known
            with self.path.open("ab") as stream:
                stream.write(msgspec.json.encode(known) + b"\n")
            print(said(known), named(known.values), file=sys.stderr, flush=True)
        return msgspec.structs.replace(known, number=row.number)


def _key(values: dict[str, Scalar]) -> str:
    return msgspec.json.encode(values, order="sorted").decode()


def search_once(site: Site, table: Table, sampler: Sampler, seed: int, trials: int, out: Path) -> list[Row]:
    """Search once with one sampler; goes on where it was."""
    draft, name = site.draft, f"{sampler}-{seed}"
    identity = identity_of(draft, site.budget, timing_of(site), site.dataset.digest[:12]) | {
        "sampler": sampler,
        "seed": seed,
    }
    study = open_study(name, str(out / "studies.log"), out, sampler, seed, identity, trials=trials)
    while sum(row.state not in ("failed", "repeated") for row in read_rows(study)) < trials:
        proposed = propose(study, draft, name)
        if proposed is None:
            break
        trial, row = proposed
        tell(study, trial, table.find(site, row), site.budget)
    return [row for row in read_rows(study) if row.state not in ("failed", "repeated")]


class Score(msgspec.Struct, frozen=True):
    """What one search has found."""

    volume: float
    fastest: float | None  # that keeps its margins, in the budget's figure
    slack: float | None  # the best within the budget
    trained: int


def score(rows: Sequence[Row], budget: Budget, floor: float) -> Score:
    """Sum up one search."""
    within = [row for row in rows if row.state == "done" and row.cost is not None and not budget.over(row.cost)]
    prices = [
        price
        for row in within
        if row.cost is not None and (row.slack or 0.0) >= floor
        if (price := cost_of(row.cost, budget.figure)) is not None
    ]
    return Score(
        volume=hypervolume(rows, budget, floor=floor),
        fastest=min(prices, default=None),
        slack=max((row.slack or 0.0 for row in within), default=None),
        trained=sum(row.state == "done" for row in rows),
    )


def markdown(scores: dict[str, list[Score]], budget: Budget, floor: float) -> str:
    """A table: a line a sampler, mean and standard deviation over its seeds."""
    lines = [
        f"| who proposes | share of the box (slack above {floor:g}) | fastest at that slack, {budget.figure} "
        "| best slack within the budget | trained of the trials |",
        "|---|---:|---:|---:|---:|",
    ]
    for name, found in scores.items():
        columns = (
            _spread([one.volume for one in found]),
            _spread([one.fastest for one in found]),
            _spread([one.slack for one in found]),
            _spread([float(one.trained) for one in found], digits=1),
        )
        lines.append(f"| {name} | {' | '.join(columns)} |")
    return "\n".join(lines)


def _spread(values: Sequence[float | None], digits: int = 3) -> str:
    known = [value for value in values if value is not None]
    if not known:
        return "none"
    spread = f" ± {statistics.stdev(known):.{digits}f}" if len(known) > 1 else ""
    missing = f" ({len(known)} of {len(values)})" if len(known) < len(values) else ""
    return f"{statistics.mean(known):.{digits}f}{spread}{missing}"


def main() -> None:
    """Read the command line, search, print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipe")
    parser.add_argument("--runs", type=Path, default=Path("runs"))
    parser.add_argument("--out", type=Path, default=Path("compare"))
    parser.add_argument("--device", default="")
    parser.add_argument("--budget", action="append", default=[])
    parser.add_argument("--trials", type=int, default=16)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--samplers", default=",".join(SAMPLERS))
    parser.add_argument("--floor", type=float, default=0.0, help="least slack that counts")
    parser.add_argument("--set", dest="changes", action="append", default=[])
    given = parser.parse_args()

    draft = read_draft(find_recipe(given.recipe), (*given.changes, "search.stop=false"), given.device)
    budget = parse_budget(given.budget, load_profile(draft.recipe.device))
    given.out.mkdir(parents=True, exist_ok=True)
    voice = make_progress()
    share(draft, given.runs, voice)
    site = site_of(draft, budget, run_folder(given.runs, draft.recipe), given.out, 1, Wish(), Quiet(None), voice)
    table = Table(given.out / "table.jsonl")

    scores = {"the recipe as written": [_hand(site, table, draft, given.floor)]}
    for sampler in SAMPLERS:
        if sampler in given.samplers.split(","):
            runs = [search_once(site, table, sampler, seed, given.trials, given.out) for seed in range(given.seeds)]
            scores[sampler] = [score(rows, budget, given.floor) for rows in runs]
    print(
        f"\n{given.trials} trials each, {given.seeds} seeds, {timing_of(site)}; {len(table.rows)} candidates trained\n"
    )
    print(markdown(scores, budget, given.floor))


def _hand(site: Site, table: Table, draft: Draft, floor: float) -> Score:
    values = own_values(draft)
    if values is None:
        raise SystemExit("the recipe as written lies outside its space")
    return score([table.find(site, Row(number=0, values=values))], site.budget, floor)


if __name__ == "__main__":
    main()
