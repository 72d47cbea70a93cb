"""MTPret's ablation in miniature on real radiographs: paired seeds, every arm from the same data and budget.

The protocol (arms, seeds, budget, measures) stands in docs/mtpret-ablation.md and was written before the first run.

    python bench/mtpret_ablation.py run DATA OUT --seed 1        # one seed; goes on where it was stopped
    python bench/mtpret_ablation.py drift DATA OUT               # drift against the strength of the pull, seed 1
    python bench/mtpret_ablation.py forget DATA OUT --seed 1     # the second protocol
    python bench/mtpret_ablation.py table OUT                    # all finished seeds: means, paired differences

DATA holds the folders `cxr` and `msk` with their manifests.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.stats import binomtest
from scipy.stats import t as student_t

from foveola.runtime.manifest import InputSpec
from foveola.runtime.task import Task
from foveola.toolkit.answers import answer_images
from foveola.toolkit.data.arrays import Arrays, prepare_arrays
from foveola.toolkit.data.dataset import Dataset
from foveola.toolkit.data.join import read_joined
from foveola.toolkit.data.samples import Columns, Source
from foveola.toolkit.finished import read_history
from foveola.toolkit.fresh import new_network
from foveola.toolkit.knobs import Augment, Plan, Shape
from foveola.toolkit.models.network import Network, load_network
from foveola.toolkit.score import score_answers
from foveola.toolkit.teachers.continual import learn_continually
from foveola.toolkit.teachers.contrast import Encoder
from foveola.toolkit.teachers.metrics import forgetting
from foveola.toolkit.teachers.pretrain import Contrastive, pretrain
from foveola.toolkit.teachers.probe import linear_probe, pooled_features
from foveola.toolkit.teachers.start import start_from_step
from foveola.toolkit.teachers.visits import Rounds
from foveola.toolkit.train import train_teacher

BACKBONE = "resnet18"
SPEC = InputSpec(height=64, width=64, channels=1, window="percentile", mean=(122.786 / 255,), std=(18.390 / 255,))
SHAPE = Shape(backbone=BACKBONE, input=SPEC, width=64, output_stride=16)
FINDINGS = ("Atelectasis", "Consolidation", "Edema", "Effusion", "Infiltration", "Pleural_Thickening", "Pneumonia")
TASKS = (
    Task(name="findings", kind="multilabel", classes=FINDINGS, columns=tuple(f"finding_{name}" for name in FINDINGS)),
    Task(
        name="lungs",
        kind="segmentation",
        classes=("right", "left"),
        columns=("mask_lungs",),
        ignore_column="mask_ignore",
    ),
    Task(name="fractured", kind="binary", classes=("0", "1")),
    Task(name="fracture", kind="segmentation", classes=("fracture",), columns=("mask_fracture",)),
)
TASK_NAMES = tuple(task.name for task in TASKS)
SOURCES = {
    "cxr": Source(folder="cxr", tasks=("findings", "lungs")),
    "msk": Source(
        folder="msk",
        columns=Columns(patient="id_block", none={"mask_fracture": "fractured"}),
        tasks=("fractured", "fracture"),
    ),
}
TARGETS = ("findings", "fractured", "lungs")  # fine-tuned one by one
VIEWS = Augment(rotate=10, scale=0.1, shift=0.05, brightness=0, contrast=0, noise=0, flip=True)
SUPERVISED = Augment(rotate=10, scale=0.1, shift=0.05, brightness=0, contrast=0, noise=0)
MOCO = Plan(
    epochs=12,
    batch_size=64,
    learning_rate=0.06,
    optimizer="sgd",
    weight_decay=5e-4,
    warmup=0.0,
    clip=0.0,
    ema=0.0,
    augment=VIEWS,
)
SD_EPOCHS = 21  # 414 + 30 chest images against 771 in all: as many steps as MD-MoCo
LEARNER = Contrastive(queue=512, momentum=0.99, temperature=0.1)
VISITS = Plan(
    epochs=1, batch_size=32, learning_rate=1e-2, optimizer="sgd", weight_decay=0.0, ema=0.0, augment=SUPERVISED
)
PLAIN = Rounds(rounds=3, reshuffle=False, schedule="constant", alpha=0.0, beta=0.0)
ARMS = {
    "i": PLAIN,  # MTPret--
    "ii": Rounds(rounds=3, reshuffle=False, schedule="constant"),
    "iii": Rounds(rounds=3, reshuffle=True, schedule="constant", alpha=0.0, beta=0.0),
    "iv": Rounds(rounds=3, reshuffle=False, schedule="cyclic", alpha=0.0, beta=0.0),
    "v": Rounds(rounds=3),  # MTPret
}
TUNE = Plan(epochs=8, batch_size=32, learning_rate=5e-4, weight_decay=0.01, ema=0.0, augment=SUPERVISED)
COLUMNS = ("scratch", "sd-moco", "md-moco", "mtpret--", "mtpret", "control")
PAIRS = (
    ("md-moco", "scratch"),
    ("md-moco", "sd-moco"),
    ("mtpret--", "md-moco"),
    ("mtpret", "md-moco"),
    ("mtpret", "mtpret--"),
    ("mtpret", "scratch"),
    ("control", "md-moco"),
)


def main() -> None:
    """See the file's head."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("what", choices=["run", "drift", "forget", "table"])
    parser.add_argument("paths", nargs="+", type=Path)
    parser.add_argument("--seed", type=int, default=1)
    given = parser.parse_args()
    if given.what == "table":
        print(table(given.paths[0]))
        return
    data, out = given.paths
    dataset, faults = read_joined(data, SOURCES, TASKS, seed=0)
    faults.refuse(str(data))
    {"drift": measure_drift, "forget": measure_forgetting, "run": run_seed}[given.what](dataset, out, given.seed)


