"""What a cooperation costs and bears as one HTML file; see `report/page.py` for the law of every page.

html = render_cooperation(report)
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ...report.page import page_environment
from .measure import BITS, RADII

if TYPE_CHECKING:
    from .measure import CooperationReport

TEMPLATE = "cooperation.html.j2"


def render_cooperation(report: CooperationReport) -> str:
    """One HTML page; write it as UTF-8."""
    environment = page_environment()
    environment.filters["score"] = _score
    template = environment.get_template(TEMPLATE)
    return template.render(report=report, radii=RADII, bits=[str(bits) for bits in BITS], footer="after MT-CooL")


def _score(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"
