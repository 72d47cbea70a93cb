"""After MT-CooL in miniature: the game against the sum, and whether a flat teacher is robust and more quantisable.

The protocol (data, arms, seeds, measures, bars) stands in docs/mtcool.md, "The ablation's protocol", and was written
before the first run. OrganCMNIST is not at hand: the organ phantom and RetinaMNIST stand in for it.

    python bench/mtcool_ablation.py run OUT.jsonl --retina retinamnist.npz   # goes on where it was stopped
    python bench/mtcool_ablation.py table OUT.jsonl                          # Markdown of all finished seeds

One process, one thread; a line of JSON for every finished training. Needs `torchjd` (extra `bench`).
"""

from __future__ import annotations

import argparse
import copy
import csv
import json
import tempfile
import time
from pathlib import Path
from typing import Any, Literal

import msgspec
import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from scipy.stats import binomtest, bootstrap
from torch import Tensor, nn
from torchjd.aggregation import IMTLG, PCGrad

from foveola.runtime.manifest import InputSpec
from foveola.runtime.task import Task
from foveola.toolkit.answers import RawAnswers, answer_images
from foveola.toolkit.batches import Batch
from foveola.toolkit.checkpoint import Objective
from foveola.toolkit.course import Course, Scores
from foveola.toolkit.data.arrays import Arrays, prepare_arrays
from foveola.toolkit.data.dataset import Dataset, read_dataset
from foveola.toolkit.data.phantom_organ import make_organs
from foveola.toolkit.fit import fit
from foveola.toolkit.knobs import Augment, Lessons, Plan, Shape
from foveola.toolkit.score import score_answers
from foveola.toolkit.teachers.continual import labelled_places
from foveola.toolkit.teachers.mtcool.course import Play, TurnCourse
from foveola.toolkit.teachers.mtcool.learn import Build, new_cooperative, tensors
from foveola.toolkit.teachers.mtcool.measure import (
    PLAIN,
    Change,
    as_they_are,
    coarsely,
    judge_changed,
    randomly,
    relative_gain,
    worst,
)
from foveola.toolkit.teachers.mtcool.objective import Cooperation, Flat, frozen
from foveola.toolkit.teachers.mtcool.perturb import quantised
from foveola.toolkit.teachers.mtcool.teacher import Cooperative
from foveola.toolkit.train import distil_student

SEEDS = range(5)
SIDE = 32
TEACHER, STUDENT = "test_resnet", "test_efficientnet"  # timm's names of very small networks
EPOCHS, ALONE, BATCH, RATE = 24, 6, 24, 2e-3
STILL = Augment(rotate=5, scale=0.05, shift=0.04, brightness=0.05, contrast=0.1, noise=0.0)
PLAN = Plan(
    epochs=EPOCHS,
    batch_size=BATCH,
    learning_rate=RATE,
    optimizer="adam",
    weight_decay=0.0,
    warmup=0.05,
    ema=0.0,
    augment=STILL,
)
PLAY = Play(inner=1, alone=ALONE, back=0, keep="last")
ORGAN_TASKS = (
    Task(
        name="organ_group",
        kind="multiclass",
        classes=("bladder", "femur", "heart", "kidney", "liver", "lung", "pancreas", "spleen"),
    ),
    Task(name="side", kind="multiclass", classes=("left", "right", "unpaired")),
    Task(name="region", kind="multiclass", classes=("thorax", "abdomen", "pelvis")),
)
RETINA_TASKS = (
    Task(name="grade", kind="ordinal", classes=("none", "mild", "moderate", "severe", "proliferative")),
    Task(name="referable", kind="binary", classes=("no|0", "yes|1")),
    Task(name="severe", kind="binary", classes=("no|0", "yes|1")),
)
DATA = ("organ", "retina")
COOPERATIVE = {
    "rho 0": Flat(perturb="none"),
    "flat": Flat(perturb="sam-feature", rho=0.1),
    "noise": Flat(perturb="noise", rho=0.2),
    "weights": Flat(perturb="sam-param", rho=0.05),
}
JOINT = ("sum", "uncertainty", "pcgrad", "imtl-g")
CONTROL = ("control rho 0", "control flat")
ARMS = {
    "organ": ("single", "independent", *JOINT, *COOPERATIVE, *CONTROL),
    "retina": ("single", "independent", "sum", "pcgrad", "rho 0", "flat"),
}
RADII = (0.05, 0.1, 0.2, 0.5)
BITS = (8, 4, 3)