def run_seed(dataset: Dataset, out: Path, seed: int) -> None:
    """Every arm of one seed; what is finished is not done again."""
    root, cache = out / f"seed-{seed}", out / "cache"
    cache.mkdir(parents=True, exist_ok=True)
    common: dict[str, Any] = {"cache": cache, "seed": seed, "report": quiet}

    def once(name: str, work: Any) -> Path:
        folder = root / name
        if not (folder / "done").exists():
            folder.mkdir(parents=True, exist_ok=True)
            start = time.perf_counter()
            work(folder)
            (folder / "done").write_text("")
            say(f"seed {seed}: {name} in {time.perf_counter() - start:.0f} s")
        return folder

    def contrast(only: tuple[str, ...], epochs: int) -> Any:
        how, plan = replaced(LEARNER, only=only), replaced(MOCO, epochs=epochs)
        return lambda folder: pretrain(dataset, BACKBONE, SPEC, how, plan, folder=folder, **common)

    def visits(data: Dataset, rounds: Rounds, start: Path) -> Any:
        return lambda folder: learn_continually(data, SHAPE, VISITS, rounds, start=start, folder=folder, **common)

    sd = once("sd-moco", contrast(("cxr",), SD_EPOCHS))
    md = once("md-moco", contrast((), MOCO.epochs))
    arms = {name: once(f"visits-{name}", visits(dataset, rounds, md)) for name, rounds in ARMS.items()}
    stage = once("visits-v-stage", visits(dataset, replaced(ARMS["v"], anchor="stage_start"), md))
    control = once("visits-control", visits(permuted(dataset, seed), replaced(ARMS["v"], rounds=6), md))
    starts = {
        "scratch": None,
        "sd-moco": sd,
        "md-moco": md,
        "mtpret--": arms["i"],
        "mtpret": arms["v"],
        "control": control,
    }
    result: dict[str, Any] = {"scores": {}, "forgetting": {}, "drift": {}, "probe": probes(dataset, md, cache, seed)}
    for column, start in starts.items():
        for task in TARGETS:
            only = dataset.only([task])
            folder = once(
                f"tuned-{column}-{task}",
                lambda folder, only=only, start=start: train_teacher(
                    only, SHAPE, TUNE, start=start, folder=folder, **common
                ),
            )
            result["scores"].setdefault(column, {})[task] = test_score(load_network(folder), only, cache)
    for name, folder in {**arms, "v-stage": stage, "control": control}.items():
        history = read_history(folder)
        lost = forgetting(history)
        result["forgetting"][name] = {**lost, "mean": float(np.mean(list(lost.values())))}
        result["drift"][name] = history[-1].measures["drift"]
    (root / "result.json").write_text(json.dumps(result, indent=1))
    say(f"seed {seed}: finished")


