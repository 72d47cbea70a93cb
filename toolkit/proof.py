"""The proof of one bundle: every engine's artefact against the teacher, on images that nothing was fitted to."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import msgspec
import numpy as np
import torch
from numpy.typing import NDArray

from ..runtime.answer import Prediction
from ..runtime.bundle import Bundle, read_unverified
from ..runtime.engine import engine_of
from ..runtime.image import read_image
from ..runtime.predict import Predictor
from ..runtime.task import Task
from .answers import answer_images
from .collect import box_rows, bundle_predictions, cases_of, collect, references_of, teacher_predictions
from .data.arrays import prepare_arrays
from .data.dataset import Dataset, load_mask, proof_set
from .models.network import Teacher
from .parity.cases import Answers
from .parity.evidence import EVIDENCE, Evidence, Flip, encode_evidence
from .parity.protocol import usual_protocol
from .parity.prove import prove
from .pictures import flip_picture
from .report import Picture, flips_to_draw, render_report
from .train import write_json

PICTURES = "pictures.json"  # the worst flips, drawn; beside the proof, for the report with speeds
Progress = Callable[[int, int, str], None]


def prove_bundle(
    core: Path,
    teacher: Teacher,
    locked: Mapping[str, tuple[float, ...]],
    dataset: Dataset,
    *,
    split: str,
    resamples: int,
    pictures: int,
    seed: int,
    teacher_digest: str,
    folder: Path,
    cache: Path,
    progress: Progress,
) -> Evidence:
    """Write `evidence.json` and `report.html`.

    Args:
        core: the bundle, as `make_core` wrote it.
        teacher: in evaluation mode.
        locked: the teacher's own thresholds by task (`lock_teacher`).
        dataset: holds the images of the proof.
        split: which they are.
        resamples: of the patient bootstrap.
        pictures: how many of the worst flips are drawn.
        seed: of the bootstrap.
        teacher_digest: identity of the teacher's step.
        folder: where the results go.
        cache: where decoded images are kept.
        progress: called with (done, total, text).

    Raises:
        FoveolaError: no images, or one of them was trained or calibrated on.
    """
    bundle = read_unverified(core)
    cases = proof_set(dataset, split)
    names = {task.name for task in teacher.tasks}
    tasks = tuple(task for task in cases.tasks if task.name in names)
    engines = [engine_of(options) for options in bundle.manifest.engines]
    rounds = len(engines) + 1

    def say(number: int, who: str) -> Callable[[int, int], None]:
        return lambda done, total: progress(number * total + done, rounds * total, f"{who} answers {done}/{total}")

    teacher_side = collect(
        tasks, cases, _teacher_side(teacher, tasks, cases, locked, cache, say(0, "the teacher")), locked
    )
    thresholds = {output.task.name: output.thresholds for output in bundle.manifest.outputs}
    students: dict[str, Answers] = {
        engine: collect(
            tasks,
            cases,
            bundle_predictions(Predictor(bundle, engine), cases, say(number, f"the bundle on {engine}")),
            thresholds,
        )
        for number, engine in enumerate(engines, 1)
    }
    proof = prove(
        tasks,
        cases_of(cases),
        references_of(cases),
        teacher_side,
        students,
        bundle=bundle.manifest.name,
        bundle_digest=bundle.core_digest,
        teacher_digest=teacher_digest,
        data_digest=dataset.digest,
        split=split,
        protocol=msgspec.structs.replace(
            usual_protocol(tasks, bundle.manifest.name), resamples=resamples, seed=seed, teacher=teacher_digest
        ),
    )
    evidence = proof.evidence
    (folder / EVIDENCE).write_bytes(encode_evidence(evidence))
    drawn = draw_flips(evidence, pictures, bundle, teacher, locked, cases)
    write_json(folder / PICTURES, drawn)
    (folder / "report.html").write_text(render_report(evidence, bundle.manifest, pictures=drawn), encoding="utf-8")
    return evidence


def read_pictures(folder: Path) -> list[Picture]:
    """The pictures that `prove_bundle` drew."""
    return msgspec.json.decode((folder / PICTURES).read_bytes(), type=list[Picture])


def _teacher_side(
    teacher: Teacher,
    tasks: Sequence[Task],
    cases: Dataset,
    locked: Mapping[str, tuple[float, ...]],
    cache: Path | None,
    progress: Callable[[int, int], None],
) -> Iterator[Prediction]:
    arrays = prepare_arrays(cases, teacher.input, cache=cache)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if isinstance(teacher, torch.nn.Module):
        teacher.to(device)
    answers = answer_images(teacher, arrays.images, device=device, progress=progress)
    return teacher_predictions(tasks, answers, arrays.geometries, teacher.input, teacher.target_scale, locked)


def draw_flips(
    evidence: Evidence,
    count: int,
    bundle: Bundle,
    teacher: Teacher,
    locked: Mapping[str, tuple[float, ...]],
    cases: Dataset,
) -> list[Picture]:
    """The worst flips as pictures, teacher and student side by side; a case at most once."""
    chosen = flips_to_draw(evidence.flips, count)
    place = {sample.key: i for i, sample in enumerate(cases.samples)}
    if not chosen:
        return []
    some = cases.take([place[flip.case] for flip in chosen])
    tasks = tuple(task for task in cases.tasks if task.name in {one.name for one in teacher.tasks})
    taught = list(_teacher_side(teacher, tasks, some, locked, None, lambda done, total: None))
    predictors: dict[str, Predictor] = {}
    pictures = []
    for i, (flip, before) in enumerate(zip(chosen, taught, strict=True)):
        predictor = predictors.setdefault(flip.engine, Predictor(bundle, flip.engine))
        after = predictor.predict(some.samples[i].path)
        pictures.append(Picture(flip=flip, png=_draw(flip, cases.task(flip.task), some, i, before, after), caption=""))
    return pictures


def _draw(flip: Flip, task: Task, some: Dataset, index: int, teacher: Prediction, student: Prediction) -> bytes:
    image = read_image(some.samples[index].path)
    if task.kind == "segmentation":
        target = load_mask(some, task.name, index, (image.shape[0], image.shape[1]))
        label = task.classes.index(flip.label) if flip.label in task.classes else 0
        reference = target == label + 1 if task.exclusive else target[label] == 1
        return flip_picture(
            image,
            reference_mask=reference,
            teacher_mask=_mask(teacher, task, label),
            student_mask=_mask(student, task, label),
        )
    if task.kind == "detection":
        wanted = some.boxes[task.name][index]
        return flip_picture(
            image,
            reference_boxes=wanted,
            teacher_boxes=_positive(task, teacher),
            student_boxes=_positive(task, student),
        )
    return flip_picture(image)


def _mask(prediction: Prediction, task: Task, label: int) -> NDArray[np.bool_]:
    return next(
        mask.pixels for mask in prediction.masks if mask.task == task.name and mask.label == task.classes[label]
    )


def _positive(task: Task, prediction: Prediction) -> NDArray[np.float64]:
    kept = tuple(box for box in prediction.boxes if box.task == task.name and box.positive)
    return box_rows(task, Prediction(boxes=kept))
