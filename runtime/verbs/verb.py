"""What a verb is, and its command line; no verb's own imports are paid for here.

Law: an option stands once. `parser` makes argparse's form of it for a device, `toolkit/commands/verbs.py` click's.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from textwrap import fill
from typing import Any, Literal

import msgspec

from ..errors import ExitCode, FoveolaError

Answer = tuple[ExitCode, dict[str, Any], list[str]]  # exit code, the JSON object, the same in words


class Option(msgspec.Struct, frozen=True, kw_only=True):
    """One option (`--engine`) or argument (`bundle`) of a verb.

    Args:
        name: with its dashes; an argument has none. The value has this name in what `run` gets, with underscores.
        help: what it is for, one sentence.
        type: of the value; a flag takes none, and `whole` and `number` are int and float.
        metavar: how help names the value.
        default: where the option is not given.
        bare: number: the value of an option that is given without one.
        least: whole: smaller values are a usage error.
        choices: text: other values are a usage error.
        several: may be given again, or (argument) takes one or more.
        optional: argument: may be left out, and is None then; others are required.
    """

    name: str
    help: str = ""
    type: Literal["path", "text", "whole", "number", "flag"] = "text"
    metavar: str = ""
    default: str | float | Path | None = None
    bare: float | None = None
    least: int | None = None
    choices: tuple[str, ...] = ()
    several: bool = False
    optional: bool = False

    @property
    def is_argument(self) -> bool:
        """Whether it stands without a name on the command line."""
        return not self.name.startswith("-")

    @property
    def field(self) -> str:
        """Name of the value in what `run` gets."""
        return self.name.lstrip("-").replace("-", "_")


class Verb(msgspec.Struct, frozen=True, kw_only=True):
    """One verb.

    Args:
        text: what it does, one sentence for the list of verbs.
        more: the rest of its help.
        options: what it takes, besides `--json`.
        examples: command lines that begin with `foveola`.
        run: the options' values in, its answer out; refuses by `FoveolaError`.
    """

    text: str
    more: str = ""
    options: tuple[Option, ...]
    examples: tuple[str, ...]
    run: Callable[[argparse.Namespace], Answer]


BUNDLE = Option(name="bundle", type="path", metavar="BUNDLE", help="a .foveola file")
KEY = Option(
    name="--key",
    type="path",
    metavar="PUB",
    help="Public key (PEM) of whoever vouches for the bundle; else FOVEOLA_KEY, else NAME.pub beside it.",
)
PINNED = Option(
    name="--key", type="path", metavar="PUB", help="Public key (PEM) that the device trusts; else FOVEOLA_KEY."
)
ROOT_VARIABLE = "FOVEOLA_ROOT"  # environment variable: the device's folder
ROOT = Option(
    name="--root", type="path", metavar="DIR", help=f"The device's folder with its two slots; else {ROOT_VARIABLE}."
)
AUDIT = Option(
    name="--audit", type="path", metavar="DIR", help="Keep a sealed log of what happened there; see `foveola audit`."
)
ENGINE = Option(
    name="--engine",
    metavar="E",
    help="onnxruntime, openvino or tensorrt; by default the bundle's first that is installed.",
)


DICOM_KINDS = "sr,seg"  # written by `predict --dicom-out` where nothing else is said


def to_stderr(line: str) -> None:
    """Tell of progress."""
    print(line, file=sys.stderr, flush=True)


def to_stdout(lines: Sequence[str]) -> None:
    """Write an answer, whole; a character that stdout's encoding lacks is written with a backslash.

    Raises:
        FoveolaError: the disk is full, or nobody reads any more.
    """
    encoding = sys.stdout.encoding or "utf-8"
    text = "".join(f"{line}\n" for line in lines).encode(encoding, "backslashreplace").decode(encoding)
    try:
        sys.stdout.write(text)
        sys.stdout.flush()
    except OSError as error:
        with contextlib.suppress(OSError, ValueError):  # what is left would be tried, and fail, once more at the end
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        fault = f"the answer cannot be written: {error.strerror}"
        raise FoveolaError("stdout", fault, "make room, or read it to its end") from None


def parser(verbs: Mapping[str, Verb], prog: str) -> argparse.ArgumentParser:
    """Make the command line of verbs; the chosen one's name is `verb` in what it parses to."""
    whole = argparse.ArgumentParser(prog=prog, description="Predict with a signed bundle, and inspect or test it.")
    those = whole.add_subparsers(dest="verb", required=True, metavar="VERB")
    for name, verb in verbs.items():
        lines = "\n".join("  " + line.replace("foveola", prog, 1) for line in verb.examples)
        one = those.add_parser(
            name,
            help=verb.text,
            description="\n\n".join(fill(one, 100) for one in (verb.text, verb.more) if one),
            epilog=f"example:\n{lines}",
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        for option in verb.options:
            one.add_argument(option.name, **_argparse(option))
        one.add_argument("--json", action="store_true", help="One JSON object on stdout and nothing else.")
    return whole


def _argparse(option: Option) -> dict[str, Any]:
    if option.type == "flag":
        return {"action": "store_true", "help": option.help}
    types: dict[str, Callable[[str], object]] = {"path": Path, "text": str, "whole": int, "number": float}
    told = f" Default: {option.default:g}." if isinstance(option.default, int | float) and option.default else ""
    form: dict[str, Any] = {
        "type": types[option.type] if option.least is None else _at_least(option.least),
        "help": option.help.replace("%", "%%") + told,
        "metavar": option.metavar or None,
        "choices": option.choices or None,
    }
    if option.is_argument:
        return form | ({"nargs": "+"} if option.several else {"nargs": "?"} if option.optional else {})
    form["default"] = option.default
    if option.several:
        form |= {"action": "append", "default": []}
    if option.bare is not None:
        form |= {"nargs": "?", "const": option.bare}
    return form


def _at_least(least: int) -> Callable[[str], int]:
    """Make a type of argument: a whole number, so large at least."""

    def number(text: str) -> int:
        value = int(text)
        if value < least:
            raise argparse.ArgumentTypeError(f"at least {least}")
        return value

    return number
