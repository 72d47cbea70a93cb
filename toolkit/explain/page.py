"""An explanation as one HTML file; see `report/page.py` for the law of every page: this file only arranges.

html = render_explained(found)
"""

from __future__ import annotations

from ..report import wording
from ..report.layers import layers_block
from ..report.page import page_environment
from .record import Explained

TEMPLATE = "explain.html.j2"


def render_explained(found: Explained) -> str:
    """One HTML page; write it as UTF-8."""
    environment = page_environment()
    environment.filters["milliseconds"] = wording.milliseconds
    return environment.get_template(TEMPLATE).render(layers=layers_block(found), foreseen=found.foreseen, footer="")