def main() -> None:
    """See the file's head."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("what", choices=["run", "time", "table"])
    parser.add_argument("out", type=Path)
    parser.add_argument("--retina", type=Path)
    given = parser.parse_args()
    torch.set_num_threads(1)
    if given.what == "table":
        print(table(read(given.out)))
    elif given.what == "time":
        # Another seed than the protocol's; shown are how long each arm takes, and what single-task training scores.
        with tempfile.TemporaryDirectory() as folder:
            dataset = make_data("organ", 99, Path(folder) / "data", given.retina)
            for arm in ARMS["organ"]:
                start = time.process_time()
                found = run_arm(arm, dataset, 99, Path(folder) / arm.replace(" ", "-"))
                shown = found["scores"] if arm == "single" else ""
                print(arm, f"{time.process_time() - start:.1f} s", shown, flush=True)
    else:
        run(given.out, given.retina)


def run(out: Path, retina: Path) -> None:
    """All data sets, seeds and arms; what is finished is not done again."""
    finished = {(line["data"], line["seed"], line["arm"]) for line in read(out)}
    for seed in SEEDS:
        for data in DATA:
            missing = [arm for arm in ARMS[data] if (data, seed, arm) not in finished]
            if not missing:
                continue
            with tempfile.TemporaryDirectory() as folder:
                dataset = make_data(data, seed, Path(folder) / "data", retina)
                for arm in missing:
                    start = time.process_time()
                    line = run_arm(arm, dataset, seed, Path(folder) / arm.replace(" ", "-"))
                    line |= {"data": data, "seed": seed, "arm": arm, "seconds": time.process_time() - start}
                    with out.open("a", encoding="utf-8") as stream:
                        stream.write(json.dumps(line) + "\n")
                    print(data, seed, arm, f"{line['seconds']:.0f} s", flush=True)


def read(out: Path) -> list[dict[str, Any]]:
    """The finished lines."""
    return [json.loads(line) for line in out.read_text().splitlines()] if out.exists() else []


def make_data(name: str, seed: int, root: Path, retina: Path | None) -> Dataset:
    """New organ phantoms for each seed, or another draw of RetinaMNIST's train images."""
    if name == "organ":
        make_organs(root, patients=340, seed=seed, size=SIDE, shares={"train": 0.25, "val": 0.1, "test": 0.65})
        return read_dataset(root, ORGAN_TASKS)
    assert retina is not None
    archive = np.load(retina, allow_pickle=False)
    (root / "images").mkdir(parents=True)
    chosen = {"train": np.random.default_rng([seed, 5]).permutation(len(archive["train_labels"]))[:320]}
    rows = []
    for split in ("train", "val", "test"):
        places = chosen.get(split, np.arange(len(archive[f"{split}_labels"])))
        for place in places:
            file, grade = f"images/{split}_{place}.png", int(archive[f"{split}_labels"][place, 0])
            Image.fromarray(archive[f"{split}_images"][place]).save(root / file)
            label = ("none", "mild", "moderate", "severe", "proliferative")[grade]
            patient = f"{split}{place}"
            rows.append((file, patient, split, label, int(grade >= 2), int(grade >= 3)))
    with (root / "manifest.csv").open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream)
        writer.writerow(("file", "patient_id", "split", "grade", "referable", "severe"))
        writer.writerows(rows)
    return read_dataset(root, RETINA_TASKS)


