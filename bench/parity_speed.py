"""The proof's bootstrap and DeLong's method beside what one would write with scikit-learn or scipy, in one run.

    python bench/parity_speed.py                        # 100,000 cases, 10,000 resamples
    python bench/parity_speed.py --quick                # a minute

The cases are made up: two models that differ a little, patients with 1 to 8 images. All contenders draw whole patients
and compute the statistic of both models on the same draw; they run in turn, several times, and medians are printed.
The slow ones are timed on a few resamples and multiplied up: the table says on how many. Before anything is timed the
replicates are held against scikit-learn on the same draws.

- **loop**: a Python loop over resamples with `roc_auc_score`, `cohen_kappa_score` and numpy's mean.
- **scipy**: `scipy.stats.bootstrap`, paired, percentiles. Dice and kappa are given to it vectorised, as sums by patient
  (its fastest form); AUC has no such form and calls scikit-learn for each resample.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ProcessPoolExecutor
from math import nan
from multiprocessing import get_context
from pathlib import Path

import msgspec
import numpy as np
from numpy.typing import NDArray
from scipy.special import expit
from scipy.stats import bootstrap
from sklearn.metrics import cohen_kappa_score, roc_auc_score

from foveola.toolkit.parity.bootstrap import BLOCK, Counts, Statistic, draw_counts, replicate, weighted_sums
from foveola.toolkit.parity.cases import sum_by_patient
from foveola.toolkit.parity.delong import compare_auc
from foveola.toolkit.parity.ranked import auc_statistic

Array = NDArray[np.float64]
Rows = NDArray[np.intp]
PREVALENCE = 0.1
GRADES = 5


class Study(msgspec.Struct, frozen=True, kw_only=True):
    """Made-up cases (N,) and what the two models say of them (N, 2).

    Args:
        patients: (N,) numbers 0..count-1.
        count: patients.
        truth: whether positive.
        scores: of the finding.
        coarse: the same scores as an 8-bit output gives them, with ties.
        reference: grades.
        decided: the grades that the models decide.
        dice: of each case's mask.
    """

    patients: NDArray[np.intp]
    count: int
    truth: NDArray[np.bool_]
    scores: Array
    coarse: Array
    reference: Array
    decided: Array
    dice: Array


class Contest(msgspec.Struct, frozen=True, kw_only=True):
    """One statistic in three forms.

    Args:
        ours: from counts (P, r) to (r, 2).
        plain: from the rows of the drawn cases to (2,).
        sums: (P, k) for scipy, vectorised; None where there is no such form.
        of_sums: totals (k, ...) to the difference of the models.
    """

    ours: Statistic
    plain: Callable[[Rows], Array]
    sums: Array | None = None
    of_sums: Callable[[Array], Array] | None = None


def main() -> None:
    """See the file's head."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", type=int, default=100_000)
    parser.add_argument("--resamples", type=int, default=10_000)
    parser.add_argument("--rounds", type=int, default=3, help="turns; medians are printed")
    parser.add_argument("--slow", type=int, default=20, help="resamples on which the slow ones are timed, a turn")
    parser.add_argument("--threads", type=int, help="of the proof's bootstrap; as many as there are cores if not given")
    parser.add_argument("--quick", action="store_true", help="10,000 cases, 1,000 resamples, one turn")
    parser.add_argument("--json", type=Path, help="write the figures there too")
    given = parser.parse_args()
    if given.quick:
        given.cases, given.resamples, given.rounds = 10_000, 1000, 1
    found: dict[str, object] = {"given": {k: v for k, v in vars(given).items() if k != "json"}}
    for alone in (False, True):
        study = make_study(given.cases, alone=alone)
        name = f"{given.cases:,} cases of {study.count:,} patients"
        found[name] = report_bootstrap(name, study, given)
    found["delong"] = report_delong([given.cases] if given.quick else [given.cases, 10 * given.cases], given.rounds)
    if given.json:
        given.json.write_text(json.dumps(found, indent=1) + "\n", "utf-8")


