"""Simulated proofs whose truth is known: how often a student exactly at minus the margin passes, and one at zero.

A `Scenario` draws the material of one endpoint with a true difference that is asked for. Every draw goes through the
proof's own `pair`, `measure` and `endpoint`, so with all its hindrances and switches; only the verdict is counted.

- **false pass**: verdict `pass` at a true difference of minus the margin; it must not exceed alpha + 1 %.
- **power**: verdict `pass` at a true difference of zero with as many patients as `needed_cases` asks for (its median
  over pilot draws); planned are 80 %. Beside it the patients that a test with the true standard error would need.

Each block of runs has a random state of its own, from the seed, the scenario's name and the block's number: the number
of processes changes no figure.

    SCENARIOS = (Scenario(name="...", metric="dice", margin=0.01, patients=100, draw=partial(draw_dice, icc=0.5)),)
    if __name__ == "__main__":
        main(SCENARIOS, __doc__)
"""

from __future__ import annotations

import argparse
import json
import sys
import time
import zlib
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from math import ceil, sqrt
from pathlib import Path

import msgspec
import numpy as np
from numpy.typing import NDArray
from scipy.stats import beta, norm

from foveola.runtime.task import Task
from foveola.toolkit.parity.cases import Answers, References
from foveola.toolkit.parity.endpoints import measure
from foveola.toolkit.parity.measured import Measured, Setting, endpoint
from foveola.toolkit.parity.pairing import pair
from foveola.toolkit.parity.protocol import Rule, TaskRules
from foveola.toolkit.parity.verdict import needed_cases

Array = NDArray[np.float64]
ALPHA, POWER = 0.025, 0.8
ALLOWED = ALPHA + 0.01  # false passes
BLOCK = 50  # runs that share a random state and a process
PILOTS = 100  # draws from which the planned number of patients is taken


class Material(msgspec.Struct, frozen=True, kw_only=True):
    """One drawn proof: N cases of P patients.

    Args:
        task: with the classes; margins come from the scenario.
        references: what is true.
        teacher: the teacher's answers.
        student: the student's.
        patients: (N,) number of each case's patient, 0..P-1.
    """

    task: Task
    references: References
    teacher: Answers
    student: Answers
    patients: NDArray[np.intp]


class Scenario(msgspec.Struct, frozen=True, kw_only=True):
    """One setting with a known true difference.

    Args:
        name: unique; also its random state.
        metric: the endpoint that is judged: its whole-task row.
        margin: of non-inferiority; the true difference of the first simulation is exactly minus this.
        patients: in a draw at minus the margin.
        draw: (random state, patients, loss) -> material whose true difference is minus `loss`; a module's function or
            a `functools.partial` of one, so that it can be sent to a process.
        resamples: of the bootstrap, where the endpoint has one.
        power: whether power can be asked for (not where zero difference means equal answers).
        rules: more rules of the task; the endpoint's own are put in.
        planned: patients for the power; 0: the median that the proof itself asks for.
    """

    name: str
    metric: str
    margin: float
    patients: int
    draw: Callable[[np.random.Generator, int, float], Material]
    resamples: int = 500
    power: bool = True
    rules: TaskRules = TaskRules(endpoints={})
    planned: int = 0


class Run(msgspec.Struct, frozen=True):
    """What one draw came to: passed, the difference, the reach of the lower bound, the cases needed."""

    passed: bool
    difference: float
    reach: float
    patients_needed: float  # NaN where the proof cannot say


class Row(msgspec.Struct, frozen=True, kw_only=True):
    """One scenario's figures."""

    scenario: str
    metric: str
    margin: float
    patients: int
    runs: int
    passed: int  # of `runs` at minus the margin
    bias: float  # mean difference seen, plus the margin, in units of the margin
    width: float  # median reach of the bound over z_alpha true standard errors; 1 is ideal
    planned: int | None = None  # patients
    ideal: int | None = None  # patients that a test with the true standard error would need
    power_runs: int = 0
    power_passed: int = 0

    @property
    def interval(self) -> tuple[float, float]:
        """The 95 % Clopper-Pearson interval of the share of false passes."""
        return clopper_pearson(self.passed, self.runs)

    @property
    def verdict(self) -> str:
        """Whether the share is at or under what is allowed: `holds`, `broken`, or `open` (more runs would tell)."""
        low, high = self.interval
        return "holds" if high <= ALLOWED else "broken" if low > ALLOWED else "open"