def measure_drift(dataset: Dataset, out: Path, seed: int) -> None:
    """Gate 1: drift of a visit against alpha, same seed, order and rate; needs the seed's MD-MoCo."""
    found = {}
    for alpha in (0.0, 0.01, 0.1, 1.0):
        folder = out / f"seed-{seed}" / f"drift-{alpha:g}"
        folder.mkdir(parents=True, exist_ok=True)
        rounds = replaced(ARMS["i"], rounds=1, alpha=alpha)
        learn_continually(
            dataset,
            SHAPE,
            VISITS,
            rounds,
            start=out / f"seed-{seed}" / "md-moco",
            folder=folder,
            cache=out / "cache",
            seed=seed,
            report=quiet,
        )
        found[f"{alpha:g}"] = [visit.measures["visit_drift"] for visit in read_history(folder)]
    (out / "drift.json").write_text(json.dumps(found, indent=1))
    say(json.dumps(found))


def measure_forgetting(dataset: Dataset, out: Path, seed: int) -> None:
    """The second protocol: arms i and v at ten times the rate, on validation scores; needs the seed's MD-MoCo."""
    root, found = out / f"seed-{seed}", {}
    plan = replaced(VISITS, learning_rate=10 * VISITS.learning_rate)
    for name in ("i", "v"):
        folder = root / f"forget-{name}"
        folder.mkdir(parents=True, exist_ok=True)
        learn_continually(
            dataset,
            SHAPE,
            plan,
            replaced(ARMS[name], low=10 * ARMS[name].low),
            start=root / "md-moco",
            folder=folder,
            cache=out / "cache",
            seed=seed,
            report=quiet,
        )
        history = read_history(folder)
        lost = forgetting(history)
        found[name] = {
            "forgetting": float(np.mean(list(lost.values()))),
            "drift": history[-1].measures["drift"],
            "last": history[-1].scores,
        }
    (root / "forget.json").write_text(json.dumps(found, indent=1))
    say(f"seed {seed}: {json.dumps(found)}")


def probes(dataset: Dataset, md: Path, cache: Path, seed: int) -> dict[str, dict[str, float]]:
    """Linear-probe AUC on the test split of frozen features: random weights against MD-MoCo's."""
    found: dict[str, dict[str, float]] = {}
    for name in ("random", "md-moco"):
        network = new_network("teacher", dataset, SHAPE, seed)
        if name == "md-moco":
            start_from_step(network, md)
        encoder = Encoder(BACKBONE, SPEC)
        encoder.backbone.load_state_dict(network.backbone.state_dict())
        for task in ("findings", "fractured"):
            only = dataset.only([task])
            train, test = (prepare_arrays(only.subset(part), SPEC, cache=cache) for part in ("train", "test"))
            features = [
                pooled_features(encoder.eval(), part.images, device=torch.device("cpu")) for part in (train, test)
            ]
            kind = only.task(task).kind
            measured = linear_probe(
                features[0],
                train.scalars[task],
                features[1],
                test.scalars[task],
                kind,
                c=0.01,
            )
            found.setdefault(name, {})[task] = measured["auc"]
    return found


def test_score(network: Network, dataset: Dataset, cache: Path) -> float:
    """Area under the ROC curve (mean over labels), or Dice, on the test split."""
    arrays: Arrays = prepare_arrays(dataset.subset("test"), SPEC, cache=cache)
    scores = score_answers(network.tasks, answer_images(network, arrays.images), arrays, network.target_scale)
    task = network.tasks[0]
    score = scores.by_task[task.name]
    return (score + 1) / 2 if task.kind in ("binary", "multilabel") else score


def permuted(dataset: Dataset, seed: int) -> Dataset:
    """The negative control: both classification tasks, their targets dealt out anew among the images of each split."""
    only = dataset.only(["findings", "fractured"], labelled=False)
    rng = np.random.default_rng([seed, 11])
    scalars = {name: values.copy() for name, values in only.scalars.items()}
    for split in ("train", "val", "test"):
        inside = np.array([sample.split == split for sample in only.samples])
        for task in only.tasks:
            places = np.flatnonzero(inside & only.known(task.name))
            scalars[task.name][places] = only.scalars[task.name][rng.permutation(places)]
    dealt: Dataset = replaced(only, scalars=scalars)
    return dealt


