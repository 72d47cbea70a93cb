"""The ablation of the pretraining after COMPRER on twins whose hidden state is known: each loss off, each alone.

The protocol (data, arms, budget, seeds, measures, gates, analysis) stands in docs/comprer-ablation.md and was written
before the first run.

    python bench/comprer_ablation.py run OUT --seeds 5    # one line a finished training in OUT/results.jsonl
    python bench/comprer_ablation.py table OUT            # means, paired differences, gates

A run that was stopped goes on where it was; a training that was begun goes on at its last epoch.
"""

from __future__ import annotations

import argparse
import csv
import shutil
import time
from collections.abc import Iterable, Sequence
from pathlib import Path

import msgspec
import numpy as np
from numpy.typing import NDArray
from scipy.stats import binomtest, bootstrap
from sklearn.linear_model import LogisticRegression, RidgeCV
from sklearn.metrics import roc_auc_score
from sklearn.preprocessing import StandardScaler

from foveola.runtime.manifest import InputSpec
from foveola.runtime.task import Task
from foveola.toolkit.data.arrays import prepare_arrays
from foveola.toolkit.data.dataset import Columns, Dataset, read_dataset
from foveola.toolkit.data.phantom_twins import LATENT, MEASURES, OUTCOMES, make_twins
from foveola.toolkit.fit import forget
from foveola.toolkit.knobs import Augment, Plan
from foveola.toolkit.parity import retrieval
from foveola.toolkit.teachers.comprer.judge import Embedded, embed, pairing_of
from foveola.toolkit.teachers.comprer.knobs import Aims, Encoding, Roles
from foveola.toolkit.teachers.comprer.learn import Pretrained, pretrain_comprer
from foveola.toolkit.teachers.comprer.pairing import ahead, order_auc, pairs_along
from foveola.toolkit.teachers.comprer.records import Scans

F64 = NDArray[np.float64]
SIZE = 32
PATIENTS = 540
SHARES = {"train": 300 / 540, "val": 40 / 540, "test": 200 / 540}
UNITS = {"age": "years", "imt": "mm", "vessel_density": "share", "blood_pressure": "mmHg"}
TASKS = (
    *(Task(name=name, kind="regression", classes=(name,), columns=(name,), unit=UNITS[name]) for name in MEASURES),
    *(Task(name=name, kind="binary", classes=("no|0", "yes|1"), columns=(name,)) for name in OUTCOMES),
    Task(name="code", kind="embedding", size=64),
)
ROLES = Roles()
VIEWS = Augment(rotate=5, scale=0.05, shift=0.03, brightness=0.05, contrast=0.1, noise=0.02)
ENCODINGS = {
    "fundus": Encoding(
        backbone="resnet10t",
        input=InputSpec(height=SIZE, width=SIZE, channels=3, mean=(0.45, 0.25, 0.12), std=(0.28, 0.17, 0.10)),
        augment=VIEWS,
        colour=0.05,
    ),
    "carotid": Encoding(
        backbone="resnet10t",
        input=InputSpec(height=SIZE, width=SIZE, channels=1, mean=(0.5,), std=(0.3,)),
        augment=VIEWS,
        speckle=0.1,
    ),
}
PLAN = Plan(epochs=24, batch_size=32, learning_rate=1e-3, weight_decay=0.05, ema=0.0)
ALL = Aims(measured=MEASURES, decoder_width=16, projection=64)
OFF = {"multimodal": 0.0, "temporal": 0.0, "measures": 0.0, "reconstruction": 0.0}


class Arm(msgspec.Struct, frozen=True):
    """One training of every seed."""

    told: str
    aims: Aims
    strangers: bool = False


def _arm(told: str, changes: dict[str, float], **more: bool) -> Arm:
    return Arm(told, msgspec.structs.replace(ALL, **changes), **more)


ARMS = {
    "all": _arm("all four losses", {}),
    "-multimodal": _arm("without the contrast between modalities", {"multimodal": 0.0}),
    "-temporal": _arm("without the losses of two visits", {"temporal": 0.0}),
    "-measures": _arm("without measures", {"measures": 0.0}),
    "-reconstruction": _arm("without reconstruction", {"reconstruction": 0.0}),
    "multimodal": _arm("the contrast between modalities alone", OFF | {"multimodal": 1.0}),
    "temporal": _arm("the losses of two visits alone", OFF | {"temporal": 0.5}),
    "measures": _arm("measures alone", OFF | {"measures": 1.0}),
    "reconstruction": _arm("reconstruction alone", OFF | {"reconstruction": 1.0}),
    # The outcomes take the measures' place, and nothing else is learned.
    "supervised": Arm(
        "the three outcomes as labels, nothing else",
        msgspec.structs.replace(ALL, multimodal=0.0, temporal=0.0, reconstruction=0.0, measured=OUTCOMES),
    ),
    "control": _arm("all four losses, carotid pictures of strangers", {}, strangers=True),
}
ALONE = ("multimodal", "temporal", "measures", "reconstruction")
METRICS = {
    "pair percentile, fundus to carotid": "pair_fc",
    "pair percentile, carotid to fundus": "pair_cf",
    "phenotype ratio (lower is better)": "phenotype",
    "probe R2 of measures": "r2",
    "probe AUC of outcomes": "auc",
    "order of visits, AUC": "order",
    "visit percentile": "visit",
    "probe R2 of nuisance": "nuisance",
    "probe R2 of the hidden state": "state",
}


