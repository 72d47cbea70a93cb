"""Feed back what compression forgot: find it on the training images, draw it more often, train a little further.

Laws:
- What is drawn more often follows from the train split alone; validation images lock thresholds and are counted before
  and after, and no other split is read.
- The artefact that forgot is the one looked at: its int8 graph, in ONNX Runtime, at thresholds locked as a bundle's.
- What comes of it is told as it is, flips that remain and new ones included (`rehearsed.json`).

N images.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec
import numpy as np
from numpy.typing import NDArray

from ...runtime.engine import open_session
from ...runtime.errors import FoveolaError
from ...runtime.manifest import OnnxRuntimeOptions
from ...runtime.task import Task
from ..answers import RawAnswers
from ..course import Report
from ..data.arrays import prepare_arrays
from ..data.dataset import Dataset
from ..data.hashing import file_sha256
from ..finished import HISTORY, LOCKED, read_locked
from ..json_files import write_json
from ..knobs import Lessons, Plan
from ..models.network import Network, load_network
from ..parity.evidence import Flip
from ..score import lock_thresholds, score_answers
from ..teachers.load import load_teacher, read_scale
from ..variants.slack import ask
from ..workers import leads
from .forgotten import (
    FORGOTTEN,
    RareClass,
    Side,
    count_kinds,
    draws_of,
    flips_between,
    forgotten_images,
    rare_weights,
)
from .go_on import Guide, go_on, keep_records
from .lessons import cached_answers, write_taught
from .quantise import INT8_GRAPH

REHEARSED = "rehearsed.json"
Requantise = Callable[[Path, Path], None]  # folder of a student, folder for its int8 step


class Counted(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """An int8 artefact's flips against the teacher, by task and kind, and its validation scores by task."""

    train: dict[str, dict[str, int]]
    val: dict[str, dict[str, int]]
    scores: dict[str, float]

    def forgotten(self, split: str) -> int:
        """Flips of a split by which something was lost, or which nobody can judge."""
        found = self.train if split == "train" else self.val
        return sum(count for kinds in found.values() for kind, count in kinds.items() if kind in FORGOTTEN)


