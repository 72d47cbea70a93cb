"""What each lesson of distillation is worth: one lever changed at a time, paired seeds, one set of cached answers.

    python bench/distil_ablation.py run chest-xray RUN OUT --seeds 3 --set data.root=DATA
    python bench/distil_ablation.py run chest-xray RUN OUT --seeds 1 --epochs 2 --arms base,reference   # a short trial
    python bench/distil_ablation.py table OUT

RUN is the folder of a finished run of the recipe (runs/chest-xray), whose teacher is taken and asked once. The student,
its epochs and its batch are those of the recipe's `student` step. A run that is stopped goes on where it was: an arm of
a seed that is finished is not trained again, one that was begun resumes at its last epoch.

A seed decides the first weights, the order and the variation of the pictures, so arms of one seed differ in the lesson
alone. The epoch is chosen on the validation split and scored on the test split: area under the ROC curve (mean over
labels), accuracy, skill 1 - MAE / MAE of the median, Dice, or mean average precision at IoU 0.5.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
import time
from pathlib import Path

import msgspec
import numpy as np
from numpy.typing import NDArray
from scipy.stats import t as student_t

from foveola.runtime.errors import FoveolaError
from foveola.toolkit.answers import RawAnswers, answer_images
from foveola.toolkit.compress.joined import Voice, join_voices
from foveola.toolkit.compress.lessons import cached_answers
from foveola.toolkit.data.arrays import prepare_arrays
from foveola.toolkit.data.dataset import Dataset
from foveola.toolkit.knobs import Lessons, Plan, Shape
from foveola.toolkit.models.network import Network, load_network
from foveola.toolkit.progress import SilentProgress
from foveola.toolkit.recipe import Recipe, find_recipe, read_recipe
from foveola.toolkit.score import score_answers
from foveola.toolkit.stages.data import dataset_of
from foveola.toolkit.stages.distill import Distill
from foveola.toolkit.stages.table import STAGES
from foveola.toolkit.teachers.load import read_input, read_scale
from foveola.toolkit.train import distil_student
from foveola.toolkit.work import Work

BASE = Lessons()


class Arm(msgspec.Struct, frozen=True):
    """One training of every seed.

    Args:
        lessons: how the teacher teaches.
        told: what differs, for the table.
        against: the arm that it is compared with.
        hidden: share of the train images whose targets are hidden.
        second: learns from both teachers.
    """

    lessons: Lessons
    told: str
    against: str = "base"
    hidden: float = 0.0
    second: bool = False


ARMS = {
    "base": Arm(BASE, "defaults: divergence of answers, cosine hint, pixels, sure boxes"),
    "reference": Arm(Lessons(soft_weight=0, hint_weight=0), "no teacher: the reference standard alone"),
    "features": Arm(Lessons(soft_weight=0), "hint alone, no answers"),
    "answers": Arm(Lessons(hint_weight=0), "answers alone, no hint"),
    "dist": Arm(Lessons(class_lesson="dist"), "classes by correlation (DIST)"),
    "similarity": Arm(Lessons(hint="similarity"), "hint by similarity of images, no projection"),
    "attention": Arm(Lessons(hint="attention"), "hint by attention maps, no projection"),
    "foreground": Arm(Lessons(hint_foreground=0.5), "half of the hint on the teacher's boxes"),
    "relations": Arm(Lessons(relation_weight=0.1), "and relations of images (RKD), weight 0.1"),
    "channels": Arm(Lessons(mask_lesson="channels"), "masks by channels (CWD)"),
    "both": Arm(Lessons(mask_lesson="both"), "masks by pixels and channels"),
    "scores": Arm(Lessons(box_lesson="scores"), "boxes by the teacher's scores and regions"),
    "bounded": Arm(Lessons(value_lesson="bounded"), "values bounded by the teacher's error"),
    "uncertain": Arm(Lessons(value_lesson="uncertain"), "values with a learned variance"),
    "learned": Arm(Lessons(task_weights="learned"), "weights between tasks learned"),
    "half": Arm(Lessons(unlabelled=False), "half of the targets hidden, those images left out", "base", 0.5),
    "half-all": Arm(BASE, "half of the targets hidden, those images taught by the teacher", "half", 0.5),
    "two": Arm(BASE, "two teachers", second=True),
}


def main() -> None:
    """See the file's head."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parts = parser.add_subparsers(dest="what", required=True)
    run = parts.add_parser("run")
    run.add_argument("recipe")
    run.add_argument("run", type=Path, help="folder of a finished run of the recipe")
    run.add_argument("out", type=Path)
    run.add_argument("--seeds", type=int, default=3)
    run.add_argument("--epochs", type=int, default=0, help="0: those of the recipe")
    run.add_argument("--size", type=int, default=0, help="side of the student's input; 0: that of the recipe")
    run.add_argument("--arms", default="", help="names with commas; empty: all that the teachers allow")
    run.add_argument("--second", type=Path, help="folder of another teacher's step, for the arm `two`")
    run.add_argument("--set", action="append", default=[], help="a change of the recipe, as for `foveola run`")
    shown = parts.add_parser("table")
    shown.add_argument("out", type=Path)
    given = parser.parse_args()
    if given.what == "run":
        try:
            Ablation(given).all()
        except FoveolaError as error:
            sys.exit(str(error))
    print(table(given.out))


