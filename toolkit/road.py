"""The road from a teacher to a signed, proved bundle as one Python call, for those who bring a module and no recipe.

    teacher = GivenTeacher(my_module, tasks, spec).eval()
    evidence = compress_teacher(teacher, dataset, Path("out"), name="mine", student=Shape(...), plan=Plan(...))

The steps are those of a recipe (`stages/table.py`), called directly; nothing is resumed or reused.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import torch

from ..devices.profile import load_profile
from ..runtime.manifest import Arithmetic, EngineName
from .compress.lessons import write_taught
from .compress.quantise import quantise_student
from .data.dataset import Dataset
from .finished import lock_teacher, teacher_answers
from .knobs import Lessons, Plan, Shape
from .models.network import Teacher
from .parity.evidence import Evidence
from .proof.recipe import prove_bundle
from .ship import CORE, make_core, sign_core
from .stage import digest_of
from .train import distil_student


def compress_teacher(
    teacher: Teacher,
    dataset: Dataset,
    folder: Path,
    *,
    name: str,
    student: Shape,
    plan: Plan,
    device: str = "generic-x86",
    engines: Sequence[EngineName] = (),
    precisions: Sequence[Arithmetic] = (),
    calibration_split: Literal["calibration", "val"] = "calibration",
    min_images: int = 128,
    soft_weight: float = 0.7,
    temperature: float = 2.0,
    resamples: int = 2000,
    seed: int = 0,
    key: Path | None = None,
) -> Evidence:
    """Distil, quantise, export, prove and sign.

    `folder` then holds `<name>.foveola`, its public key, `evidence.json` and `report.html`.

    Args:
        teacher: any teacher in evaluation mode; `teachers.external.GivenTeacher` makes one of a module.
        dataset: train, val, calibration and test cases; its tasks are learned where the teacher answers them or the
            reference standard is known.
        folder: made where needed.
        name: of the bundle.
        student: the student's architecture.
        plan: its training.
        device: id of a device profile.
        engines: the artefacts, the preferred first; none: all of the device.
        precisions: which are tried; none: those of the device's engines.
        calibration_split: which images set the int8 ranges.
        min_images: fewer are refused.
        soft_weight: share of the teacher's lesson.
        temperature: by which logits are softened.
        resamples: of the patient bootstrap.
        seed: of everything random.
        key: private key; None makes a demo key.

    Raises:
        FoveolaError: as the stages of the same names do.
    """
    cache = folder / "cache"
    cache.mkdir(parents=True, exist_ok=True)
    profile, digest = load_profile(device), digest_teacher(teacher)
    answers = teacher_answers(teacher, dataset.subset("train"), cache=cache)
    embeds = any(task.kind == "embedding" for task in dataset.tasks)
    judged_by = teacher_answers(teacher, dataset.subset("val"), cache=cache, hint=False) if embeds else None
    distil_student(
        dataset,
        student,
        plan,
        answers,
        taught_on=teacher.input,
        taught_scale=teacher.target_scale,
        lessons=Lessons(soft_weight=soft_weight, temperature=temperature),
        folder=_made(folder / "student"),
        cache=cache,
        seed=seed,
        report=_silent,
        judged_by=judged_by,
    )
    write_taught(folder / "student", digest)
    quantise_student(
        folder / "student",
        dataset,
        split=calibration_split,
        images=256,
        min_images=min_images,
        method="minmax",
        opset=profile.export.opset,
        weight_bits=profile.export.weight_bits,
        folder=_made(folder / "int8"),
        cache=cache,
        progress=_silent,
    )
    make_core(
        folder / "int8",
        dataset,
        engines=engines,
        precisions=precisions,
        compare=32,
        golden=3,
        name=name,
        version="1.0.0",
        device=profile,
        recipe_digest=digest_of([name, student, plan, seed]),
        seed=seed,
        folder=folder,
        cache=cache,
        progress=_silent,
    )
    evidence = prove_bundle(
        folder / CORE,
        teacher,
        lock_teacher(teacher, dataset, cache=cache),
        dataset,
        split="test",
        resamples=resamples,
        pictures=8,
        seed=seed,
        teacher_digest=digest,
        folder=folder,
        progress=_silent,
    )
    sign_core(folder, folder, name=name, key=key, require="any", folder=folder, cache=cache)
    return evidence


def digest_teacher(teacher: Teacher) -> str:
    """Sha256 over a teacher's weights, by name; of its class name alone where it has none."""
    digest = hashlib.sha256(type(teacher).__name__.encode())
    if isinstance(teacher, torch.nn.Module):
        for name, x in sorted(teacher.state_dict().items()):
            digest.update(name.encode())
            digest.update(x.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def _made(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _silent(done: float, total: float, text: str = "") -> None:
    pass
