"""The training report as one HTML file; see `report.py` for the law of every page: this file only arranges.

html = render_review(review, pngs)
"""

from __future__ import annotations

from collections.abc import Sequence

from ..parity.measured import MIN_PATIENTS
from ..report.page import page_environment, printed_digest
from .blocks import look_blocks, main_notes, main_rows, task_blocks
from .curves import training_blocks
from .record import Review

TEMPLATE = "review.html.j2"
PICTURES_OPEN = 6  # of a task and teacher that are not folded away


def render_review(review: Review, pngs: Sequence[bytes] = ()) -> str:
    """One HTML page.

    Args:
        review: all numbers.
        pngs: the attention pictures, one for each of `review.attention`.

    Returns:
        The page; write it as UTF-8.
    """
    return (
        page_environment()
        .get_template(TEMPLATE)
        .render(
            review=review,
            rows=main_rows(review),
            notes=main_notes(review),
            trainings=training_blocks(review),
            tasks=task_blocks(review),
            looks=look_blocks(review, pngs),
            pictures_open=PICTURES_OPEN,
            confidence=f"{100 * review.confidence:g}",
            min_patients=MIN_PATIENTS,
            footer=f"training report, data {printed_digest(review.data_digest)}",
        )
    )
