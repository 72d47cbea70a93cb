"""SePL against its ablations on phantoms whose law is known: paired seeds, every arm from the same data and budget.

Protocol, written before the first run and not changed after it (the same stands in docs/sepl.md):

- Data: `phantom_body.make_body`, 96 rows a picture, per seed 300 train, 100 val and 400 test patients of their own, no
  gaps. The control's complex factors follow from another body than the picture's (`unrelated`); the picture's own weak
  cue still counts in them.
- Network: timm's `test_resnet` at 64 x 64 pixels (field of view cropped), random start; 4 experts of width 64, 12 for
  the priors. Arms of other shape are widened until they have at least as many parameters as the full one.
- Training: Adam 0.001 with a cosine, batch 32, 32 epochs, one of four views; the epoch of the smallest validation loss.
- Arms: `plain` (A0, linear heads), `wide` (A0 with a shared layer, equal parameters), `unguided` (A1, mixture without
  priors, equal parameters), `detached` (A4), `full` (A6): seeds 0 to 7. `one` (A2: one expert, no attention), `flat`
  (A3: no attention), `oracle` (A5: true priors while training), `experts-1`, `experts-8`, `two-stage` (8 of the 32
  epochs for the simple factors alone): seeds 0 to 4. Control: `wide`, `full`, seeds 0 to 7.
- Measure: mean absolute error on test in units of the measure's standard deviation on train, mean over the nine complex
  factors (primary) and over the five simple measures; area under the ROC curve of sex.
- Analysis: paired differences over seeds, mean, 95 % bootstrap interval (10,000 resamples of seeds, seed 0), sign test.
- Bars: full - wide, full - unguided and full - detached on the complex factors are each shown better if the interval's
  upper end lies below 0. The simple factors are not worse if the upper end of full - wide lies below 0.02. The control
  must not gain: the interval of full - wide there must reach above -0.01.

    python bench/sepl_ablation.py run OUT --results FILE.jsonl   # goes on where it was stopped; a line a training
    python bench/sepl_ablation.py run OUT --arms full,one,flat   # these alone, without the control
    python bench/sepl_ablation.py table FILE.jsonl               # Markdown
"""

from __future__ import annotations

import argparse
import json
import shutil
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import torch
from scipy.stats import binomtest

from foveola.runtime.manifest import InputSpec
from foveola.runtime.task import Task
from foveola.toolkit.data.arrays import Arrays, prepare_arrays
from foveola.toolkit.data.dataset import Dataset, read_dataset
from foveola.toolkit.data.phantom_body import make_body
from foveola.toolkit.knobs import Plan
from foveola.toolkit.parity.delong import auc
from foveola.toolkit.teachers.sepl.learn import Sepl, new_sepl, train_sepl
from foveola.toolkit.teachers.sepl.teacher import SeplTeacher

MEASURES = ("age", "height", "weight", "bmi", "waist")
COMPLEX = ("sbp", "dbp", "cholesterol", "glucose", "triglycerides", "hba1c", "bun", "creatinine", "uric_acid")
TASKS = (
    Task(name="sex", kind="binary", classes=("female|F", "male|M")),
    *(Task(name=name, kind="regression", classes=(name,)) for name in (*MEASURES, *COMPLEX)),
)
SIZES = {"train": 300, "val": 100, "test": 400}  # patients
SPEC = InputSpec(height=64, width=64, channels=3, crop="fov", mean=(0.4, 0.25, 0.15), std=(0.3, 0.2, 0.15))
BACKBONE = "test_resnet"
PLAN = Plan(
    epochs=32, batch_size=32, learning_rate=1e-3, optimizer="adam", weight_decay=0.0, clip=0.0, ema=0.0, warmup=0.0
)
FULL = Sepl(simple=("sex", *MEASURES), complex=COMPLEX, hidden=64)


def changed(**knobs: Any) -> Sepl:
    """The full arm with other knobs."""
    arm: Sepl = msgspec.structs.replace(FULL, **knobs)
    return arm