def spec_of(dataset: Dataset) -> InputSpec:
    """How the networks are fed: the picture as it is."""
    channels: Literal[1, 3] = 1 if any(task.name == "organ_group" for task in dataset.tasks) else 3
    return InputSpec(height=SIDE, width=SIDE, channels=channels, mean=(0.5,) * channels, std=(0.25,) * channels)


def run_arm(arm: str, dataset: Dataset, seed: int, folder: Path) -> dict[str, Any]:
    """Train one arm and judge it on the test split."""
    folder.mkdir(parents=True)
    build = Build(backbone=TEACHER, input=spec_of(dataset))
    spec = build.input
    arrays = {split: prepare_arrays(dataset.subset(split), spec) for split in ("train", "test")}
    if arm in JOINT:
        network = joint(dataset, build, arrays["train"], arm, seed, folder)
        return {"scores": judge(dataset, network, arrays["test"])}
    if arm.startswith("control"):
        dealt = control(dataset, seed)
        shuffled = prepare_arrays(dealt.subset("train"), spec)
        how = COOPERATIVE[arm.removeprefix("control ")]
        teacher = cooperative(dealt, build, shuffled, how, PLAY, seed, folder)
        return {"scores": scores_of(teacher, arrays["test"])}
    alone = arm in ("single", "independent")
    play = msgspec.structs.replace(PLAY, alone=EPOCHS) if alone else PLAY
    teacher = cooperative(
        dataset, build, arrays["train"], COOPERATIVE.get(arm, Flat(perturb="none")), play, seed, folder
    )
    if arm == "independent":
        gather(teacher, dataset, arrays["train"], seed, folder)
    found: dict[str, Any] = {"scores": scores_of(teacher, arrays["test"])}
    if arm in COOPERATIVE:
        found |= robustness(teacher, arrays["test"], seed)
    if arm in ("rho 0", "flat"):
        found["student"] = student_bits(teacher, dataset, arrays, seed, folder)
    return found


def cooperative(
    dataset: Dataset, build: Build, train: Arrays, flat: Flat, play: Play, seed: int, folder: Path
) -> Cooperative:
    """Sub-models that learn in turn, or each alone."""
    teacher = new_cooperative(dataset, build, seed)
    course = TurnCourse(tensors(teacher, train), unjudged, PLAN, play, labelled_places(dataset), seed=seed)
    fit(Cooperation(teacher, flat), course, seed=seed, folder=folder / "fit", report=quiet)
    return teacher.eval()


def gather(teacher: Cooperative, dataset: Dataset, train: Arrays, seed: int, folder: Path) -> None:
    """Equal parameters: the encoders stay as they learned alone, the readers learn from all features side by side."""
    play = msgspec.structs.replace(PLAY, alone=0)
    course = TurnCourse(tensors(teacher, train), unjudged, PLAN, play, labelled_places(dataset), seed=seed + 1)
    fit(Readers(teacher, Flat(perturb="none")), course, seed=seed + 1, folder=folder / "gather", report=quiet)
    teacher.eval()


class Readers(Cooperation):
    """Only readers learn; all encoders stay in evaluation mode."""

    def learning(self) -> list[nn.Module]:
        """The reader of the turn."""
        return [self.network.reader(self.turn)]

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """The loss, without gradient for the encoder."""
        with frozen([self.network.encoder(self.turn)]):
            return super().forward(batch)


