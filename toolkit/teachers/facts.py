"""What a teacher is, in plain facts, for the page of what the compression modified."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from torch import nn

from ..models.network import Network, Teacher
from ..proof.changes import TeacherFacts
from .built import BuiltTeacher
from .team import Team


def facts_of(teacher: Teacher, locked: Mapping[str, tuple[float, ...]]) -> TeacherFacts:
    """Describe a teacher: its networks, their parameters, how it is fed, and its own thresholds.

    Args:
        teacher: of any make; parameters are counted where it is a module.
        locked: its thresholds by task.
    """
    parameters = sum(one.numel() for one in teacher.parameters()) if isinstance(teacher, nn.Module) else None
    return TeacherFacts(
        networks=tuple(_networks(teacher)), parameters=parameters, input=teacher.input, thresholds=dict(locked)
    )


def _networks(teacher: object) -> Iterator[str]:
    if isinstance(teacher, Team):
        for member in teacher.ordered_members():
            yield from _networks(member)
    elif isinstance(teacher, Network):
        yield teacher.architecture.backbone
    elif isinstance(teacher, BuiltTeacher):
        yield from teacher.backbones
    else:
        yield type(getattr(teacher, "module", teacher)).__name__
