"""A teacher's answers to the training images, computed once and reused by every student.

They are kept in the run's cache under a name that carries the teacher's and the data's identity, so a changed teacher
or data set is asked anew; several answers of one identity are equal.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from pathlib import Path

import msgspec

from ..answers import RawAnswers, load_answers, save_answers
from ..data.dataset import Dataset
from ..data.hashing import file_sha256
from ..finished import teacher_answers
from ..json_files import write_json
from ..teachers.load import load_teacher

TAUGHT = "taught.json"  # beside a student: by whom it was taught
VERSION = 1  # raised whenever the same teacher would be asked another way


def cached_answers(
    teacher: Path, teacher_digest: str, dataset: Dataset, cache: Path, progress: Callable[[int, int, str], None]
) -> RawAnswers:
    """A teacher's answers to all cases of a data set.

    Args:
        teacher: folder of the finished teacher.
        teacher_digest: identity of its step.
        dataset: the cases, in order.
        cache: where answers are kept.
        progress: called with (done, total, text).
    """
    keys = "\n".join([str(VERSION), teacher_digest, dataset.digest, *(sample.key for sample in dataset.samples)])
    path = cache / f"answers-{hashlib.sha256(keys.encode()).hexdigest()[:24]}.safetensors"
    if path.exists():
        return load_answers(path)
    found = teacher_answers(
        load_teacher(teacher),
        dataset,
        cache=cache,
        progress=lambda done, total: progress(done, total, "the teacher answers"),
    )
    cache.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(f".{os.getpid()}.partial")
    save_answers(found, partial)
    partial.replace(path)
    return found


class Taught(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """By whom a student was taught: the teacher that it is compared with, and others that taught it too."""

    teacher_digest: str
    others: tuple[str, ...] = ()


def write_taught(folder: Path, teacher_digest: str, others: tuple[str, ...] = ()) -> None:
    """Note the teachers' identities beside a student."""
    write_json(folder / TAUGHT, Taught(teacher_digest, others))


def read_taught(folder: Path) -> str:
    """Identity of a student's (first) teacher; of a teacher itself the digest of its weights."""
    if not (folder / TAUGHT).exists():
        return file_sha256(folder / "model.safetensors")
    return msgspec.json.decode((folder / TAUGHT).read_bytes(), type=Taught).teacher_digest