class Joint(Objective):
    """One encoder and K heads: the losses summed, weighted by learned uncertainty, or their gradients reconciled.

    Uncertainty: Kendall et al., CVPR 2018. PCGrad: Yu et al., NeurIPS 2020. IMTL-G: Liu et al., ICLR 2021. A reconciled
    gradient enters the loop as the loss whose gradient it is.
    """

    network: Cooperative

    def __init__(self, network: Cooperative, how: str) -> None:
        super().__init__(network)
        self.how = how
        self.deviations = nn.Parameter(torch.zeros(len(network.tasks)))
        self.reconcile = {"pcgrad": PCGrad(), "imtl-g": IMTLG()}.get(how)

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """One loss."""
        network = self.network
        encoder = network.encoder(network.names[0])
        pyramid = encoder(network.see(batch.images))
        losses = torch.stack(
            [network.reader(task.name).loss(pyramid, None, batch.target(task)) for task in network.tasks]
        )
        if self.how == "uncertainty":
            return {"joint": (torch.exp(-self.deviations) * losses + self.deviations).sum()}
        if self.reconcile is None or not torch.is_grad_enabled():
            return {"joint": losses.sum()}
        shared = [weight for weight in encoder.parameters() if weight.requires_grad]
        rows = [torch.autograd.grad(loss, shared, retain_graph=True) for loss in losses]
        matrix = torch.stack([torch.cat([slope.flatten() for slope in row]) for row in rows])
        with torch.no_grad():
            slope = self.reconcile(matrix)
        flat = torch.cat([weight.flatten() for weight in shared])
        fixed = {stride: x.detach() for stride, x in pyramid.items()}
        heads = [network.reader(task.name).loss(fixed, None, batch.target(task)) for task in network.tasks]
        return {"joint": (flat * slope).sum() + torch.stack(heads).sum()}


def joint(dataset: Dataset, build: Build, train: Arrays, how: str, seed: int, folder: Path) -> Cooperative:
    """A shared encoder: as many updates, each with all tasks' losses."""
    network = new_cooperative(dataset, build, seed)
    course = Course(tensors(network, train), unjudged, PLAN)
    course.keeps_last = True
    fit(Joint(network, how), course, seed=seed, folder=folder / "fit", report=quiet)
    return network.eval()


def judge(dataset: Dataset, network: Cooperative, test: Arrays) -> dict[str, float]:
    """Scores of one shared encoder with K heads."""
    raw: dict[str, list[NDArray[np.float32]]] = {task.name: [] for task in dataset.tasks}
    with torch.inference_mode():
        for start in range(0, len(test), 64):
            x = torch.from_numpy(np.array(test.images[start : start + 64]))
            pyramid = network.encoder(network.names[0])(network.see(x))
            for task in dataset.tasks:
                raw[task.name].append(network.reader(task.name).read(pyramid, None)[1][task.name].numpy())
    return scores(dataset.tasks, {name: np.concatenate(parts) for name, parts in raw.items()}, test)


def scores_of(teacher: Any, test: Arrays) -> dict[str, float]:
    """Scores of a teacher or student."""
    return scores(teacher.tasks, answer_images(teacher.eval(), test.images).raw, test)


def scores(tasks: tuple[Task, ...], raw: dict[str, NDArray[np.float32]], test: Arrays) -> dict[str, float]:
    """Accuracy, area under the ROC curve, or quadratic kappa by task; for organs also of the eleven labels."""
    by_task = score_answers(tasks, RawAnswers(raw), test, {}).by_task
    kinds = {task.name: task.kind for task in tasks}
    found = {name: (score + 1) / 2 if kinds[name] == "binary" else score for name, score in by_task.items()}
    if "side" in raw:
        right = [raw[name].argmax(1) == test.scalars[name][:, 0] for name in ("organ_group", "side")]
        found["eleven"] = float(np.mean(right[0] & right[1]))
    return found


def mean_score(found: dict[str, float]) -> float:
    """Mean over the tasks."""
    return float(np.mean([value for name, value in found.items() if name != "eleven"]))


def robustness(teacher: Cooperative, test: Arrays, seed: int) -> dict[str, Any]:
    """Mean over tasks: rise of the loss by radius, and loss of score under perturbation and coarse features."""
    changes: dict[str, Change] = {f"worst {r}": worst(r) for r in RADII}
    changes |= {f"random {r}": randomly(r, seed) for r in RADII}
    changes |= {f"bits {b}": coarsely(b) for b in BITS}
    kept = judge_changed(teacher, tensors(teacher, test), test, {PLAIN: as_they_are} | changes)

    def mean_of(name: str) -> tuple[float, float]:
        loss = float(np.mean([by_change[name].loss for by_change in kept.values()]))
        return loss, float(np.mean([by_change[name].score or 0.0 for by_change in kept.values()]))

    (loss, score), after = mean_of(PLAIN), {name: mean_of(name) for name in changes}
    found: dict[str, Any] = {
        "rise": {name: value[0] - loss for name, value in after.items()},
        "lost": {name: score - value[1] for name, value in after.items()},
    }
    plain = mean_score(scores_of(teacher, test))
    found["weights lost"] = {
        str(bits): plain - mean_score(scores_of(coarse_weights(teacher, bits), test)) for bits in BITS
    }
    return found


