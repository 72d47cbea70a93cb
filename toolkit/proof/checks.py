"""What must belong together before a proof in the field begins; every refusal is one line with all its faults."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from ...runtime.bundle import Bundle
from ...runtime.errors import FoveolaError, UsageError
from ...runtime.seen import SEEN, find_seen
from ..parity.protocol import Protocol
from .cases import FieldCases
from .kept_answers import AnswersMeta, StoredAnswers

FIRST = 10  # cases named in a refusal


def check_identity(protocol: Protocol, bundle: Bundle, meta: AnswersMeta, place: str) -> None:
    """Refuse a bundle, a teacher or tasks other than the protocol's.

    Raises:
        UsageError: all of them.
    """
    faults = list(_identity_faults(protocol, bundle, meta))
    if faults:
        raise UsageError(place, "; ".join(faults), "give what the protocol was written for")


def _identity_faults(protocol: Protocol, bundle: Bundle, meta: AnswersMeta) -> Iterator[str]:
    name = bundle.manifest.name
    if protocol.name and protocol.name != name:
        yield f"the protocol is for {protocol.name!r}, the bundle is {name!r}"
    if protocol.teacher and protocol.teacher != meta.teacher:
        yield f"the protocol's teacher is {protocol.teacher[:12]}..., the answers are those of {meta.teacher[:12]}..."
    shipped = {output.task.name: output.task for output in bundle.manifest.outputs}
    answered = {task.name: task for task in meta.tasks}
    named = dict.fromkeys((*protocol.tasks, *(marker.task for marker in protocol.biomarkers.values())))
    for task in named:
        if task not in answered:
            yield f"the teacher's answers have no task {task!r}"
        elif task in shipped and not _is_same(shipped[task], answered[task]):
            yield f"task {task!r} has another kind or other classes in the teacher's answers than in the bundle"


def _is_same(shipped: object, answered: object) -> bool:
    return all(
        getattr(shipped, field) == getattr(answered, field)
        for field in ("kind", "classes", "size", "exclusive", "unit")
    )


def check_answered(found: FieldCases, stored: StoredAnswers, place: str) -> None:
    """Refuse cases that the teacher was not asked about.

    Raises:
        FoveolaError: there are some.
    """
    absent = [sample.key for sample in found.cases.samples if sample.sha256 not in stored.places]
    if not absent:
        return
    count = len(found.cases)
    if len(absent) == count:
        fault = f"there is an answer to none of the {count} cases: they are answers to other images ({first(absent)})"
        raise FoveolaError(place, fault, "give the answers to these very image files")
    fault = f"no answer to {len(absent)} of {count} cases: {first(absent)}"
    raise FoveolaError(place, fault, "ask the teacher about them too (`foveola answers`), or leave the cases out")


def check_unseen(bundle: Bundle, found: FieldCases) -> None:
    """Refuse cases that the student was trained, distilled, calibrated or validated on.

    Raises:
        FoveolaError: there are some.
    """
    if SEEN not in bundle.members:
        return  # an older bundle: nothing is known
    images = [sample.sha256 for sample in found.cases.samples]
    used = set(find_seen(bundle.members[SEEN], images))
    keys = [sample.key for sample in found.cases.samples if sample.sha256 in used]
    if keys:
        fault = f"the student was made with {len(keys)} of {len(images)} cases: {first(keys)}"
        raise FoveolaError(str(found.manifest), fault, "prove it on images that it has never seen")


def first(keys: Iterable[str]) -> str:
    """Name the first ten."""
    names = list(keys)
    more = f" and {len(names) - FIRST} more" if len(names) > FIRST else ""
    return ", ".join(names[:FIRST]) + more
