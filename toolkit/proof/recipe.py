"""The proof of one bundle in a recipe: every engine's artefact against the teacher, on images nothing was fitted to."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import msgspec

from ...runtime.bundle import Bundle, read_unverified
from ...runtime.engine import INSTALL, engine_of, runs_anywhere
from ...runtime.errors import MissingPartError
from ...runtime.manifest import EngineName
from ..data.dataset import Dataset, proof_set
from ..json_files import write_json
from ..models.network import Teacher
from ..parity.evidence import Evidence, encode_evidence
from ..parity.protocol import Protocol, usual_protocol
from ..report.render import Picture, render_report
from ..teachers.facts import facts_of
from .beside import Other
from .changes import changes_of, student_of
from .checks import check_identity
from .collect import cases_of
from .judge import Setup, judge, write_proof
from .private import hide_names, shared_key, without_names
from .teacher_answers import ask_teacher

SHIPPED, SHIPPED_REPORT = "shipped.json", "shipped.html"  # evidence and report without names, for the bundle
PICTURES = "pictures.json"  # the worst flips, drawn; beside the proof, for the report with speeds
REFITTED_ON = "calibration"  # the split on which thresholds are fitted again, for comparison
NOT_LOCKED = "no protocol was locked before: the recipe's margins were taken, and the usual endpoints"
ON_DEVICE = "it runs on the device alone; prove it there with `foveola parity`"
Progress = Callable[[int, int, str], None]


def prove_bundle(
    core: Path,
    teacher: Teacher,
    locked: Mapping[str, tuple[float, ...]],
    dataset: Dataset,
    *,
    protocol: Protocol | None = None,
    split: str,
    resamples: int,
    pictures: int,
    seed: int,
    teacher_digest: str,
    folder: Path,
    progress: Progress,
) -> Evidence:
    """Write `evidence.json`, `flips.csv`, `report.html`, `pictures.json`, and what the bundle carries of them.

    Args:
        core: the bundle, as `make_core` wrote it.
        teacher: in evaluation mode.
        locked: the teacher's own thresholds by task (`lock_teacher`).
        dataset: holds the images of the proof.
        protocol: how it is judged; None: by the tasks' margins, on `split`, with `resamples` and `seed`.
        split: which images.
        resamples: of the patient bootstrap.
        pictures: how many of the worst flips are drawn.
        seed: of the bootstrap.
        teacher_digest: identity of the teacher's step.
        folder: where the results go.
        progress: called with (done, total, text).

    Raises:
        FoveolaError: no images, or one of them was trained or calibrated on.
    """
    bundle = read_unverified(core)
    split = protocol.data.split if protocol else split
    cases = proof_set(dataset, split)
    stored = ask_teacher(
        teacher,
        locked,
        cases,
        teacher_digest=teacher_digest,
        progress=lambda done, total: progress(done, 2 * total, f"the teacher answers {done}/{total}"),
    )
    chosen = protocol or _usual(bundle, teacher, cases, resamples, seed)
    check_identity(chosen, bundle, stored.meta, "the proof")
    engines, left = _engines_here(bundle)
    judged = judge(
        bundle,
        engines,
        cases,
        stored,
        chosen,
        Setup(
            shown=cases_of(cases),
            split=split,
            digest=dataset.digest,
            other=_other(dataset),
            changes=changes_of(facts_of(teacher, locked), bundle.manifest, student_of(bundle)),
            notes=(*(() if protocol else (NOT_LOCKED,)), *left),
        ),
        lambda done, total: progress(total + done, 2 * total, f"the bundle answers {done}/{total}"),
    )
    drawn = judged.draw(pictures)
    write_json(folder / PICTURES, drawn)
    _write_shipped(folder, judged.proof.evidence, cases, dataset, bundle, protocol)
    write_proof(folder, judged.proof, bundle, protocol, drawn)
    return judged.proof.evidence


def _engines_here(bundle: Bundle) -> tuple[list[EngineName], list[str]]:
    """The engines that can be proved here, and a note of each that cannot.

    Raises:
        MissingPartError: none can.
    """
    offered = bundle.manifest.engines
    here: list[EngineName] = [engine_of(one) for one in offered if runs_anywhere(one)]
    left: list[EngineName] = [engine_of(one) for one in offered if not runs_anywhere(one)]
    if not here:
        cures = " or ".join(INSTALL[name] for name in left)
        raise MissingPartError(bundle.manifest.name, f"none of its engines runs here ({', '.join(left)})", cures)
    return here, [f"{name} was not proved: {ON_DEVICE}" for name in left]


def read_pictures(folder: Path) -> list[Picture]:
    """The pictures that `prove_bundle` drew."""
    return msgspec.json.decode((folder / PICTURES).read_bytes(), type=list[Picture])


def _write_shipped(
    folder: Path, evidence: Evidence, cases: Dataset, dataset: Dataset, bundle: Bundle, protocol: Protocol | None
) -> None:
    """Write evidence and report as the bundle carries them to every device: without names and pictures."""
    named = cases_of(cases)
    hidden = hide_names(named, cases, shared_key(dataset))
    shipped = without_names(evidence, named, hidden)
    (folder / SHIPPED).write_bytes(encode_evidence(shipped))
    page = render_report(shipped, bundle.manifest, protocol=protocol)
    (folder / SHIPPED_REPORT).write_text(page, encoding="utf-8")


def _usual(bundle: Bundle, teacher: Teacher, cases: Dataset, resamples: int, seed: int) -> Protocol:
    """The recipe's margins for what bundle and teacher both answer."""
    shipped, taught = {output.task.name for output in bundle.manifest.outputs}, {task.name for task in teacher.tasks}
    tasks = [task for task in cases.tasks if task.name in shipped & taught]
    return msgspec.structs.replace(usual_protocol(tasks, bundle.manifest.name), resamples=resamples, seed=seed)


def _other(dataset: Dataset) -> Other | None:
    """Images that neither the proof nor the lock of the thresholds has used."""
    cases = dataset.subset(REFITTED_ON)
    return Other(cases=cases, split=REFITTED_ON) if len(cases) else None