def clopper_pearson(hits: int, runs: int, error: float = 0.05) -> tuple[float, float]:
    """Give the exact two-sided interval of a share."""
    low = float(beta.ppf(error / 2, hits, runs - hits + 1)) if hits else 0.0
    high = float(beta.ppf(1 - error / 2, hits + 1, runs - hits)) if hits < runs else 1.0
    return low, high


def judge_once(scenario: Scenario, material: Material, seed: int) -> Run:
    """Put one draw through the proof."""
    rule = Rule(margin=scenario.margin, primary=True)
    rules = msgspec.structs.replace(scenario.rules, endpoints={**scenario.rules.endpoints, scenario.metric: rule})
    task = msgspec.structs.replace(material.task, margins={scenario.metric: scenario.margin}, critical=rules.critical)
    setting = Setting(
        patients=material.patients,
        resamples=scenario.resamples,
        seed=seed,
        alpha=ALPHA,
        power=POWER,
        rules=rules,
    )
    rows, _ = measure(pair(task, material.references, material.teacher, material.student), setting)
    (measured,) = (row for row in rows if row.metric == scenario.metric and row.primary and not row.label)
    judged = endpoint("simulated", task, measured, setting)
    known = measured.difference is not None and measured.low is not None
    return Run(
        judged.verdict == "pass",
        float("nan") if measured.difference is None else measured.difference,
        measured.difference - measured.low if known else float("nan"),  # type: ignore[operator]
        _patients_needed(measured, setting),
    )


def _patients_needed(measured: Measured, setting: Setting) -> float:
    m = measured
    if m.hindrance or m.assay:
        return float("nan")
    if m.grow is not None:
        return len(np.unique(setting.patients)) * m.grow
    if m.difference is None or m.low is None:
        return float("nan")
    cases = needed_cases(m.cases, m.difference - m.low, m.margin, setting.alpha, setting.power)
    return float("nan") if cases is None else len(np.unique(setting.patients)) * cases / m.cases


def run_block(scenario: Scenario, patients: int, loss: float, runs: int, seed: tuple[int, ...]) -> list[Run]:
    """Draw and judge `runs` times."""
    rng = np.random.default_rng([*seed, zlib.crc32(scenario.name.encode())])
    return [judge_once(scenario, scenario.draw(rng, patients, loss), int(rng.integers(0, 2**31))) for _ in range(runs)]


