"""A summary of the watch in lines for a terminal."""

from __future__ import annotations

from collections.abc import Iterator

from .drift import HIDDEN, Shift
from .summary import Export, Summary, Told


def export_lines(export: Export) -> list[str]:
    """Say what a folder tells, the newest bundle last."""
    lines = [printable(line) for one in export.bundles for line in _summary(one)]
    return [*lines, *(f"left out    {fault}" for fault in export.faults)]


def count_words(count: Told) -> str:
    """Say a count; a hidden one as `<5`."""
    return f"<{HIDDEN}" if count is None else str(count)


def printable(text: str) -> str:
    """Show line breaks and terminal escapes instead of obeying them: names may come from a file that nobody checked."""
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


def p_words(p: float) -> str:
    """Say a chance."""
    return "<0.0001" if p < 0.0001 else f"{p:.2g}"


def figure_words(shift: Shift) -> tuple[str, str, str, str]:
    """Say images, PSI, KS and p; a dash for each that is not told."""
    if shift.psi is None or shift.ks is None or shift.p is None:
        return count_words(shift.images or None), "-", "-", "-"
    return str(shift.images), f"{shift.psi:.3f}", f"{shift.ks:.2f}", p_words(shift.p)


def _summary(one: Summary) -> Iterator[str]:
    yield f"{one.name} {one.version}, {one.first} to {one.last}"
    yield f"images      {count_words(one.images)}, {count_words(one.unfit_images)} of them unfit"
    for what, counts in (("refused", one.refused), ("unfit", one.unfit)):
        if counts:
            yield f"{what:<11} " + ", ".join(f"{word} {count_words(count)}" for word, count in counts.items())
    if one.throttles:
        yield f"throttled   {one.throttles} times"
    if not one.reference:
        yield "reference   none in the bundle; the last days are held against the ones before them"
    if one.shifts:
        yield f"the last {one.days} days:"
        yield f"  {'':<32} {'images':>7} {'PSI':>7} {'KS':>5} {'p':>8}  against"
    for shift in one.shifts:
        images, psi, ks, p = figure_words(shift)
        figures = f"{images:>7} {psi:>7} {ks:>5} {p:>8}"
        yield f"  {shift.what:<32} {figures}  {shift.basis:<13} {shift.verdict}"
    yield f"verdict     {one.verdict}"