def make_study(cases: int, *, alone: bool, seed: int = 0) -> Study:
    """Make up cases, with one image a patient or 1 to 8."""
    rng = np.random.default_rng(seed)
    images = np.ones(cases, dtype=np.intp) if alone else 1 + rng.binomial(7, 1 / 3, cases)  # 3.3 a patient
    patients = rng.permutation(np.repeat(np.arange(cases), images)[:cases])
    count = int(patients.max()) + 1
    truth = rng.random(cases) < PREVALENCE
    noise = rng.normal(size=(cases, 1)) + 0.2 * rng.normal(size=(cases, 2))
    scores = expit(noise + 1.5 * truth[:, None] - 2.0)
    reference = rng.choice(GRADES, cases, p=[0.6, 0.15, 0.15, 0.06, 0.04]).astype(np.float64)
    decided = np.clip(np.rint(reference[:, None] + 0.5 * noise), 0, GRADES - 1)
    return Study(
        patients=patients,
        count=count,
        truth=truth,
        scores=scores,
        coarse=np.rint(scores * 255.0) / 255.0,
        reference=reference,
        decided=decided,
        dice=expit(2.0 + noise),
    )


def contests(study: Study) -> dict[str, Contest]:
    """Make the statistics of a study."""
    dice = sum_by_patient(np.column_stack([np.ones(len(study.dice)), study.dice]), study.patients, study.count)
    grades = sum_by_patient(moments(study.reference, study.decided), study.patients, study.count)

    def areas(scores: Array) -> Contest:
        return Contest(
            ours=auc_statistic(study.truth, scores, study.patients, study.count),
            plain=lambda rows: np.array([roc_auc_score(study.truth[rows], scores[rows, m]) for m in range(2)]),
        )

    def kappa_plain(rows: Rows) -> Array:
        pairs = [(study.reference[rows], study.decided[rows, m]) for m in range(2)]
        return np.array([cohen_kappa_score(*pair, weights="quadratic") for pair in pairs])

    return {
        "Dice": Contest(
            ours=lambda counts: means(weighted_sums(counts, dice).T).T,
            plain=lambda rows: study.dice[rows].mean(axis=0),
            sums=dice,
            of_sums=means,
        ),
        "AUC": areas(study.scores),
        "AUC of 8-bit scores": areas(study.coarse),
        "quadratic kappa": Contest(
            ours=lambda counts: kappas(weighted_sums(counts, grades).T).T,
            plain=kappa_plain,
            sums=grades,
            of_sums=kappas,
        ),
    }


def together(every: Mapping[str, Contest]) -> Statistic:
    """Make one statistic of Dice, AUC and kappa: (r, 6)."""
    three = [every[label].ours for label in ("Dice", "AUC", "quadratic kappa")]
    return lambda counts: np.concatenate([statistic(counts) for statistic in three], axis=1)


def nothing(counts: Counts) -> Array:
    """Compute no statistic, so that only the draws cost time."""
    return np.zeros(counts.shape[1])


def means(sums: Array) -> Array:
    """Mean Dice of both models (2, ...) from the sums of 1 and both Dice."""
    quotient: Array = sums[1:] / sums[0]
    return quotient


def moments(reference: Array, decided: Array) -> Array:
    """Give per case what quadratic kappa of both models needs: 1, r, r^2 and for each d, d^2, (r - d)^2."""
    columns = [np.ones_like(reference), reference, reference**2]
    for d in decided.T:
        columns += [d, d**2, (reference - d) ** 2]
    return np.column_stack(columns)


def kappas(sums: Array) -> Array:
    """Quadratic kappa of both models (2, ...) from the sums of `moments`."""
    n, r, r2 = sums[:3]
    each = []
    for d, d2, apart in (sums[3:6], sums[6:9]):
        each.append(1.0 - apart / (r2 + d2 - 2.0 * r * d / n))
    return np.stack(each)