def coarse_weights(module: Any, bits: int) -> Any:
    """A copy whose kernels and matrices are rounded to 2^bits levels between each output channel's extremes."""
    rounded = copy.deepcopy(module)
    with torch.no_grad():
        for weight in rounded.parameters():
            if weight.dim() > 1:
                weight.copy_(torch.stack([quantised([row], bits)[0] for row in weight]))
    return rounded


def student_bits(
    teacher: Cooperative, dataset: Dataset, arrays: dict[str, Arrays], seed: int, folder: Path
) -> dict[str, Any]:
    """A student of one encoder: its scores, and what it loses with coarse weights."""
    answers = answer_images(teacher, arrays["train"].images, hint=True)
    place = folder / "student"
    place.mkdir()
    student = distil_student(
        dataset,
        Shape(backbone=STUDENT, input=teacher.input, width=16),
        msgspec.structs.replace(PLAN, epochs=2 * EPOCHS, optimizer="adamw"),
        answers,
        taught_on=teacher.input,
        lessons=Lessons(),
        folder=place,
        cache=folder / "cache",
        seed=seed,
        report=quiet,
    )
    found = scores_of(student, arrays["test"])
    lost = {
        str(bits): mean_score(found) - mean_score(scores_of(coarse_weights(student, bits), arrays["test"]))
        for bits in BITS
    }
    return {"scores": found, "weights lost": lost}


def control(dataset: Dataset, seed: int) -> Dataset:
    """The negative control: the first task as it is, the others' train targets dealt out anew among the images."""
    rng = np.random.default_rng([seed, 13])
    inside = np.flatnonzero([sample.split == "train" for sample in dataset.samples])
    scalars = {name: values.copy() for name, values in dataset.scalars.items()}
    for task in dataset.tasks[1:]:
        scalars[task.name][inside] = dataset.scalars[task.name][rng.permutation(inside)]
    return msgspec.structs.replace(dataset, scalars=scalars)


def table(lines: list[dict[str, Any]]) -> str:
    """Markdown of what is finished."""
    parts = []
    for data in DATA:
        found = Finished(data, [line for line in lines if line["data"] == data])
        head = f"### {data}: {len(found.seeds)} seeds"
        parts += [
            [head],
            *([found.scores(), found.differences(), found.robust(), found.students()] if found.seeds else []),
        ]
    return "\n\n".join("\n".join(part) for part in parts)


