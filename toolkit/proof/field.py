"""The proof in the field: a shipped bundle on the images at hand, against its teacher or what that once said; no torch.

The story of `prove_files`: read bundle, protocol and answers and refuse what does not belong together, all faults in
one line; read the cases, with or without a reference standard; ask every engine about every image; prove; write
`flips.csv`, `report.html` and, last, `evidence.json`.

- The bundle answers as it does on the device: its own preprocessing, decoding and thresholds.
- Unless names are asked for, cases and patients are numbers in everything that is written (`private.py`).
- Images that the student was made with are refused (`seen.bin` in the bundle).
- Without a reference standard nothing can be proved: the verdict is `underpowered`, and agreement with the teacher,
  flips and drift are what is told.

    done = prove_files(Path("chest.foveola"), Path("cases.csv"), Ask(protocol=Path("protocol.yaml")), ...)
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec

from ...runtime.bundle import Bundle, open_bundle, read_unverified
from ...runtime.engine import INSTALL, engine_of, is_installed
from ...runtime.errors import MissingPartError, UsageError
from ...runtime.manifest import EngineName
from ...runtime.seen import SEEN
from ...runtime.task import Task
from ..data.samples import Columns
from ..parity.evidence import EVIDENCE, PROOF, Change, Evidence, Flip, decode_evidence
from ..parity.protocol import Protocol, usual_protocol
from ..protocol.check import check_subgroups
from ..protocol.file import read_locked
from .cases import FieldCases, manifest_of, name_columns, read_cases
from .changes import TeacherFacts, changes_of
from .checks import check_answered, check_identity, check_unseen
from .collect import cases_of
from .judge import Setup, judge, write_proof
from .kept_answers import StoredAnswers
from .private import hide_names, private_key
from .stored_answers import read_answers

NOT_LOCKED = "no protocol was locked before: the usual endpoints and margins were taken"
Progress = Callable[[float, float, str], None]
Asker = Callable[[FieldCases], StoredAnswers]  # asks a teacher about the cases


class Ask(msgspec.Struct, frozen=True, kw_only=True):
    """What is to be proved, and how; paths and words as the command line has them.

    Args:
        protocol: locked; None only with `usual`.
        usual: take the usual endpoints and margins, and say in the evidence that nothing was locked.
        expect: digest of the protocol, or its first digits.
        engines: of the bundle; empty takes all that are installed.
        key: public key of who vouches for the bundle.
        unsigned: open the bundle though nobody vouches for it; the evidence says so.
        origin: recipe that names the manifest's columns; None: they have the usual names.
        columns: `TASK=COLUMN,COLUMN` each.
        split: which rows; None: the protocol's.
        names: keep the names of cases and patients.
        pictures: how many flips are drawn, where names are kept.
    """

    protocol: Path | None = None
    usual: bool = False
    expect: str = ""
    engines: tuple[str, ...] = ()
    key: Path | None = None
    unsigned: bool = False
    origin: str | None = None
    columns: tuple[str, ...] = ()
    split: str | None = None
    names: bool = False
    pictures: int = 8


class Done(msgspec.Struct, frozen=True, kw_only=True):
    """What was proved, and where it lies."""

    evidence: Evidence
    flips: tuple[Flip, ...]
    folder: Path
    notes: tuple[str, ...]  # what its reader should know first


def prove_files(bundle: Path, data: Path, ask: Ask, *, teacher: Path | Asker, folder: Path, progress: Progress) -> Done:
    """Prove a bundle on the cases of a manifest.

    Args:
        bundle: the shipped file.
        data: manifest, or the folder that holds `manifest.csv`.
        ask: everything else.
        teacher: `answers.npz`, or what asks the teacher itself.
        folder: where the results go; made where needed, must not hold evidence yet.
        progress: called with (done, total, text).

    Raises:
        FoveolaError: anything does not belong together, or cannot be read; `errors.py` has the kinds.
    """
    if (folder / EVIDENCE).exists():
        raise UsageError(str(folder / EVIDENCE), "is there already", "evidence is never written over; use --out")
    opened = read_unverified(bundle) if ask.unsigned else open_bundle(bundle, key=ask.key)
    tasks = tuple(output.task for output in opened.manifest.outputs)
    engines = choose_engines(opened, ask.engines)
    protocol = _protocol(ask, tasks, opened.manifest.name)
    stored = read_answers(teacher) if isinstance(teacher, Path) else None
    if stored is not None:
        protocol = _fitting(protocol, ask, opened, stored)
    found = _cases(opened, protocol, ask, manifest_of(data))
    check_unseen(opened, found)
    if stored is None:
        assert not isinstance(teacher, Path)
        stored = teacher(found)
        protocol = _fitting(protocol, ask, opened, stored)
    check_answered(found, stored, str(teacher) if isinstance(teacher, Path) else "the teacher")
    notes = _notes(ask, opened, found, stored, engines)
    shown = cases_of(found.cases)
    if not ask.names:
        shown = hide_names(shown, found.cases, private_key(found.manifest, found.cases))
    judged = judge(
        opened,
        engines,
        found.cases,
        stored,
        protocol,
        Setup(shown=shown, split=found.split, digest=found.digest, changes=_changes(opened, stored), notes=notes),
        lambda done, total: progress(done, total, f"the bundle answers on {' and '.join(engines)}"),
    )
    proof = judged.proof
    # A picture is a patient's, so there is none where names are hidden.
    write_proof(folder, proof, opened, protocol, judged.draw(ask.pictures) if ask.names else [])
    return Done(evidence=proof.evidence, flips=proof.flips, folder=folder, notes=tuple(notes))


def choose_engines(bundle: Bundle, wanted: Sequence[str]) -> tuple[EngineName, ...]:
    """Choose the engines: those that were named, or all of the bundle's that are installed.

    Raises:
        UsageError: the bundle was not validated on one of them.
        MissingPartError: one of them, or every one of the bundle's, is not installed.
    """
    offered: list[EngineName] = [engine_of(options) for options in bundle.manifest.engines]
    alien = [engine for engine in wanted if engine not in offered]
    if alien:
        fault = f"{bundle.manifest.name} was not validated on {', '.join(alien)}"
        raise UsageError("--engine", fault, f"take {' or '.join(offered)}")
    chosen: list[EngineName] = [one for one in offered if one in wanted or (not wanted and is_installed(one))]
    absent: list[EngineName] = [one for one in chosen or offered if not is_installed(one)]
    if absent:
        raise MissingPartError(absent[0], "is not installed", INSTALL[absent[0]])
    return tuple(chosen)


def _protocol(ask: Ask, tasks: Sequence[Task], name: str) -> Protocol:
    if ask.protocol is not None:
        return read_locked(ask.protocol, tasks=tasks, expect=ask.expect)
    if ask.usual:
        return usual_protocol(tasks, name)
    mend = "`foveola protocol new` writes one, `foveola protocol lock` locks it; --usual does without"
    raise UsageError("--protocol", "nothing says what is to be proved", mend)


def _cases(bundle: Bundle, protocol: Protocol, ask: Ask, manifest: Path) -> FieldCases:
    """Read the cases and hold their data set against the protocol."""
    tasks, columns = _columns(bundle, ask.origin)
    tasks, columns = name_columns(ask.columns, tasks, columns)
    columns = msgspec.structs.replace(columns, attributes=protocol.data.subgroups or columns.attributes)
    wanted, split = protocol.data, ask.split or protocol.data.split
    if wanted.digest and split != wanted.split:
        raise UsageError("--split", f"{split!r} is not the protocol's {wanted.split!r}", "leave it out")
    sure = ask.split is not None or bool(wanted.digest)
    found = read_cases(manifest, tasks, columns, split, sure=sure, seed=bundle.manifest.provenance.seed)
    if wanted.digest and wanted.digest != found.digest:
        fault = f"its data set is {found.digest[:12]}..., the protocol's {wanted.digest[:12]}..."
        mend = "give the data that the protocol names; where its columns have other names, --of RECIPE tells them"
        raise UsageError(str(manifest), fault, mend)
    samples = found.cases.samples
    attributes = {name: [sample.attributes[name] for sample in samples] for name in columns.attributes}
    check_subgroups(protocol, attributes, str(ask.protocol or manifest))
    return found


def _columns(bundle: Bundle, origin: str | None) -> tuple[tuple[Task, ...], Columns]:
    """Name the tasks with their columns: the recipe's own, or those of the usual names."""
    shipped = tuple(output.task for output in bundle.manifest.outputs)
    if origin is None:
        return shipped, Columns()
    from ..protocol.origin import find_origin

    found = find_origin(origin)
    plain = {task.name: task for task in found.plain_tasks}
    wrong = [task.name for task in shipped if task.name not in plain or _asks(plain[task.name]) != _asks(task)]
    if wrong:
        fault = f"has not the bundle's task {', '.join(wrong)}, or has it with other classes"
        raise UsageError(f"--of {origin}", fault, "name the recipe that the bundle was made by")
    return found.tasks, found.columns or Columns()