class Ablation:
    """The arms of all seeds, one after the other; a seed is finished before the next begins."""

    def __init__(self, given: argparse.Namespace) -> None:
        self.out: Path = given.out
        self.seeds: int = given.seeds
        self.cache: Path = given.out / "cache"
        self.cache.mkdir(parents=True, exist_ok=True)
        allowed = [name for name, arm in ARMS.items() if given.second or not arm.second]
        self.arms = given.arms.split(",") if given.arms else allowed
        unknown = [name for name in self.arms if name not in allowed]
        if unknown:
            raise FoveolaError("--arms", f"no arm {unknown[0]!r}", f"arms: {', '.join(allowed)}")
        recipe = read_recipe(find_recipe(given.recipe), STAGES, given.set)
        self.data = read_data(recipe, newest(given.run, "data-*"), self.cache)
        step = next(step.stage for step in recipe.steps if step.name == "student")
        assert isinstance(step, Distill)
        self.plan: Plan = msgspec.structs.replace(step.plan(), epochs=given.epochs or step.epochs)
        spec = step.input
        if given.size:
            spec = msgspec.structs.replace(spec, height=given.size, width=given.size)
        self.shape = Shape(
            backbone=step.backbone,
            input=spec,
            width=step.width,
            mask_stride=step.mask_stride,
            box_stride=step.box_stride,
        )
        self.weights = step.start()
        teachers = [newest(given.run, "teacher-*"), *([given.second] if given.second else [])]
        self.voices = [self.voice(folder) for folder in teachers]

    def voice(self, folder: Path) -> Voice:
        """A teacher's answers to the train split, asked for once."""
        answers = cached_answers(folder, folder.name, self.data.subset("train"), self.cache, Told(folder.name))
        return Voice(answers=answers, input=read_input(folder), scale=read_scale(folder))

    def all(self) -> None:
        """Train what is not finished."""
        (self.out / "settings.json").write_text(
            json.dumps(
                {
                    "epochs": self.plan.epochs,
                    "size": self.shape.input.width,
                    "backbone": self.shape.backbone,
                    "images": len(self.data.subset("train")),
                    "test": len(self.data.subset("test")),
                }
            )
        )
        started = time.monotonic()
        left = [(s, n) for s in range(1, self.seeds + 1) for n in self.arms if not self.result(s, n).exists()]
        for done, (seed, name) in enumerate(left, 1):
            self.train(seed, name)
            rest = (time.monotonic() - started) / done * (len(left) - done)
            say(f"seed {seed}, {name}: done; {len(left) - done} trainings left, about {rest / 60:.0f} minutes")

    def result(self, seed: int, name: str) -> Path:
        """Where the scores of an arm are."""
        return self.out / f"seed-{seed}" / name / "result.json"

    def train(self, seed: int, name: str) -> None:
        """One arm of one seed."""
        arm, folder = ARMS[name], self.result(seed, name).parent
        folder.mkdir(parents=True, exist_ok=True)
        voice = join_voices(self.voices if arm.second else self.voices[:1])
        distil_student(
            hide(self.data, arm.hidden, seed),
            self.shape,
            self.plan,
            RawAnswers(voice.answers.raw, voice.answers.boxes, voice.answers.hint),
            taught_on=voice.input,
            taught_scale=voice.scale,
            lessons=arm.lessons,
            folder=folder,
            cache=self.cache,
            seed=seed,
            report=Told(f"seed {seed}, {name}"),
            weights=self.weights,
        )
        scores = test_scores(load_network(folder), self.data, self.cache)
        self.result(seed, name).write_text(json.dumps(scores, indent=1))


def read_data(recipe: Recipe, folder: Path, cache: Path) -> Dataset:
    """The data set of a finished run."""
    work = Work(
        step="data",
        digest="0" * 64,
        folder=folder,
        inputs={},
        digests={},
        data=folder,
        cache=cache,
        recipe=recipe,
        reporter=SilentProgress(),
    )
    return dataset_of(work)


def newest(run: Path, pattern: str) -> Path:
    """The last finished step of that name."""
    found = [path for path in run.glob(pattern) if path.suffix != ".partial" and (path / "step.json").exists()]
    if not found:
        raise FoveolaError(str(run), f"no finished step {pattern}", "run the recipe up to its teacher first")
    return max(found, key=lambda path: path.stat().st_mtime)


