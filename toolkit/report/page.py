"""What every page shares: a template engine that escapes, one style, pictures inside the file.

A page is one file that loads nothing and holds no script. Its style is `style.html.j2`, included between the `<style>`
tags of each template; templates lie beside the code that fills them. Nothing but a digest and plain words may be
printed in its `footer`.
"""

from __future__ import annotations

import base64
import re
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from . import wording

TOOLKIT = Path(__file__).parents[1]
TEMPLATES = ("report", "review", "pack", "search")  # folders that hold some
DIGITS = 16  # of a digest that identifies a printed page


def page_environment() -> Environment:
    """Give a template its words; everything else is escaped."""
    environment = Environment(
        loader=FileSystemLoader([TOOLKIT / folder for folder in TEMPLATES]),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "compact": wording.compact,
        "data_uri": data_uri,
        "digest": short_digest,
        "listed": wording.listed,
        "sentence": wording.sentence,
        "thousands": wording.thousands,
    }
    return environment


def data_uri(png: bytes) -> str:
    """A picture as an address that holds it."""
    return f"data:image/png;base64,{base64.b64encode(png).decode('ascii')}"


def short_digest(digest: str) -> str:
    """Enough of a digest to tell it from others."""
    return digest[:DIGITS]


def printed_digest(digest: str) -> str:
    """What identifies a printed page; it goes into the style sheet, so nothing but a digest may."""
    short = short_digest(digest)
    return short if re.fullmatch("[0-9a-f]+", short) else ""