ARMS = {
    "plain": changed(experts=0, hidden=0, prior="none"),
    "wide": changed(experts=0, prior="none"),
    "unguided": changed(prior="none"),
    "detached": changed(prior="detached"),
    "full": FULL,
    "one": changed(experts=1, attention=False),
    "flat": changed(attention=False),
    "oracle": changed(prior="reference"),
    "experts-1": changed(experts=1),
    "experts-8": changed(experts=8),
    "two-stage": changed(prior_epochs=8),
}
WIDENED = ("wide", "unguided")
MAIN, REST, CONTROL = ("plain", "wide", "unguided", "detached", "full"), tuple(ARMS)[5:], ("wide", "full")
SEEDS, FEW = range(8), range(5)
PAIRS = (
    ("full", "wide"),
    ("full", "unguided"),
    ("full", "detached"),
    ("full", "plain"),
    ("full", "one"),
    ("full", "flat"),
    ("full", "experts-1"),
    ("full", "experts-8"),
    ("full", "two-stage"),
    ("full", "oracle"),
    ("oracle, true priors", "full"),
)


def main() -> None:
    """See the file's head."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("what", choices=["run", "table"])
    parser.add_argument("path", type=Path)
    parser.add_argument("--results", type=Path)
    parser.add_argument("--arms", default="", help="these alone, for example full,one,flat; without the control")
    given = parser.parse_args()
    if given.what == "table":
        print(table(read(given.path)))
        return
    runs = only(given.arms.split(",")) if given.arms else plan_of_runs()
    run(runs, given.path, given.results or given.path / "results.jsonl")


def only(arms: Sequence[str]) -> Iterator[tuple[bool, str, int]]:
    """Some arms, on the seeds that all arms have."""
    return ((False, arm, seed) for seed in FEW for arm in arms)


def plan_of_runs() -> Iterator[tuple[bool, str, int]]:
    """Control or not, arm, seed: seed by seed, so that what is there is always paired."""
    for seed in SEEDS:
        yield from ((False, arm, seed) for arm in MAIN)
        yield from ((True, arm, seed) for arm in CONTROL)
    for seed in FEW:
        yield from ((False, arm, seed) for arm in REST)


def run(runs: Iterable[tuple[bool, str, int]], out: Path, results: Path) -> None:
    """Everything of `runs` that is not in `results` yet."""
    done = {(line["control"], line["arm"], line["seed"]) for line in read(results)}
    out.mkdir(parents=True, exist_ok=True)
    for control, arm, seed in runs:
        if (control, arm, seed) in done:
            continue
        start = time.perf_counter()
        line = {"control": control, "arm": arm, "seed": seed} | train(out, control=control, arm=arm, seed=seed)
        line["seconds"] = round(time.perf_counter() - start, 1)
        with results.open("a", encoding="utf-8") as stream:
            stream.write(json.dumps(line) + "\n")
        print(f"{'control ' * control}{arm} {seed}: {line['seconds']} s", flush=True)


def train(out: Path, *, control: bool, arm: str, seed: int) -> dict[str, Any]:
    """One training and its errors on the test split."""
    dataset = data_of(out, control=control, seed=seed)
    how, folder = of_equal_size(dataset, arm), out / "training"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    common: dict[str, Any] = {"folder": folder, "cache": out / "cache", "seed": seed, "report": quiet}
    teacher = train_sepl(dataset, BACKBONE, SPEC, how, PLAN, **common)
    arrays = prepare_arrays(dataset.subset("test"), SPEC, cache=out / "cache")
    found = {"parameters": parameters(teacher), "hidden": how.hidden} | errors(teacher, dataset, arrays, given=False)
    if arm == "oracle":
        found["true priors"] = errors(teacher, dataset, arrays, given=True)
    return found


def data_of(out: Path, *, control: bool, seed: int) -> Dataset:
    """The phantoms of a seed; drawn where they are not there."""
    root, patients = out / f"data-{'control-' * control}{seed}", sum(SIZES.values())
    if not (root / "manifest.csv").is_file():
        shutil.rmtree(root, ignore_errors=True)
        shares = {split: size / patients for split, size in SIZES.items()}
        make_body(root, patients=patients, seed=1000 + seed, size=96, shares=shares, gaps={}, unrelated=control)
    return read_dataset(root, TASKS)


def of_equal_size(dataset: Dataset, arm: str) -> Sepl:
    """The arm's knobs, widened where it is to have at least as many parameters as the full one."""
    how = ARMS[arm]
    if arm not in WIDENED:
        return how
    least = parameters(new_sepl(dataset, BACKBONE, SPEC, FULL, 0))
    while parameters(new_sepl(dataset, BACKBONE, SPEC, how, 0)) < least:
        how = msgspec.structs.replace(how, hidden=how.hidden + 1)
    return how


def parameters(teacher: SeplTeacher) -> int:
    """How many."""
    return sum(one.numel() for one in teacher.parameters())