def _asks(task: Task) -> tuple[str, tuple[str, ...], int]:
    return task.kind, task.classes, task.size


def _fitting(protocol: Protocol, ask: Ask, bundle: Bundle, stored: StoredAnswers) -> Protocol:
    """Hold protocol, bundle and answers against each other; nothing usual is asked that the teacher did not answer."""
    if ask.protocol is None:
        answered = {task.name for task in stored.meta.tasks}
        tasks = {name: rules for name, rules in protocol.tasks.items() if name in answered}
        protocol = msgspec.structs.replace(protocol, tasks=tasks or protocol.tasks)
    check_identity(protocol, bundle, stored.meta, str(ask.protocol or "the teacher's answers"))
    return protocol


def _changes(bundle: Bundle, stored: StoredAnswers) -> tuple[Change, ...]:
    """What the compression modified: as the bundle's own proof tells it, or what answers and manifest alone tell."""
    if PROOF in bundle.members:
        return decode_evidence(bundle.members[PROOF], f"{bundle.manifest.name}: {PROOF}").changes
    return changes_of(TeacherFacts(thresholds=stored.meta.thresholds), bundle.manifest)


def _notes(ask: Ask, bundle: Bundle, found: FieldCases, stored: StoredAnswers, engines: Sequence[str]) -> list[str]:
    notes = [] if ask.protocol is not None else [NOT_LOCKED]
    if ask.unsigned:
        notes.append("the bundle was opened unsigned: nobody vouches for it")
    if SEEN not in bundle.members:
        notes.append("the bundle does not tell which images its student was made with: they may be among the cases")
    if found.without:
        notes.append(f"no reference standard for {', '.join(found.without)}: only agreement with the teacher is told")
    left = [engine_of(options) for options in bundle.manifest.engines if engine_of(options) not in engines]
    if left:
        notes.append(f"not proved on {', '.join(left)}")
    taught = bundle.manifest.provenance.teacher_digest
    if taught and taught != stored.meta.teacher:
        notes.append(f"the bundle was taught by {taught[:12]}, the answers are those of {stored.meta.teacher[:12]}")
    return notes
