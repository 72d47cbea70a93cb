"""The training report: how good some teachers are, how their trainings went, and where they looked.

`review.json` holds all numbers with their method and their n, `review.html` draws them on one page. A teacher is any
finished step that answers tasks; a training any finished step with a history. Teachers that answer one task stand side
by side on the same cases and the same resamples: that is how an ablation is read.

    review_teachers({"scratch": a, "mtpret": b}, {"moco": c}, dataset, split="test", ..., folder=folder, cache=cache)
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray

from ...runtime.answer import probabilities
from ...runtime.errors import FoveolaError
from ...runtime.image import mask_to_image, read_image
from ...runtime.task import Task
from ..answers import RawAnswers, answer_images
from ..data.arrays import Arrays, prepare_arrays
from ..data.dataset import Dataset, proof_set
from ..finished import read_history, read_locked
from ..json_files import write_json
from ..models.network import Network, Teacher
from ..parity.cases import patient_codes
from ..parity.measured import Setting
from ..parity.protocol import TaskRules
from ..teachers.attention import Pick, grad_cam, heat_picture, network_for, pick_cases
from ..teachers.built import BuiltTeacher
from ..teachers.comprer.teach import PAIRING, kept_line
from ..teachers.load import load_teacher
from ..teachers.measure import Measure
from ..teachers.metrics import forgetting, measure_task
from ..teachers.start import BACKBONE
from ..teachers.team import Team
from .page import render_review
from .record import ALPHA, Attention, Review, TeacherReview, TrainingReview

REVIEW, PAGE = "review.json", "review.html"
Progress = Callable[[float, float, str], None]
Limits = Mapping[str, tuple[float, ...]]


def review_teachers(
    teachers: Mapping[str, Path],
    trainings: Mapping[str, Path],
    dataset: Dataset,
    *,
    split: str,
    resamples: int,
    pictures: int,
    seed: int,
    folder: Path,
    cache: Path | None = None,
    title: str = "Training report",
    progress: Progress = lambda done, total, text: None,
) -> Review:
    """Measure, draw, and write `review.json` and `review.html`.

    Args:
        teachers: finished folders of steps that answer tasks, by name; may be empty.
        trainings: finished folders of steps with a history, by name; may be empty.
        dataset: holds the images.
        split: which of them the teachers answer.
        resamples: of the patient bootstrap.
        pictures: attention pictures a label of each classification task; 0 for none.
        seed: of the bootstrap.
        folder: where the results go.
        cache: where decoded images are kept.
        title: of the page.
        progress: called with (done, total, text).

    Raises:
        FoveolaError: no case of the split has a reference, a teacher answers none of the tasks, an answer is not
            finite, or there is no history.
    """
    cases = cases_to_review(dataset, split)
    patients = patient_codes([sample.patient for sample in cases.samples])
    setting = Setting(
        patients=patients, resamples=resamples, seed=seed, alpha=ALPHA, power=0.8, rules=TaskRules(endpoints={})
    )
    found, drawn, pngs = [], [], []
    for number, (name, path) in enumerate(teachers.items()):

        def say(done: float, total: float, place: int = number, who: str = name) -> None:
            progress(place * total + done, len(teachers) * total, f"{who} answers {done:.0f}/{total:.0f}")

        told, looked = _review_teacher(name, path, cases, setting, pictures, cache, say)
        found.append(told)
        drawn += [attention for attention, _ in looked]
        pngs += [png for _, png in looked]
    answered = {measure.task for one in found for measure in one.measures}
    review = Review(
        title=title,
        split=split,
        images=len(cases),
        patients=len(np.unique(patients)),
        resamples=resamples,
        seed=seed,
        data_digest=dataset.digest,
        tasks=tuple(task for task in dataset.tasks if task.name in answered),
        teachers=tuple(found),
        trainings=tuple(review_training(name, path) for name, path in trainings.items()),
        attention=tuple(drawn),
    )
    write_json(folder / REVIEW, review)
    (folder / PAGE).write_text(render_review(review, pngs), encoding="utf-8")
    return review


def cases_to_review(dataset: Dataset, split: str) -> Dataset:
    """The images that the teachers answer.

    Raises:
        FoveolaError: there are none, none has a reference, or one of them is in another split too.
    """
    cases = proof_set(dataset, split)
    if not any(cases.known(task.name).any() for task in cases.tasks):
        fault = f"none of its {len(cases)} images has a reference for {', '.join(task.name for task in cases.tasks)}"
        mend = "choose another split, or fill the tasks' columns"
        raise FoveolaError(f"{dataset.root}: split {split!r}", fault, mend)
    return cases


def review_training(name: str, folder: Path) -> TrainingReview:
    """Read a training's history.

    Raises:
        FoveolaError: there is none, or it has no line.
    """
    try:
        history = tuple(read_history(folder))
    except FileNotFoundError:
        history = ()
    if not history:
        raise FoveolaError(f"training {name!r}", f"{folder} holds no history", "name a step that trained something")
    continual = any(epoch.task for epoch in history)
    kind: Literal["pretrain", "continual", "train"] = "train"
    if continual or (folder / BACKBONE).exists():
        kind = "continual" if continual else "pretrain"
    forgot = forgetting(history) if continual else {}
    scores = [epoch.score for epoch in history]
    # A continual course and a contrastive one keep their last weights, any other its best.
    kept = scores.index(max(scores)) + 1 if kind == "train" else len(history)
    return TrainingReview(
        name=name,
        kind=kind,
        history=history,
        forgetting=forgot,
        mean_forgetting=float(np.mean(list(forgot.values()))) if forgot else None,
        kept=kept_line(history) if (folder / PAIRING).exists() else kept,
    )


def _review_teacher(
    name: str,
    path: Path,
    cases: Dataset,
    setting: Setting,
    pictures: int,
    cache: Path | None,
    say: Callable[[float, float], None],
) -> tuple[TeacherReview, list[tuple[Attention, bytes]]]:
    teacher, locked = load_teacher(path), read_locked(path)
    tasks = tasks_in_common(name, teacher, cases)
    arrays = prepare_arrays(cases, teacher.input, cache=cache)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if isinstance(teacher, torch.nn.Module):
        teacher.to(device).eval()
    answers = answer_images(teacher, arrays.images, device=device, progress=say)
    measures: list[Measure] = []
    notes: list[str] = []
    for task in tasks:
        rows = measure_task(task, answers, arrays, locked.get(task.name, ()), teacher.target_scale, setting)
        measures += rows
        if not rows:
            notes.append(f"{task.name}: no image of the split has a reference")
    looked = _look(name, teacher, tasks, cases, arrays, answers, locked, pictures, notes)
    return TeacherReview(name=name, about=_about(teacher), measures=tuple(measures), notes=tuple(notes)), looked


def tasks_in_common(name: str, teacher: Teacher, cases: Dataset) -> list[Task]:
    """The data set's tasks that a teacher answers.

    Raises:
        FoveolaError: there are none, or a task of that name asks something else.
    """
    own = {task.name: task for task in teacher.tasks}
    tasks = [task for task in cases.tasks if task.name in own]
    where = f"teacher {name!r}"
    if not tasks:
        asked = ", ".join(task.name for task in cases.tasks)
        raise FoveolaError(where, f"it answers {', '.join(own)}, none of {asked}", "leave it out of `teachers`")
    for task in tasks:
        if (own[task.name].kind, own[task.name].classes, own[task.name].size) != (task.kind, task.classes, task.size):
            fault = f"its task {task.name!r} is {own[task.name].kind} with other classes, size or of another kind"
            raise FoveolaError(where, fault, f"the data ask for {task.kind} of {', '.join(task.classes)}")
    return tasks


def _about(teacher: Teacher) -> str:
    """What a teacher is, in words."""
    spec = teacher.input
    return f"{_made_of(teacher)}; {spec.width} × {spec.height} pixels"


def _made_of(teacher: object) -> str:
    if isinstance(teacher, Team):
        return "team of " + ", ".join(_made_of(one) for one in teacher.ordered_members())
    if isinstance(teacher, Network):
        return teacher.architecture.backbone
    return " and ".join(teacher.backbones) if isinstance(teacher, BuiltTeacher) else "external network"


def _look(
    name: str,
    teacher: Teacher,
    tasks: Sequence[Task],
    cases: Dataset,
    arrays: Arrays,
    answers: RawAnswers,
    locked: Limits,
    pictures: int,
    notes: list[str],
) -> list[tuple[Attention, bytes]]:
    """Attention pictures of every classification task; says in `notes` where there can be none."""
    looked: list[tuple[Attention, bytes]] = []
    for task in tasks:
        if not pictures or task.kind not in ("binary", "multilabel", "multiclass", "ordinal"):
            continue
        network = network_for(teacher, task.name)
        if network is None:
            notes.append(f"{task.name}: no attention pictures, since the network was trained elsewhere")
            continue
        probability = np.asarray(probabilities(task, answers.raw[task.name]), np.float64)
        for pick in pick_cases(task, probability, arrays.scalars[task.name], locked.get(task.name, ()), pictures):
            sample = cases.samples[pick.index]
            png, empty = draw_attention(network, cases, arrays, task.name, pick)
            attention = Attention(
                teacher=name,
                task=task.name,
                label=pick.label,
                case=sample.key,
                patient=sample.patient,
                outcome=pick.outcome,
                right=pick.right,
                probability=pick.probability,
                threshold=pick.threshold,
                reference=pick.reference,
                answer=pick.answer,
                empty=empty,
            )
            looked.append((attention, png))
    return looked


def draw_attention(
    network: Network | BuiltTeacher, cases: Dataset, arrays: Arrays, task: str, pick: Pick
) -> tuple[bytes, bool]:
    """A picture as it is stored, and under the map of what spoke for its label; whether the map is empty."""
    device = next(network.parameters()).device
    x: NDArray[np.float32] = np.array(arrays.images[pick.index : pick.index + 1])
    heat = grad_cam(network, torch.from_numpy(x).to(device), task, pick.channel)
    over = mask_to_image(heat, arrays.geometries[pick.index], network.input)[0]
    return heat_picture(read_image(cases.samples[pick.index].path), over), not heat.any()