class Result(msgspec.Struct, frozen=True, kw_only=True):
    """One finished training."""

    seed: int
    arm: str
    seconds: float
    metrics: dict[str, float]


def main() -> None:
    """See the file's head."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("what", choices=["run", "table"])
    parser.add_argument("out", type=Path)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--first", type=int, default=0, help="the first seed")
    parser.add_argument("--arms", default=",".join(ARMS))
    given = parser.parse_args()
    if given.what == "run":
        for seed in range(given.first, given.first + given.seeds):
            run_seed(given.out, seed, given.arms.split(","))
    print(table(read_results(given.out), given.arms.split(",")))


def run_seed(out: Path, seed: int, arms: Iterable[str]) -> None:
    """Train every arm of one seed that is not finished."""
    out.mkdir(parents=True, exist_ok=True)
    done = {result.arm for result in read_results(out) if result.seed == seed}
    for name in arms:
        if name not in done:
            result = run_arm(out, seed, name)
            with (out / "results.jsonl").open("ab") as stream:
                stream.write(msgspec.json.encode(result) + b"\n")
            print(f"seed {seed}: {name} in {result.seconds:.0f} s", flush=True)
    shutil.rmtree(out / f"seed-{seed}", ignore_errors=True)


def run_arm(out: Path, seed: int, name: str) -> Result:
    """Pretrain one arm and judge what it learnt on the test split."""
    arm, start = ARMS[name], time.perf_counter()
    root = out / f"seed-{seed}"
    dataset, truth = people(root / ("strangers" if arm.strangers else "twins"), seed, strangers=arm.strangers)
    found = pretrain(dataset, arm.aims, root / name, root / "cache", seed)
    forget(root / name)
    metrics = judge(found, truth, root / "cache", ordered=arm.aims.temporal > 0)
    return Result(seed=seed, arm=name, seconds=time.perf_counter() - start, metrics=metrics)


def people(folder: Path, seed: int, *, strangers: bool = False) -> tuple[Dataset, dict[str, dict[str, float]]]:
    """The phantom of a seed, and the truth about each of its pictures."""
    if not (folder / "manifest.csv").exists():
        shutil.rmtree(folder, ignore_errors=True)
        make_twins(folder, patients=PATIENTS, seed=1000 + seed, size=SIZE, shares=SHARES, strangers=strangers)
    with (folder / LATENT).open(newline="", encoding="utf-8") as stream:
        truth = {row.pop("file"): {k: float(v) for k, v in row.items()} for row in csv.DictReader(stream)}
    columns = Columns(attributes=("modality", "eye", "visit", "years"))
    return read_dataset(folder, TASKS, columns=columns), truth


def pretrain(dataset: Dataset, aims: Aims, folder: Path, cache: Path, seed: int) -> Pretrained:
    """Pretrain with the bench's network and budget; the validation split is looked at once, at the end."""
    return pretrain_comprer(
        dataset, ENCODINGS, aims, PLAN,
        roles=ROLES, folder=folder, cache=cache, seed=seed, report=quiet, judge_every=PLAN.epochs,
    )  # fmt: skip