def report_bootstrap(name: str, study: Study, given: argparse.Namespace) -> dict[str, dict[str, float]]:
    """Time all statistics of one study and print a table."""
    every = contests(study)
    for label, contest in every.items():
        check(label, contest, study)
    three, pass_of_three = ("Dice", "AUC", "quadratic kappa"), together(every)
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as fresh:
        alone = study.count == len(study.patients)
        growth = fresh.submit(growth_mib, given.cases, alone, given.resamples, given.threads).result()
    times: dict[str, dict[str, list[float]]] = {}
    for turn in range(given.rounds):
        say(f"{name}: turn {turn + 1} of {given.rounds}")
        for label, contest in every.items():
            row = times.setdefault(label, {"ours": [], "loop": [], "scipy": []})
            row["ours"].append(ours(contest.ours, study, given))
            row["loop"].append(loop(contest.plain, study, given))
            row["scipy"].append(by_scipy(contest, study, given))
        for label, own in (("all three in one pass", pass_of_three), ("the draws alone", nothing)):
            times.setdefault(label, {}).setdefault("ours", []).append(ours(own, study, given))
    medians = {label: {who: statistics.median(values) for who, values in row.items()} for label, row in times.items()}
    for who in ("loop", "scipy"):
        parts = (medians[label][who] for label in three)
        medians["all three in one pass"][who] = sum(parts)
    print_bootstrap(name, medians, growth, given)
    return medians


def check(label: str, contest: Contest, study: Study, resamples: int = 3) -> None:
    """Hold our replicates against the plain statistic on the same draws."""
    counts = draw_counts(study.count, 1, 0)
    found = contest.ours(counts)
    for k in range(resamples):
        rows = np.repeat(np.arange(len(study.patients)), counts[study.patients, k])
        np.testing.assert_allclose(found[k], contest.plain(rows), rtol=0, atol=1e-9, err_msg=label)


def ours(statistic: Statistic, study: Study, given: argparse.Namespace) -> float:
    """Seconds of all resamples."""
    return seconds(lambda: replicate(statistic, study.count, given.resamples, 1, threads=given.threads))


def loop(plain: Callable[[Rows], Array], study: Study, given: argparse.Namespace) -> float:
    """Seconds that all resamples would take, from a few."""
    rng, few = np.random.default_rng(1), min(int(given.slow), int(given.resamples))

    def run() -> None:
        for _ in range(few):
            plain(rows_of(rng.integers(0, study.count, study.count), study))

    return seconds(run) * float(given.resamples) / few


def by_scipy(contest: Contest, study: Study, given: argparse.Namespace) -> float:
    """Seconds that all resamples would take with scipy.stats.bootstrap, from a few."""
    few = min(int(given.slow), int(given.resamples))
    of_sums = contest.of_sums
    if contest.sums is None or of_sums is None:
        return seconds(lambda: scipy_plain(contest.plain, study, few)) * float(given.resamples) / few
    data = tuple(np.ascontiguousarray(contest.sums.T))
    return seconds(lambda: scipy_vectorised(data, of_sums, few)) * float(given.resamples) / few


def scipy_vectorised(data: tuple[Array, ...], of_sums: Callable[[Array], Array], resamples: int) -> object:
    """Bootstrap the difference of two functions of sums: scipy resamples the patients' sums."""

    def statistic(*columns: Array, axis: int) -> Array:
        both = of_sums(np.stack([column.sum(axis=axis) for column in columns]))
        difference: Array = both[1] - both[0]
        return difference

    return bootstrap(
        data, statistic, n_resamples=resamples, batch=5, method="percentile", rng=1, vectorized=True, paired=True
    )


def scipy_plain(plain: Callable[[Rows], Array], study: Study, resamples: int) -> object:
    """Bootstrap the difference of two functions of cases: scipy resamples the patients' numbers."""

    def statistic(drawn: Array) -> float:
        both = plain(rows_of(drawn.astype(np.intp), study))
        return float(both[1] - both[0])

    patients = (np.arange(study.count),)
    return bootstrap(patients, statistic, n_resamples=resamples, batch=5, method="percentile", rng=1, vectorized=False)


def rows_of(drawn: Rows, study: Study) -> Rows:
    """Give the cases of the drawn patients, as often as they were drawn."""
    times = np.bincount(drawn, minlength=study.count)
    return np.repeat(np.arange(len(study.patients)), times[study.patients])


def growth_mib(cases: int, alone: bool, resamples: int, threads: int | None) -> float:
    """Give by how many MiB a new process grows in one pass of all three (Linux; elsewhere NaN)."""
    study = make_study(cases, alone=alone)
    statistic = together(contests(study))
    try:
        Path("/proc/self/clear_refs").write_text("5", "ascii")  # forget the peak so far
        before = status_mib("VmRSS")
        replicate(statistic, study.count, resamples, 1, threads=threads)
        return status_mib("VmHWM") - before
    except OSError:
        return nan


