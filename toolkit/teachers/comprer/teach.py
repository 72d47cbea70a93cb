"""From a data set to a teacher for a device: pretrain all modalities, then answer every task from one of them.

Writes what every training writes (`model.json`, `model.safetensors`, `history.json`, `locked.json`), and beside it

- `pairing.json`: how well pictures of one patient find each other on the validation and the test split (`pairing.py`);
- `MODALITY/model.json` and `.safetensors` for each other modality: its encoder with the same measures and embeddings,
  for retrieval between modalities; nothing else reads them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import msgspec

from ....runtime.errors import FoveolaError, UsageError
from ....runtime.task import Task
from ...checkpoint import Epoch
from ...course import Report
from ...data.arrays import prepare_arrays
from ...data.dataset import Dataset
from ...data.faults import did_you_mean
from ...finished import finish
from ...fit import forget
from ...json_files import write_json
from ...knobs import Plan
from ...supervision import check_splits, preparing
from ...workers import leads
from ..built import save_teacher
from .judge import embed, pairing_of
from .knobs import Aims, Encoding, Prognosis, Roles
from .learn import DENSE, Pretrained, prepare_modalities, pretrain_comprer, scale_of, without_dense
from .objective import LOSSES
from .pairing import Pairing, in_words
from .prognosis import check_incident, finetune, probe_heads
from .records import check_measured, check_records, check_varied, read_records
from .teacher import ComprerTeacher, check_embeddings, teacher_of

PRETRAINING, TUNING = "pretraining", "tuning"  # folders of the two trainings' resume points
PAIRING = "pairing.json"


def teach_comprer(
    dataset: Dataset,
    shown: Dataset,
    modality: str,
    encodings: Mapping[str, Encoding],
    aims: Aims,
    plan: Plan,
    *,
    roles: Roles,
    prognosis: Prognosis,
    folder: Path,
    cache: Path,
    seed: int,
    report: Report,
    weights: Path | None = None,
    log: Path | None = None,
    judge_every: int = 1,
    say: Callable[[str], None] | None = None,
) -> ComprerTeacher:
    """Pretrain, fit the heads, measure the pairing, save.

    Args:
        dataset: all pictures of all modalities.
        shown: what the device sees, pictures of one modality; its tasks are answered.
        modality: whose pictures these are.
        encodings: by modality.
        aims: the losses of the pretraining.
        plan: its loop.
        roles: which attributes say what.
        prognosis: how tasks that are no measures are answered.
        folder: where the results go.
        cache: where decoded images are kept.
        seed: of everything random.
        report: progress.
        weights: a safetensors checkpoint from which all backbones start.
        log: CSV of the pretraining's curve.
        judge_every: epochs between two looks at the validation split.
        say: told in a line what there is to learn from, and what cannot be checked.

    Raises:
        FoveolaError: see `check_comprer` and `pretrain_comprer`.
    """
    tell = say or _silent
    for line in check_comprer(dataset, shown, modality, encodings, aims, roles):
        tell(line)
    pretrained = pretrain_comprer(
        dataset, encodings, aims, plan, roles=roles, folder=folder / PRETRAINING, cache=cache, seed=seed,
        report=report, weights=weights, log=log, judge_every=judge_every, say=tell,
    )  # fmt: skip
    plain = without_dense(shown)
    teacher = teacher_of(pretrained.network, modality, plain.tasks, pretrained.scale, hidden=aims.measure_hidden)
    train = prepare_arrays(plain.subset("train"), teacher.input, cache=cache, progress=preparing(report))
    probe_heads(teacher, train, [task.name for task in _untaught(plain.tasks, aims)])
    history = pretrained.history
    if prognosis.heads == "finetune":
        tuning = _tuning(plan, prognosis, encodings[modality])
        tuned = finetune(
            teacher, plain, tuning, keep=prognosis.keep, folder=folder / TUNING, cache=cache, seed=seed, report=report
        )
        history = _joined(history, tuned)
    if leads():
        pairing = _pairing(pretrained, encodings, aims, roles, cache, report, seed)
        write_json(folder / PAIRING, pairing)
        for line in (line for split, one in pairing.items() for line in in_words(one, split)):
            tell(line)
        _save_others(pretrained, modality, plain.tasks, aims, folder)
    finish(teacher, plain, history, folder, cache)
    if leads():
        for part in (PRETRAINING, TUNING):
            forget(folder / part)
            if (folder / part).is_dir():
                (folder / part).rmdir()
    return teacher


def check_comprer(
    dataset: Dataset,
    shown: Dataset,
    modality: str,
    encodings: Mapping[str, Encoding],
    aims: Aims,
    roles: Roles,
) -> list[str]:
    """Refuse what cannot be taught, before anything is; the arguments are those of `teach_comprer`.

    Returns:
        What somebody should know, a line each.

    Raises:
        FoveolaError: see `check_records` and `check_incident`; the device's pictures are another modality's; a task has
            targets of one kind only.
        UsageError: an unknown modality or measure, too many embeddings, no task to answer.
    """
    if modality not in encodings:
        raise UsageError("modality", f"no encoder {modality!r}", did_you_mean(modality, encodings))
    check_splits(shown)
    check_measured(dataset, aims.measured)
    check_embeddings(shown.tasks, aims)
    if all(task.kind in DENSE for task in shown.tasks):
        raise UsageError("tasks", "only masks and boxes are asked for", "another teacher must answer them")
    others = sorted({sample.attributes.get(roles.modality, modality) for sample in shown.samples} - {modality})
    if roles.modality and others:
        fault = f"the device sees pictures of {', '.join(others)} too"
        raise FoveolaError("data.only", fault, f"give `only: {{{roles.modality}: {modality}}}`")
    check_records(read_records(dataset, encodings, roles).subset("train"), aims, roles)
    _check_targets(dataset, shown, aims)
    unknown = check_incident(dataset)
    return [f"{name} cannot be checked: there is no prevalent_{name.removeprefix('incident_')}" for name in unknown]


def kept_line(history: Sequence[Epoch]) -> int:
    """Number (from 1) of the line whose weights are kept: the last of the pretraining, or the best of a fine-tuning."""
    first = sum(set(epoch.losses) <= set(LOSSES) for epoch in history)
    scores = [epoch.score for epoch in history[first:]]
    return first + scores.index(max(scores)) + 1 if scores else first


def _check_targets(dataset: Dataset, shown: Dataset, aims: Aims) -> None:
    """Refuse constants before the pretraining, not when the heads are fitted after it."""
    scale_of(without_dense(dataset))
    train = without_dense(shown.subset("train"))
    for task in _untaught(train.tasks, aims):
        check_varied(task, train.scalars[task.name])


def _untaught(tasks: tuple[Task, ...], aims: Aims) -> list[Task]:
    measured = aims.measured if aims.measures > 0 else ()
    return [task for task in tasks if task.kind != "embedding" and task.name not in measured]


def _tuning(plan: Plan, prognosis: Prognosis, encoding: Encoding) -> Plan:
    return msgspec.structs.replace(
        plan, epochs=prognosis.epochs, learning_rate=prognosis.learning_rate, augment=encoding.augment
    )


def _joined(first: list[Epoch], second: list[Epoch]) -> list[Epoch]:
    later = [msgspec.structs.replace(epoch, epoch=epoch.epoch + len(first)) for epoch in second]
    return [*first, *later]


def _pairing(
    pretrained: Pretrained,
    encodings: Mapping[str, Encoding],
    aims: Aims,
    roles: Roles,
    cache: Path,
    report: Report,
    seed: int,
) -> dict[str, Pairing]:
    """By split; of the pretrained encoders, before any fine-tuning."""
    ordered = aims.temporal > 0 and aims.order > 0
    found = {}
    for split in ("val", "test"):
        records = pretrained.records.subset(split)
        arrays = prepare_modalities(records, encodings, cache, report)
        embedded = embed(pretrained.network, arrays)
        found[split] = pairing_of(pretrained.network, records, embedded, roles, order=ordered, seed=seed)
    return found


def _save_others(pretrained: Pretrained, modality: str, tasks: tuple[Task, ...], aims: Aims, folder: Path) -> None:
    untaught = _untaught(tasks, aims)
    kept = tuple(task for task in tasks if task not in untaught)
    for name in pretrained.network.encodings:
        if name != modality and kept:
            other = teacher_of(pretrained.network, name, kept, pretrained.scale, hidden=aims.measure_hidden)
            (folder / name).mkdir(exist_ok=True)
            save_teacher(other, folder / name)


def _silent(line: str) -> None:
    """Nobody watches."""
