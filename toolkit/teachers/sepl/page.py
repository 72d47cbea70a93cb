"""The account of SePL's experts as one HTML file; see `report/page.py` for the law of every page.

html = render_usage(report)
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ...report.page import page_environment

if TYPE_CHECKING:
    from .usage import UsageReport

TEMPLATE = "sepl.html.j2"
PRIORS = {
    "guide": "The simple factors' answers guide the complex ones.",
    "detached": "The simple factors' answers guide the complex ones, whose losses do not reach them.",
    "reference": "Trained with the simple factors' true values; here the network's own answers stand for them.",
    "none": "The experts see the picture alone.",
}


def render_usage(report: UsageReport) -> str:
    """One HTML page; write it as UTF-8."""
    environment = page_environment()
    environment.filters["error"] = _error
    words = PRIORS[report.prior] if report.experts else "Plain heads: there are no experts."
    complex_factors = len(report.gates) if report.experts else "–"
    template = environment.get_template(TEMPLATE)
    return template.render(report=report, words=words, complex=complex_factors, footer="experts of SePL")


def _error(value: float | None) -> str:
    return "–" if value is None else f"{value:.3g}"