def status_mib(field: str) -> float:
    """Read a line of the process's own status."""
    lines = Path("/proc/self/status").read_text("ascii").splitlines()
    return next(float(line.split()[1]) / 1024 for line in lines if line.startswith(field + ":"))


def report_delong(sizes: list[int], rounds: int) -> dict[str, dict[str, float]]:
    """Time the paired DeLong comparison beside its quadratic form and two areas of scikit-learn; print a table."""
    found = {}
    print("\n| cases | compare_auc | quadratic form | ratio | two `roc_auc_score`, areas only |")
    print("|---:|---:|---:|---:|---:|")
    for cases in sizes:
        study = make_study(cases, alone=False)
        part = quadratic(study, most=2e8)[1]
        times: dict[str, list[float]] = {"ours": [], "quadratic": [], "scikit-learn": []}
        for _ in range(rounds):
            arguments = (study.truth, study.scores[:, 0], study.scores[:, 1], study.patients)
            times["ours"].append(seconds(lambda a=arguments: compare_auc(*a)))  # type: ignore[misc]
            times["quadratic"].append(seconds(lambda s=study: quadratic(s, most=2e8)) / part)  # type: ignore[misc]
            two = (study.truth, study.scores)
            times["scikit-learn"].append(
                seconds(lambda t=two: [roc_auc_score(t[0], t[1][:, m]) for m in range(2)])  # type: ignore[misc]
            )
        one = {who: statistics.median(values) for who, values in times.items()}
        found[str(cases)] = one
        note = "" if part == 1 else f" (from {part:.2%} of the positives)"
        ratio = one["quadratic"] / one["ours"]
        print(
            f"| {cases:,} | {one['ours']:.3g} s | {one['quadratic']:.3g} s{note} | {ratio:.0f} "
            f"| {one['scikit-learn']:.3g} s |"
        )
    return found


def quadratic(study: Study, most: float) -> tuple[Array, float]:
    """Compare every positive with every negative, as DeLong's paper defines it, for both models.

    Gives the placements of the positives that were compared, and their share: at most `most` pairs are.
    """
    positive, negative = study.scores[study.truth], study.scores[~study.truth]
    step = max(1, int(1e6) // len(negative))
    last = max(step, min(len(positive), int(most / len(negative))))
    rows, columns = [], np.zeros((2, len(negative)))
    for start in range(0, last, step):
        mine = positive[start : start + step]
        for m in range(2):
            kernel = (mine[:, None, m] > negative[None, :, m]) + 0.5 * (mine[:, None, m] == negative[None, :, m])
            rows.append(kernel.mean(axis=1))
            columns[m] += kernel.sum(axis=0)
    return np.concatenate(rows), min(last / len(positive), 1.0)


def print_bootstrap(
    name: str, medians: Mapping[str, Mapping[str, float]], growth: float, given: argparse.Namespace
) -> None:
    """Print one table."""
    few = min(given.slow, given.resamples)
    print(f"\n{name}, {given.resamples:,} resamples; medians of {given.rounds} turns.")
    print(f"Loop and scipy: measured on {few} resamples a turn and multiplied by {given.resamples / few:g}.\n")
    print("| | foveola | resamples a second | loop | ratio | scipy | ratio |")
    print("|---|---:|---:|---:|---:|---:|---:|")
    for label, row in medians.items():
        own = row["ours"]
        cells = [label, f"{own:.2f} s", f"{given.resamples / own:,.0f}"]
        for who in ("loop", "scipy"):
            cells += [f"{row[who]:,.3g} s", f"{row[who] / own:,.0f}"] if who in row else ["", ""]
        print("| " + " | ".join(cells) + " |")
    print(
        f"\nThe process grew by at most {growth:.0f} MiB in the pass of all three, the cases not counted; "
        f"blocks of {BLOCK} resamples."
    )


def seconds(run: Callable[[], object]) -> float:
    """Time one call."""
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def say(text: str) -> None:
    """Tell what is going on, beside the table."""
    print(text, file=sys.stderr)


if __name__ == "__main__":
    main()