def judge(found: Pretrained, truth: dict[str, dict[str, float]], cache: Path, *, ordered: bool) -> dict[str, float]:
    """All measures of one training; probes are fitted on the train split and judged on the test split."""
    seen: dict[str, tuple[dict[str, Embedded], dict[str, Scans]]] = {}
    for part in ("train", "test"):
        scans = found.records.subset(part).scans
        arrays = {name: prepare_arrays(one.dataset, ENCODINGS[name].input, cache=cache) for name, one in scans.items()}
        seen[part] = embed(found.network, arrays), scans
    embedded, scans = seen["test"]
    pairing = pairing_of(found.network, found.records.subset("test"), embedded, ROLES, order=ordered)
    towards, back = pairing.across["fundus to carotid"], pairing.across["carotid to fundus"]
    phenotypes = [*towards.phenotype.values(), *back.phenotype.values()]
    metrics = {"pair_fc": towards.pair_percentile, "pair_cf": back.pair_percentile}
    metrics |= {"recall10_fc": towards.recall["10"], "phenotype": float(np.mean(phenotypes))}
    metrics |= {f"order_head_{name}": value for name, value in pairing.order.items()}
    for modality in ENCODINGS:
        (train, one), (test, other) = ((seen[part][0][modality], seen[part][1][modality]) for part in ("train", "test"))
        probes = probe(train.pooled, one.dataset, test.pooled, other.dataset, truth)
        metrics |= {f"{key}_{modality}": value for key, value in probes.items()}
        metrics[f"order_{modality}"] = order_probe(train.pooled, one, test.pooled, other)
        metrics[f"visit_{modality}"] = visit_percentile(test.pooled, other)
    # The camera sees the fundus; the order of visits is asked of both.
    metrics |= {key: metrics[f"{key}_fundus"] for key in ("r2", "auc", "nuisance", "state")}
    metrics |= {key: (metrics[f"{key}_fundus"] + metrics[f"{key}_carotid"]) / 2 for key in ("order", "visit")}
    return metrics


def probe(
    train_x: NDArray[np.float32],
    train: Dataset,
    test_x: NDArray[np.float32],
    test: Dataset,
    truth: dict[str, dict[str, float]],
) -> dict[str, float]:
    """Ridge and logistic regression on standardised frozen features: R2 of numbers, AUC of outcomes."""
    scaler = StandardScaler().fit(train_x)
    fitted, judged = np.asarray(scaler.transform(train_x)), np.asarray(scaler.transform(test_x))
    found: dict[str, float] = {}
    for name in MEASURES:
        found[f"r2/{name}"] = explained(fitted, train.scalars[name][:, 0], judged, test.scalars[name][:, 0])
    for name in OUTCOMES:
        y, wanted = train.scalars[name][:, 0], test.scalars[name][:, 0]
        known, asked = ~np.isnan(y), ~np.isnan(wanted)
        model = LogisticRegression(C=0.01, max_iter=500).fit(fitted[known], y[known])
        found[f"auc/{name}"] = float(roc_auc_score(wanted[asked], model.decision_function(judged[asked])))
    for kind, names in (("nuisance", [f"n{i}" for i in range(4)]), ("state", [f"s{i}" for i in range(8)])):
        sides = [np.array([[truth[s.key][name] for name in names] for s in data.samples]) for data in (train, test)]
        values = [explained(fitted, sides[0][:, i], judged, sides[1][:, i]) for i in range(len(names))]
        found[kind] = float(np.mean(values))
    found["r2"] = float(np.mean([found[f"r2/{name}"] for name in MEASURES]))
    found["auc"] = float(np.mean([found[f"auc/{name}"] for name in OUTCOMES]))
    return found


def explained(fitted: F64, y: NDArray[np.floating], judged: F64, wanted: NDArray[np.floating]) -> float:
    """R2 on the test split of a ridge regression, its strength by leave-one-out on the train split."""
    known, asked = ~np.isnan(y), ~np.isnan(wanted)
    model = RidgeCV(np.logspace(1, 5, 9)).fit(fitted[known], np.asarray(y[known], np.float64))
    error = np.asarray(model.predict(judged[asked])) - wanted[asked]
    return float(1 - (error**2).mean() / wanted[asked].var())


def order_probe(train_x: NDArray[np.float32], train: Scans, test_x: NDArray[np.float32], test: Scans) -> float:
    """AUC of which of two visits was later, by logistic regression on the difference of their features."""
    spread = train_x.std(axis=0) + 1e-6
    (d, _), (e, u) = (differences(x / spread, scans) for x, scans in ((train_x, train), (test_x, test)))
    # Both orders of each pair, so that nothing but the pictures can tell them apart.
    later = np.repeat([1, 0], len(d))
    model = LogisticRegression(C=0.01, fit_intercept=False, max_iter=500).fit(np.concatenate([d, -d]), later)
    found = order_auc(model.decision_function(e * np.sign(u)[:, None]), np.abs(u))
    assert found is not None
    return found


def differences(x: NDArray[np.float32], scans: Scans) -> tuple[F64, F64]:
    """Features of the second visit less those of the first, and the years between, a row a patient."""
    first, second = pairs_along(scans)
    return np.asarray(x[second] - x[first], np.float64), ahead(scans, first, second)


