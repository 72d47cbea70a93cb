"""A bundle asked about cases and judged, then written: what a recipe's proof and the proof in the field share.

Needs no torch: the teacher is there as its stored answers, whoever asked it.

    judged = judge(bundle, engines, cases, stored, protocol, Setup(shown=cases_of(cases), ...), say)
    write_proof(folder, judged.proof, bundle, protocol, judged.draw(8))
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec

from ...runtime.bundle import Bundle
from ...runtime.errors import FoveolaError, UsageError
from ...runtime.manifest import EngineName
from ...runtime.predict import Predictor
from ...runtime.prediction import Prediction
from ...runtime.task import Task
from ..data.dataset import Dataset
from ..parity.cases import Cases
from ..parity.evidence import EVIDENCE, FLIPS, Change, encode_evidence
from ..parity.protocol import Protocol
from ..parity.prove import Proof, prove
from ..report.render import Picture, render_report
from ..work import write_atomic
from .beside import Other, stand_beside
from .collect import gather
from .flip_wall import draw_wall
from .flips_csv import flips_csv
from .kept_answers import StoredAnswers
from .provenance import provenance_of

REPORT = "report.html"
Progress = Callable[[int, int], None]


class Setup(msgspec.Struct, frozen=True, kw_only=True):
    """What the evidence says of the cases, beside what was found.

    Args:
        shown: the cases as they are named in what is written.
        split: which rows they are.
        digest: of their data set.
        other: cases that are not of the proof, on which thresholds are fitted again; None: there are none at hand.
        changes: what the compression modified.
        notes: for the evidence.
    """

    shown: Cases
    split: str
    digest: str
    other: Other | None = None
    changes: Sequence[Change] = ()
    notes: Sequence[str] = ()


class Judged(msgspec.Struct, frozen=True, kw_only=True):
    """The proof, and who answered; whoever holds the images can draw the flips."""

    proof: Proof
    cases: Dataset
    stored: StoredAnswers
    predictors: dict[str, Predictor]

    def draw(self, count: int) -> list[Picture]:
        """Draw the flips to look at first; the proof must name the cases as the data set does."""
        samples = self.cases.samples

        def student(engine: str, index: int) -> Prediction | None:
            try:
                return self.predictors[engine].predict(samples[index].path)
            except FoveolaError:
                return None

        def teacher(index: int) -> Prediction | None:
            return self.stored.prediction(self.stored.places[samples[index].sha256])

        return draw_wall(self.proof.evidence.flips, count, self.cases, teacher, student) if count else []


def judge(
    bundle: Bundle,
    engines: Sequence[EngineName],
    cases: Dataset,
    stored: StoredAnswers,
    protocol: Protocol,
    setup: Setup,
    progress: Progress,
) -> Judged:
    """Ask every engine about every case, and prove.

    Args:
        bundle: answers through its own preprocessing and thresholds.
        engines: which of its artefacts.
        cases: images and reference standard.
        stored: the teacher's answers to these images.
        protocol: how it is judged.
        setup: what else the evidence says.
        progress: called with (done, total).

    Raises:
        FoveolaError: a mask of the reference cannot be read, an image that belongs to two patients.
        UsageError: the protocol does not fit the bundle's tasks.
    """
    tasks = tasks_of(bundle, protocol)
    predictors: dict[str, Predictor] = {engine: Predictor(bundle, engine) for engine in engines}
    described = bundle.manifest.reference is not None
    gathered = gather(tasks, cases, stored, predictors, protocol=protocol, describe=described, progress=progress)
    beside = stand_beside(tasks, setup.shown, gathered, bundle, predictors, setup.other)
    proof = prove(
        tasks,
        setup.shown,
        gathered.references,
        gathered.teacher,
        gathered.students,
        protocol=protocol,
        beside=msgspec.structs.replace(
            beside,
            changes=tuple(setup.changes),
            provenance=provenance_of(bundle, engines),
            notes=(*setup.notes, *beside.notes),
        ),
        bundle=bundle.manifest.name,
        bundle_digest=bundle.core_digest,
        teacher_digest=stored.meta.teacher,
        data_digest=setup.digest,
        split=setup.split,
    )
    return Judged(proof=proof, cases=cases, stored=stored, predictors=predictors)


def tasks_of(bundle: Bundle, protocol: Protocol) -> tuple[Task, ...]:
    """Keep the bundle's tasks that the protocol asks about."""
    named = set(protocol.tasks) | {marker.task for marker in protocol.biomarkers.values()}
    return tuple(output.task for output in bundle.manifest.outputs if output.task.name in named)


def write_proof(
    folder: Path, proof: Proof, bundle: Bundle, protocol: Protocol | None, pictures: Sequence[Picture]
) -> None:
    """Write `flips.csv`, `report.html` and, last, `evidence.json`: where the evidence is, all is.

    Raises:
        UsageError: the folder cannot be written.
    """
    page = render_report(proof.evidence, bundle.manifest, pictures=pictures, protocol=protocol)
    files = {FLIPS: flips_csv(proof.flips), REPORT: page.encode(), EVIDENCE: encode_evidence(proof.evidence)}
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, data in files.items():
            write_atomic(folder / name, data)
    except OSError as error:
        raise UsageError(str(folder), f"cannot be written: {error.strerror}", "choose another place") from None