class Finished:
    """The seeds of one data set of which every arm is finished, as tables."""

    def __init__(self, data: str, lines: list[dict[str, Any]]) -> None:
        self.arms = ARMS[data]
        self.by = {(line["seed"], line["arm"]): line for line in lines}
        seeds = {seed for seed, _ in self.by}
        self.seeds = sorted(seed for seed in seeds if all((seed, arm) in self.by for arm in self.arms))
        for line in lines:
            line["mean"] = mean_score(line["scores"])
            if "student" in line:
                line["student"]["mean"] = mean_score(line["student"]["scores"])
        self.names = list(lines[0]["scores"]) if lines else []
        self.tasks = [name for name in self.names if name != "eleven"]

    def of(self, arm: str, *path: str) -> NDArray[np.float64]:
        """One number of an arm, a value a seed."""
        found = []
        for seed in self.seeds:
            value: Any = self.by[seed, arm]
            for key in path:
                value = value[key]
            found.append(float(value))
        return np.array(found)

    def scores(self) -> list[str]:
        """Scores by arm."""
        out = table_head("arm", *self.names, "mean", "Delta_m")
        for arm in self.arms:
            if arm not in CONTROL:
                cells = [f"{self.of(arm, 'scores', name).mean():.3f}" for name in self.names]
                cells += [f"{self.of(arm, 'mean').mean():.3f}", f"{100 * self.gain(arm):+.1f} %"]
                out.append(row(arm, *cells))
        return out

    def gain(self, arm: str) -> float:
        """Delta_m against single-task training, mean over seeds."""
        gains = []
        for seed in self.seeds:
            own, single = (self.by[seed, one]["scores"] for one in (arm, "single"))
            gains.append(relative_gain({name: own[name] for name in self.tasks}, single))
        return float(np.mean(gains))

    def differences(self) -> list[str]:
        """Paired differences of scores."""
        out = table_head("paired difference", "mean, 95 % interval, sign test")
        pairs = [("flat", arm) for arm in self.arms if arm != "flat" and arm not in CONTROL]
        for one, other in [*pairs, ("rho 0", "sum"), ("rho 0", "single")]:
            found = self.of(one, "mean") - self.of(other, "mean")
            out.append(row(f"mean score: {one} - {other}", paired(found)))
        first = self.tasks[0]
        for arm in self.arms:
            if arm in CONTROL:
                found = self.of(arm, "scores", first) - self.of("single", "scores", first)
                out.append(row(f"{first}: {arm} - single", paired(found)))
        return out

    def robust(self) -> list[str]:
        """Flatness, and what coarse features and weights cost."""
        arms = [arm for arm in self.arms if arm in COOPERATIVE]
        out = table_head("measure", *arms, "flat - rho 0")
        first = self.by[self.seeds[0], "flat"]
        for kind in ("rise", "lost", "weights lost"):
            for key in first[kind]:
                cells = [f"{self.of(arm, kind, key).mean():.4f}" for arm in arms]
                found = self.of("flat", kind, key) - self.of("rho 0", kind, key)
                out.append(row(f"{kind}, {key}", *cells, paired(found, 4)))
        return out

    def students(self) -> list[str]:
        """Students of one encoder, and what rounding costs them."""
        out = table_head("student of", "mean score", *(f"lost at {bits} bits" for bits in BITS))
        places = [("student", "mean"), *(("student", "weights lost", str(bits)) for bits in BITS)]
        for arm in ("rho 0", "flat"):
            out.append(row(arm, *(f"{self.of(arm, *place).mean():.4f}" for place in places)))
        pairs = [paired(self.of("flat", *place) - self.of("rho 0", *place), 4) for place in places]
        return [*out, row("flat - rho 0", *pairs)]


def table_head(*cells: str) -> list[str]:
    """Head of a Markdown table."""
    return [row(*cells), "|---" * len(cells) + "|"]


def row(*cells: str) -> str:
    """Row of a Markdown table."""
    return "| " + " | ".join(cells) + " |"


def paired(differences: NDArray[np.float64], digits: int = 3) -> str:
    """Mean, 95 % bootstrap interval over seeds, and the sign test's p."""
    mean = differences.mean()
    if np.ptp(differences) == 0 or len(differences) < 2:
        return f"{mean:+.{digits}f}"
    found = bootstrap((differences,), np.mean, n_resamples=10_000, method="percentile", rng=np.random.default_rng(0))
    low, high = found.confidence_interval
    signs = binomtest(int((differences > 0).sum()), int((differences != 0).sum()) or 1).pvalue
    return f"{mean:+.{digits}f} [{low:+.{digits}f}, {high:+.{digits}f}], p {signs:.2f}"


def unjudged(network: nn.Module) -> Scores:
    """Nothing is chosen by validation: all arms keep their last weights."""
    return Scores(0.0, {})


def quiet(done: float, total: float, text: str = "") -> None:
    """No progress."""


if __name__ == "__main__":
    main()