def errors(teacher: SeplTeacher, dataset: Dataset, arrays: Arrays, *, given: bool) -> dict[str, Any]:
    """Mean absolute error of each measure in standard deviations of the train split, and the AUC of sex.

    Args:
        teacher: trained.
        dataset: holds the train split.
        arrays: of the test split.
        given: the priors are the reference standard's (the oracle's upper bound).
    """
    train, scale = dataset.subset("train"), teacher.target_scale
    known = {
        name: torch.from_numpy((arrays.scalars[name] - np.array(scale[name][0])) / np.array(scale[name][1])).float()
        if name in scale
        else torch.from_numpy(arrays.scalars[name])
        for name in FULL.simple
    }
    raw: dict[str, list[np.ndarray]] = {task.name: [] for task in TASKS}
    with torch.inference_mode():
        for start in range(0, len(arrays.images), 64):
            part = slice(start, start + 64)
            reference = {name: x[part] for name, x in known.items()} if given else None
            said = teacher.propagate(torch.from_numpy(np.array(arrays.images[part])), reference).raw
            for name, x in said.items():
                raw[name].append(x.numpy())
    mae = {}
    for name in (*MEASURES, *COMPLEX):
        centre, reach = scale[name]
        values = np.concatenate(raw[name])[:, 0] * reach[0] + centre[0]
        deviation = float(train.scalars[name].astype(np.float64).std())
        mae[name] = float(np.abs(values - arrays.scalars[name][:, 0]).mean()) / deviation
    area = auc(arrays.scalars["sex"][:, 0] > 0.5, np.concatenate(raw["sex"])[:, 0])
    return {"mae": mae, "auc": float(area)}


def read(results: Path) -> list[dict[str, Any]]:
    """The finished trainings."""
    if not results.is_file():
        return []
    return [json.loads(line) for line in results.read_text(encoding="utf-8").splitlines()]


def table(lines: list[dict[str, Any]]) -> str:
    """Markdown of what is there."""
    found: dict[tuple[bool, str], dict[int, dict[str, float]]] = {}
    size: dict[str, int] = {}
    for line in lines:
        found.setdefault((line["control"], line["arm"]), {})[line["seed"]] = summary(line)
        size[line["arm"]] = line["parameters"]
        if "true priors" in line:
            found.setdefault((False, "oracle, true priors"), {})[line["seed"]] = summary(line["true priors"])
    said = ["| arm | parameters | seeds | complex | simple | AUC of sex |", "|---|---|---|---|---|---|"]
    for (control, arm), seeds in found.items():
        cells = [f"{mean(seeds, key):.4f}" for key in ("complex", "simple", "auc")]
        name = f"control: {arm}" if control else arm
        said.append(f"| {name} | {size.get(arm, size.get('oracle', 0))} | {len(seeds)} | {' | '.join(cells)} |")
    said += ["", "| paired difference | complex | simple |", "|---|---|---|"]
    for control, pairs in ((False, PAIRS), (True, (("full", "wide"),))):
        for one, other in pairs:
            if (control, one) in found and (control, other) in found:
                a, b = found[control, one], found[control, other]
                cells = [
                    paired(np.array([a[s][key] - b[s][key] for s in a if s in b])) for key in ("complex", "simple")
                ]
                said.append(f"| {'control: ' * control}{one} - {other} | {' | '.join(cells)} |")
    return "\n".join(said)


def summary(line: dict[str, Any]) -> dict[str, float]:
    """The three numbers of a training."""
    mae = line["mae"]
    return {
        "complex": float(np.mean([mae[name] for name in COMPLEX])),
        "simple": float(np.mean([mae[name] for name in MEASURES])),
        "auc": line["auc"],
    }


def mean(seeds: dict[int, dict[str, float]], key: str) -> float:
    """Over the seeds."""
    return float(np.mean([one[key] for one in seeds.values()]))


def paired(differences: np.ndarray) -> str:
    """Mean, 95 % bootstrap interval over seeds, how many are below 0, and the two-sided sign test."""
    rng = np.random.default_rng(0)
    means = rng.choice(differences, (10_000, len(differences))).mean(1)
    low, high = np.percentile(means, (2.5, 97.5))
    below, decided = int((differences < 0).sum()), int((differences != 0).sum())
    p = binomtest(below, decided).pvalue if decided else 1.0
    return f"{differences.mean():+.4f} [{low:+.4f}, {high:+.4f}], {below} of {len(differences)} below 0, p {p:.3f}"


def quiet(done: float, total: float, text: str = "") -> None:
    """No progress."""


if __name__ == "__main__":
    main()