def hide(dataset: Dataset, share: float, seed: int) -> Dataset:
    """The data set with all targets of some train images taken away."""
    if share == 0:
        return dataset
    train = np.flatnonzero([sample.split == "train" for sample in dataset.samples])
    gone = set(np.random.default_rng([seed, 23]).permutation(train)[: round(share * len(train))].tolist())
    scalars: dict[str, NDArray[np.float32]] = {name: values.copy() for name, values in dataset.scalars.items()}
    for values in scalars.values():
        values[sorted(gone)] = np.nan
    return msgspec.structs.replace(
        dataset,
        scalars=scalars,
        masks={
            name: tuple(tuple(None for _ in own) if i in gone else own for i, own in enumerate(files))
            for name, files in dataset.masks.items()
        },
        boxes={
            name: tuple(None if i in gone else own for i, own in enumerate(found))
            for name, found in dataset.boxes.items()
        },
        # Prepared targets are kept by the data set's identity.
        digest=hashlib.sha256(f"{dataset.digest} without {sorted(gone)}".encode()).hexdigest(),
    )


def test_scores(network: Network, dataset: Dataset, cache: Path) -> dict[str, float]:
    """A score a task on the test split; see the file's head."""
    arrays = prepare_arrays(dataset.subset("test"), network.input, cache=cache)
    found = score_answers(network.tasks, answer_images(network, arrays.images), arrays, network.target_scale)
    kinds = {task.name: task.kind for task in network.tasks}
    return {
        name: (score + 1) / 2 if kinds[name] in ("binary", "multilabel") else score
        for name, score in found.by_task.items()
    }


def table(out: Path) -> str:
    """Markdown: mean and standard deviation over seeds, and paired differences with their 95 % interval."""
    found: dict[str, dict[int, dict[str, float]]] = {}
    for path in sorted(out.glob("seed-*/*/result.json")):
        found.setdefault(path.parent.name, {})[int(path.parents[1].name[5:])] = json.loads(path.read_text())
    arms = [name for name in ARMS if name in found]
    if not arms:
        return "nothing is finished yet"
    tasks = list(next(iter(found[arms[0]].values())))
    settings = json.loads((out / "settings.json").read_text())
    head = "| arm | seeds | " + " | ".join(tasks) + " | mean |"
    rule = "|---" * (len(tasks) + 3) + "|"
    lines = [", ".join(f"{name} {value}" for name, value in settings.items()), "", head, rule]
    for name in arms:
        rows = np.array([with_mean(found[name][seed], tasks) for seed in sorted(found[name])])
        lines.append(f"| {ARMS[name].told} | {len(rows)} | " + " | ".join(spread(column) for column in rows.T) + " |")
    lines += ["", "Paired differences:", "", head, rule]
    for name in arms:
        other = found.get(ARMS[name].against, {})
        seeds = sorted(set(found[name]) & set(other))
        if name == ARMS[name].against or not seeds:
            continue
        rows = np.array([with_mean(found[name][s], tasks) - with_mean(other[s], tasks) for s in seeds])
        lines.append(
            f"| {name} - {ARMS[name].against} | {len(rows)} | " + " | ".join(paired(column) for column in rows.T) + " |"
        )
    return "\n".join(lines)


def with_mean(scores: dict[str, float], tasks: list[str]) -> NDArray[np.float64]:
    """The tasks' scores, and their mean."""
    values = [scores[name] for name in tasks]
    return np.array([*values, np.mean(values)])


def spread(values: NDArray[np.float64]) -> str:
    """Mean and standard deviation."""
    return f"{values.mean():.3f}" + (f" ± {values.std(ddof=1):.3f}" if len(values) > 1 else "")


def paired(differences: NDArray[np.float64]) -> str:
    """Mean and its 95 % interval by Student's t over seeds."""
    n, mean = len(differences), differences.mean()
    if n < 2:
        return f"{mean:+.3f}"
    reach = student_t.ppf(0.975, n - 1) * differences.std(ddof=1) / n**0.5
    return f"{mean:+.3f} [{mean - reach:+.3f}, {mean + reach:+.3f}]"


class Told:
    """Progress that says a line a task or epoch, and no more than one in ten seconds."""

    def __init__(self, name: str) -> None:
        self.name, self.said = name, 0.0

    def __call__(self, done: float, total: float, text: str = "") -> None:
        """`done` of `total`, and a few words."""
        if time.monotonic() - self.said > 10:
            self.said = time.monotonic()
            say(f"{self.name}: {done:.0f} of {total:.0f} images, {text}")


def say(text: str) -> None:
    """One line, at once, beside the table."""
    print(text, flush=True, file=sys.stderr)


if __name__ == "__main__":
    main()
