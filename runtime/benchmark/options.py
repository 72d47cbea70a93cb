"""The options of the verb `bench`; apart from what it does, so that other verbs do not pay for its imports."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ..selftest import GOLDEN

ENERGY_S = 5.0
STARTS = 5


def add_options(parser: argparse.ArgumentParser) -> None:
    """Give the verb its options."""
    parser.add_argument("--image", type=Path, metavar="IMAGE", help=f"default: the first image of {GOLDEN}")
    parser.add_argument("--runs", type=at_least(1), default=100, metavar="N", help="timed calls (100)")
    parser.add_argument(
        "--cold", type=at_least(0), default=STARTS, metavar="N", help=f"fresh processes for the cold start ({STARTS})"
    )
    seconds: dict[str, Any] = {"type": float, "metavar": "S"}
    pause: dict[str, Any] = {**seconds, "nargs": "?", "default": 0.0}
    parser.add_argument("--idle", const=2.0, help="also 10 calls, each after S seconds of idling (2)", **pause)
    parser.add_argument("--sustain", const=60.0, help="also S seconds without a pause (60)", **pause)
    parser.add_argument(
        "--energy",
        default=ENERGY_S,
        help=f"joules over S seconds, where the machine tells; 0: not ({ENERGY_S:g})",
        **seconds,
    )
    parser.add_argument("--require-budget", action="store_true", help="exit code 1 unless the budget holds")
    parser.add_argument("--merge", action="store_true", help="records instead of a bundle: put them into one table")
    parser.add_argument("--any-bundle", action="store_true", help="with --merge: bundles of different names too")
    parser.add_argument(
        "--out", type=Path, metavar="FILE", help="write the record (JSON) or the table (Markdown) there"
    )


def at_least(least: int) -> Callable[[str], int]:
    """Make a type of argument: a whole number, so large at least."""

    def number(text: str) -> int:
        value = int(text)
        if value < least:
            raise argparse.ArgumentTypeError(f"at least {least}")
        return value

    return number