def visit_percentile(x: NDArray[np.float32], scans: Scans) -> float:
    """Pair percentile from a visit to the next one of the same eye or side, by the features themselves."""
    first, second = pairs_along(scans)
    middle = x.mean(axis=0)
    return retrieval.mean_percentile(retrieval.cosine(x[first] - middle, x[second] - middle), np.arange(len(first)))


def read_results(out: Path) -> list[Result]:
    """What is finished."""
    path = out / "results.jsonl"
    return [msgspec.json.decode(line, type=Result) for line in path.read_bytes().splitlines()] if path.exists() else []


def table(results: list[Result], arms: Sequence[str]) -> str:
    """Markdown: means, paired differences from `all`, gates; over the seeds that have finished all these arms."""
    seeds = sorted({r.seed for r in results if {q.arm for q in results if q.seed == r.seed} >= set(arms)})
    if len(seeds) < 2:
        return f"{len(seeds)} finished seed(s): nothing to compare yet"
    by = {(r.seed, r.arm): r.metrics for r in results}
    values = {arm: {key: np.array([by[seed, arm][key] for seed in seeds]) for key in METRICS.values()} for arm in arms}
    lines = [f"{len(seeds)} seeds. Means and standard deviations over seeds.", ""]
    lines += [f"| arm | {' | '.join(METRICS)} |", "|---" * (len(METRICS) + 1) + "|"]
    for arm, own in values.items():
        lines.append(f"| {arm} | " + " | ".join(f"{x.mean():.3f} ± {x.std(ddof=1):.3f}" for x in own.values()) + " |")
    lines += ["", f"| all less | {' | '.join(METRICS)} |", "|---" * (len(METRICS) + 1) + "|"]
    for arm in (name for name in arms if name != "all"):
        cells = [paired(values["all"][key] - values[arm][key]) for key in METRICS.values()]
        lines.append(f"| {arm} | " + " | ".join(cells) + " |")
    return "\n".join([*lines, "", *gates(values)])


def gates(values: dict[str, dict[str, F64]]) -> list[str]:
    """The gates of the protocol, met or not."""
    pair = {arm: (own["pair_fc"] + own["pair_cf"]) / 2 for arm, own in values.items()}

    def lost(arm: str, key: str) -> F64:
        return np.asarray(values["all"][key] - values[arm][key])

    rows: list[tuple[str, str, bool]] = []
    rows.append(("pair percentile of all above 0.8", f"{pair['all'].mean():.3f}", bool(pair["all"].mean() > 0.8)))
    for arm in ("-multimodal", "control"):
        near = bool(abs(pair[arm].mean() - 0.5) < 0.05)
        rows.append((f"pair percentile of {arm} within 0.05 of chance", f"{pair[arm].mean():.3f}", near))
    for arm, key in (("-measures", "r2"), ("-temporal", "order"), ("-reconstruction", "nuisance")):
        rows.append((f"all less {arm}, {key}, above 0", paired(lost(arm, key)), bool(lost(arm, key).mean() > 0)))
    if values.keys() >= set(ALONE):
        gain = values["all"]["auc"] - np.mean([values[arm]["auc"] for arm in ALONE], axis=0)
        rows.append(
            ("probe AUC of all less the mean of the single losses, 0 or more", paired(gain), bool(gain.mean() >= 0))
        )
    none = values["control"]["auc"] - values["-multimodal"]["auc"]
    rows.append(("probe AUC of control less -multimodal, not above 0", paired(none), lower_end(none) <= 0))
    lines = ["| gate | found | met |", "|---|---|---|"]
    return lines + [f"| {what} | {found} | {'yes' if met else '**no**'} |" for what, found, met in rows]


def paired(differences: F64) -> str:
    """Mean, 95 % bootstrap interval over seeds, and the sign test's p."""
    low, high = interval(differences)
    count = int((differences != 0).sum())
    p = binomtest(int((differences > 0).sum()), count).pvalue if count else 1.0
    return f"{differences.mean():+.3f} [{low:+.3f}, {high:+.3f}], p {p:.2f}"


def lower_end(differences: F64) -> float:
    """Of the bootstrap interval."""
    return interval(differences)[0]


def interval(differences: F64) -> tuple[float, float]:
    """95 % percentile bootstrap of the mean over seeds, 10,000 resamples."""
    if np.ptp(differences) == 0:
        return float(differences[0]), float(differences[0])
    found = bootstrap((differences,), np.mean, n_resamples=10_000, method="percentile", rng=np.random.default_rng(0))
    return float(found.confidence_interval.low), float(found.confidence_interval.high)


def quiet(done: float, total: float, text: str = "") -> None:
    """No progress."""


if __name__ == "__main__":
    main()