class Rehearsed(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The file `rehearsed.json`.

    Args:
        format: of this file.
        images: of the train split.
        flipped: of them, those with a flip that was fed back.
        drawn_more: those drawn more often than the least.
        largest: how often the most drawn image was seen, relative to the least drawn.
        rare: the classes with their weights, in the order of the tasks.
        before: the artefact that forgot.
        after: the network of this step, quantised the same way; None where it was not counted.
    """

    format: int = 1
    images: int
    flipped: int
    drawn_more: int
    largest: float
    rare: tuple[RareClass, ...]
    before: Counted
    after: Counted | None = None

    @property
    def nothing(self) -> bool:
        """Whether there is nothing to feed back."""
        return self.flipped == self.drawn_more == 0


class Rehearsal(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """How what was forgotten is drawn.

    Args:
        flipped: how much more often an image is drawn that compression flipped.
        rare: weight images by their rarest class, too.
        beta: of the effective number of images; 0 makes all classes alike, 1 weights by the inverse of their number.
        most: the largest weight.
    """

    flipped: float = 3.0
    rare: bool = True
    beta: float = 0.999
    most: float = 6.0


def rehearse_student(
    student: Path,
    compressed: Path,
    teacher: Path,
    teacher_digest: str,
    dataset: Dataset,
    plan: Plan,
    lessons: Lessons,
    rehearsal: Rehearsal,
    *,
    requantise: Requantise,
    folder: Path,
    cache: Path,
    seed: int,
    report: Report,
    say: Callable[[str], None],
    log: Path | None = None,
) -> Rehearsed:
    """Train a student further with the images that its int8 graph flipped, and those of rare classes, drawn more often.

    Args:
        student: folder of the finished student.
        compressed: folder of its int8 step.
        teacher: folder of the finished teacher.
        teacher_digest: identity of the teacher's step.
        dataset: the cases; no split but train and val is read.
        plan: the training.
        lessons: how the teacher's answers enter the loss.
        rehearsal: what is drawn how often.
        requantise: makes an int8 step of a student as `compressed` was made.
        folder: where the results go.
        cache: where decoded images and answers are kept.
        seed: of everything random.
        report: progress.
        say: told in a line what was found and what came of it.
        log: CSV of the curve.

    Raises:
        FoveolaError: `compressed` is the int8 step of another student, or the teacher answers none of its tasks.
    """
    check_same(student, compressed)
    network = load_network(student)
    judge = _Judge(teacher, teacher_digest, network, dataset.subset("train", "val"), cache, report)

    before, forgotten = judge.count(compressed)
    rare, account = _rare(network, dataset, rehearsal, cache)
    draws = draws_of(forgotten, rare, flipped=rehearsal.flipped, most=rehearsal.most)
    record = _record(forgotten, draws, account, before)
    say(_found(record))

    if record.nothing:
        _keep(student, folder)
    else:
        guide = Guide(answers=judge.answers("train"), input=judge.input, scale=judge.scale, lessons=lessons)
        go_on(
            network, dataset, plan, guide=guide, draws=draws,
            folder=folder, cache=cache, seed=seed, report=report, log=log,
        )  # fmt: skip
    if leads():
        keep_records(student, folder)
        write_taught(folder, teacher_digest)
        report(1, 1, "quantising again, to count what is left")
        record = msgspec.structs.replace(record, after=judge.again(folder, requantise))
        write_json(folder / REHEARSED, record)
        say(_became(record))
    return record


def check_same(student: Path, compressed: Path) -> None:
    """Refuse an int8 step that was made of another student.

    Raises:
        FoveolaError: the weights differ.
    """
    one, other = (file_sha256(folder / "model.safetensors") for folder in (student, compressed))
    if one != other:
        fault = f"its int8 graph is of the student {other[:12]}, and this one is {one[:12]}"
        raise FoveolaError("compressed", fault, "name the quantize step of the same student")


class _Judge:
    """Holds int8 artefacts against one teacher on training and validation images."""

    def __init__(
        self, teacher: Path, digest: str, network: Network, dataset: Dataset, cache: Path, report: Report
    ) -> None:
        asked = load_teacher(teacher)
        names = {task.name for task in asked.tasks}
        self.tasks: tuple[Task, ...] = tuple(task for task in network.tasks if task.name in names)
        if not self.tasks:
            raise FoveolaError("teacher", "it answers none of the student's tasks", "name the student's own teacher")
        self.input, self.scale, self.locked = asked.input, read_scale(teacher), read_locked(teacher)
        self.network, self.cache, self.report = network, cache, report
        self.target_scale = network.target_scale
        self.splits = {name: dataset.subset(name) for name in ("train", "val")}
        self.arrays = {name: prepare_arrays(one, network.input, cache=cache) for name, one in self.splits.items()}
        self.taught = {name: cached_answers(teacher, digest, one, cache, report) for name, one in self.splits.items()}

    def answers(self, split: str) -> RawAnswers:
        """The teacher's."""
        return self.taught[split]

    def count(self, compressed: Path) -> tuple[Counted, NDArray[np.bool_]]:
        """Flips and scores of an int8 step, and the training images (N,) that it forgot."""
        session = open_session(OnnxRuntimeOptions(), {"model.onnx": (compressed / INT8_GRAPH).read_bytes()})
        said = {}
        for name, arrays in self.arrays.items():
            self.report(0, 1, f"the int8 graph answers the {name} images")
            said[name] = ask(session.run, self.network, arrays.images)
        locked = lock_thresholds(self.network.tasks, said["val"], self.arrays["val"])
        flips = {name: self._flips(name, answers, locked) for name, answers in said.items()}
        scores = score_answers(self.network.tasks, said["val"], self.arrays["val"], self.target_scale).by_task
        counted = Counted(
            train=count_kinds(flips["train"]),
            val=count_kinds(flips["val"]),
            scores={task: round(score, 6) for task, score in scores.items()},
        )
        return counted, forgotten_images(flips["train"], self.splits["train"])

    def again(self, folder: Path, requantise: Requantise) -> Counted:
        """The same of a student in float, quantised for the purpose."""
        self.cache.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=self.cache) as scratch:
            requantise(folder, Path(scratch))
            return self.count(Path(scratch))[0]

    def _flips(self, split: str, answers: RawAnswers, locked: dict[str, tuple[float, ...]]) -> list[Flip]:
        dataset = self.splits[split]
        teacher = Side(
            answers=self.taught[split],
            arrays=prepare_arrays(dataset, self.input, cache=self.cache),
            input=self.input,
            scale=self.scale,
            locked=self.locked,
        )
        student = Side(
            answers=answers,
            arrays=self.arrays[split],
            input=self.network.input,
            scale=self.target_scale,
            locked=locked,
        )
        return flips_between(self.tasks, dataset, teacher, student)


def _rare(
    network: Network, dataset: Dataset, rehearsal: Rehearsal, cache: Path
) -> tuple[NDArray[np.float64], tuple[RareClass, ...]]:
    train = dataset.subset("train")
    if not rehearsal.rare:
        return np.ones(len(train)), ()
    return rare_weights(network.tasks, prepare_arrays(train, network.input, cache=cache), rehearsal.beta)


def _record(
    forgotten: NDArray[np.bool_], draws: NDArray[np.float64], account: Sequence[RareClass], before: Counted
) -> Rehearsed:
    least = float(draws.min())
    return Rehearsed(
        images=len(draws),
        flipped=int(forgotten.sum()),
        drawn_more=int((draws > least).sum()),
        largest=round(float(draws.max()) / least, 4),
        rare=tuple(account),
        before=before,
    )


def _keep(student: Path, folder: Path) -> None:
    """Nothing was forgotten and nothing is rare: the student stays as it is."""
    if leads():
        for name in ("model.json", "model.safetensors", HISTORY, LOCKED):
            shutil.copyfile(student / name, folder / name)


def _found(record: Rehearsed) -> str:
    if record.nothing:
        return f"none of {record.images} training images flipped and no class is rare: the student stays as it is"
    return (
        f"{record.flipped} of {record.images} training images flipped; {record.drawn_more} are drawn more often, "
        f"up to {record.largest:.1f} times"
    )


def _became(record: Rehearsed) -> str:
    assert record.after is not None
    counts = [
        f"{split} {record.before.forgotten(split)} -> {record.after.forgotten(split)}" for split in ("train", "val")
    ]
    lower = [
        f"{task} {score:.3f} -> {record.after.scores[task]:.3f}"
        for task, score in record.before.scores.items()
        if record.after.scores.get(task, score) < score
    ]
    worse = f"; scores that fell on validation: {', '.join(lower)}" if lower else ""
    return f"flips that lost something: {', '.join(counts)}{worse}"
