"""The verbs `watch` and `audit`: what a device saw, and whether its log is whole."""

from __future__ import annotations

import argparse
from pathlib import Path

import msgspec

from ..durable import write_file
from ..errors import ExitCode
from ..verbs.verb import Answer
from .audit_check import check_audit, read_lines
from .audit_log import Line
from .summary import encode_export, summarise
from .telling import export_lines, printable


def run_watch(arguments: argparse.Namespace) -> Answer:
    """Tell days and drift, as words, JSON or a picture; small counts are hidden in all of them.

    Raises:
        FoveolaError: no folder of a watch, or a file cannot be written.
    """
    export = summarise(arguments.folder, arguments.days)
    written: list[Path] = []
    if arguments.html:
        from .picture import draw

        write_file(arguments.html, draw(export).encode())
        written.append(arguments.html)
    if arguments.out:
        write_file(arguments.out, encode_export(export))
        written.append(arguments.out)
    lines = [*export_lines(export), *(f"written     {path}" for path in written)]
    return ExitCode.DONE, msgspec.to_builtins(export), lines


def run_audit(arguments: argparse.Namespace) -> Answer:
    """Check the log (`verify`; exit code 5 where it is broken), or show its last lines unchecked (`show`).

    Raises:
        FoveolaError: no log, no key, or a noted head that is none.
    """
    if arguments.action == "show":
        found = read_lines(arguments.folder, arguments.lines)
        return ExitCode.DONE, {"lines": msgspec.to_builtins(found)}, [_line_words(line) for line in found]
    checked = check_audit(arguments.folder, arguments.key, arguments.head or "")
    lines = [f"note  {note}" for note in checked.notes]
    if checked.ok:
        lines += [f"the log is whole: {checked.lines} lines from {checked.first} on", f"head  {checked.head}"]
    else:
        lines += [f"BROKEN at {checked.fault}", f"{checked.lines} lines before it hold"]
    return ExitCode.DONE if checked.ok else ExitCode.NOT_VOUCHED, msgspec.to_builtins(checked), lines


def _line_words(line: Line) -> str:
    facts = " ".join(f"{name}={value}" for name, value in line.facts.items())
    return printable(f"{line.n:>8}  {line.at}  {line.event:<14} {facts}".rstrip())