def table(out: Path) -> str:
    """Markdown of all finished seeds."""
    results = [json.loads(path.read_text()) for path in sorted(out.glob("seed-*/result.json"))]
    lines = [f"{len(results)} seeds", "", "| | " + " | ".join(TARGETS) + " | mean AUC |", "|---" * 5 + "|"]
    by_arm = {arm: np.array([scores_of(r, arm) for r in results]) for arm in COLUMNS}
    for arm, values in by_arm.items():
        lines.append(
            f"| {arm} | "
            + " | ".join(f"{x:.3f} ± {s:.3f}" for x, s in zip(values.mean(0), values.std(0, ddof=1), strict=True))
            + " |"
        )
    lines += ["", "| paired difference | " + " | ".join(TARGETS) + " | mean AUC |", "|---" * 5 + "|"]
    for one, other in PAIRS:
        cells = [paired(by_arm[one][:, k] - by_arm[other][:, k]) for k in range(len(TARGETS) + 1)]
        lines.append(f"| {one} - {other} | " + " | ".join(cells) + " |")
    lines += ["", "| arm | mean forgetting | drift |", "|---|---|---|"]
    for arm in results[0]["forgetting"]:
        lost = np.array([r["forgetting"][arm]["mean"] for r in results])
        drift = np.array([r["drift"][arm] for r in results])
        lines.append(f"| {arm} | {lost.mean():.3f} ± {lost.std(ddof=1):.3f} | {drift.mean():.3f} |")
    lost = np.array([r["forgetting"]["v"]["mean"] - r["forgetting"]["i"]["mean"] for r in results])
    lines += ["", f"forgetting of v - i: {paired(lost)}", "", "| probe AUC | findings | fractured |", "|---|---|---|"]
    for name in ("random", "md-moco"):
        values = np.array([[r["probe"][name][task] for task in ("findings", "fractured")] for r in results])
        lines.append(f"| {name} | " + " | ".join(f"{x:.3f}" for x in values.mean(0)) + " |")
    gains = np.array(
        [[r["probe"]["md-moco"][k] - r["probe"]["random"][k] for k in ("findings", "fractured")] for r in results]
    )
    lines.append("| difference | " + " | ".join(paired(gains[:, k]) for k in range(2)) + " |")
    again = [json.loads(path.read_text()) for path in sorted(out.glob("seed-*/forget.json"))]
    if len(again) > 1:
        lines += [
            "",
            "| second protocol | mean forgetting | drift | " + " | ".join(TASK_NAMES) + " |",
            "|---" * 7 + "|",
        ]
        for arm in ("i", "v"):
            lost, drift = (np.array([r[arm][key] for r in again]) for key in ("forgetting", "drift"))
            last = np.array([[r[arm]["last"][name] for name in TASK_NAMES] for r in again]).mean(0)
            shown = " | ".join(f"{x:.3f}" for x in last)
            lines.append(f"| {arm} | {lost.mean():.3f} ± {lost.std(ddof=1):.3f} | {drift.mean():.3f} | {shown} |")
        lost = np.array([r["v"]["forgetting"] - r["i"]["forgetting"] for r in again])
        lines.append(f"\nsecond protocol, forgetting of v - i: {paired(lost)}")
    return "\n".join(lines)


def scores_of(result: dict[str, Any], arm: str) -> list[float]:
    """The targets' scores, and the mean of the two areas under the curve."""
    scores = [result["scores"][arm][task] for task in TARGETS]
    return [*scores, (scores[0] + scores[1]) / 2]


def paired(differences: np.ndarray) -> str:
    """Mean, 95 % interval by Student's t over seeds, and the sign test's p."""
    n = len(differences)
    mean, reach = differences.mean(), student_t.ppf(0.975, n - 1) * differences.std(ddof=1) / n**0.5
    p = binomtest(int((differences > 0).sum()), int((differences != 0).sum()) or 1).pvalue
    return f"{mean:+.3f} [{mean - reach:+.3f}, {mean + reach:+.3f}], p {p:.2f}"


def replaced(struct: Any, **changes: Any) -> Any:
    """A struct with other fields."""
    import msgspec

    return msgspec.structs.replace(struct, **changes)


def quiet(done: float, total: float, text: str = "") -> None:
    """No progress."""


def say(text: str) -> None:
    """One line, at once."""
    print(text, flush=True, file=sys.stdout)


if __name__ == "__main__":
    main()