class Bench(msgspec.Struct, frozen=True, kw_only=True):
    """How much is simulated, and where.

    Args:
        runs: at minus the margin.
        power_runs: at zero; 0 leaves power out.
        seed: of everything.
        pool: processes; None runs here.
    """

    runs: int
    power_runs: int
    seed: int = 0
    pool: ProcessPoolExecutor | None = None

    def simulate(self, scenario: Scenario, patients: int, loss: float, runs: int, part: int) -> list[Run]:
        """Run all blocks of one part (0 false passes, 1 pilots, 2 power) of a scenario."""
        sizes = [min(BLOCK, runs - start) for start in range(0, runs, BLOCK)]
        seeds = [(self.seed, part, k) for k in range(len(sizes))]
        several = [scenario] * len(sizes), [patients] * len(sizes), [loss] * len(sizes), sizes, seeds
        blocks = self.pool.map(run_block, *several) if self.pool else map(run_block, *several)
        return [run for block in blocks for run in block]

    def row(self, scenario: Scenario) -> Row:
        """Simulate one scenario."""
        at_margin = self.simulate(scenario, scenario.patients, scenario.margin, self.runs, 0)
        differences = np.array([run.difference for run in at_margin])
        reaches = np.array([run.reach for run in at_margin])
        error = float(np.nanstd(differences))
        row = Row(
            scenario=scenario.name,
            metric=scenario.metric,
            margin=scenario.margin,
            patients=scenario.patients,
            runs=self.runs,
            passed=sum(run.passed for run in at_margin),
            bias=float(np.nanmean(differences)) / scenario.margin + 1.0,
            width=float(np.nanmedian(reaches)) / (float(norm.ppf(1 - ALPHA)) * error) if error > 0 else float("nan"),
        )
        if not (scenario.power and self.power_runs):
            return row
        planned = scenario.planned or self._planned(scenario)
        at_zero = self.simulate(scenario, planned, 0.0, self.power_runs, 2)
        spread = float(np.nanstd([run.difference for run in at_zero]))
        z = float(norm.ppf(1 - ALPHA) + norm.ppf(POWER))
        return msgspec.structs.replace(
            row,
            planned=planned,
            ideal=ceil(planned * (z * spread / scenario.margin) ** 2),
            power_runs=self.power_runs,
            power_passed=sum(run.passed for run in at_zero),
        )

    def _planned(self, scenario: Scenario) -> int:
        """Take the median of what pilot studies ask for; twice, because a far extrapolation is a poor one."""
        patients = scenario.patients
        for part in (1, 3):
            pilots = self.simulate(scenario, patients, 0.0, PILOTS, part)
            needed = [run.patients_needed for run in pilots if np.isfinite(run.patients_needed)]
            patients = max(10, ceil(float(np.median(needed)))) if needed else patients
        return patients


def markdown(rows: Iterable[Row]) -> str:
    """Give the table for the docs."""
    lines = [
        "| scenario | endpoint | margin | patients | false pass (95 %) | | width | planned / ideal | power |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        low, high = row.interval
        false = f"{row.passed / row.runs:.1%} ({low:.1%} to {high:.1%}) | {row.verdict}"
        power = sizes = ""
        if row.planned is not None:
            share = row.power_passed / row.power_runs
            power = f"{share:.0%} ± {1.96 * sqrt(share * (1 - share) / row.power_runs):.0%}"
            sizes = f"{row.planned} / {row.ideal}"
        lines.append(
            f"| {row.scenario} | {row.metric} | {row.margin:g} | {row.patients} | "
            f"{false} | {row.width:.2f} | {sizes} | {power} |"
        )
    return "\n".join(lines)


def main(scenarios: Sequence[Scenario], about: str | None) -> None:
    """Simulate the scenarios asked for, print the table; progress goes to stderr. Exit code 1 when a row is broken."""
    parser = argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=4000, help="at minus the margin, a scenario")
    parser.add_argument("--power-runs", type=int, default=1000, help="at zero; 0 leaves power out")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--jobs", type=int, default=1, help="processes")
    parser.add_argument("--only", default="", help="scenarios whose name or endpoint holds this text")
    parser.add_argument("--json", type=Path, help="write the figures there too")
    options = parser.parse_args()
    chosen = [one for one in scenarios if options.only in one.name or options.only == one.metric]
    if not chosen:
        parser.error(f"--only {options.only!r} names none of: {', '.join(one.name for one in scenarios)}")
    rows = []
    with ProcessPoolExecutor(options.jobs) as pool:
        bench = Bench(
            runs=options.runs,
            power_runs=options.power_runs,
            seed=options.seed,
            pool=pool if options.jobs > 1 else None,
        )
        for number, scenario in enumerate(chosen, 1):
            start = time.monotonic()
            rows.append(bench.row(scenario))
            row, took = rows[-1], time.monotonic() - start
            found = f"false pass {row.passed / row.runs:.1%} {row.verdict}, width {row.width:.2f}"
            power = f"power {row.power_passed / max(row.power_runs, 1):.0%} with {row.planned} / {row.ideal} patients"
            print(
                f"{number}/{len(chosen)} {scenario.metric} {scenario.name}: {found}, {power}, {took:.0f} s",
                file=sys.stderr,
            )
    print(markdown(rows))
    if options.json:
        options.json.write_text(json.dumps([msgspec.to_builtins(row) for row in rows], indent=1) + "\n")
    sys.exit(any(row.verdict == "broken" for row in rows))
