"""The verbs of a device as commands of `foveola`: options, help and functions are the runtime's own."""

from __future__ import annotations

import argparse
import json
from typing import Any

import click

from ...runtime.verbs.table import VERBS
from ...runtime.verbs.verb import Option, to_stdout
from .parts import FILE, example, stdout_for_results


def command_of(name: str) -> click.Command:
    """Make the command of one verb."""
    verb = VERBS[name]
    parameters = [_parameter(option) for option in verb.options]
    text = "One JSON object on stdout and nothing else."
    return click.Command(
        name,
        callback=lambda **arguments: _run(name, arguments),
        params=[*parameters, click.Option(["--json"], is_flag=True, help=text)],
        help="\n\n".join(filter(None, (verb.text, verb.more))),
        epilog=example(*verb.examples),
    )


def _run(name: str, arguments: dict[str, Any]) -> int:
    """Run a verb of the runtime; its answer is an exit code, a JSON object and the same in lines."""
    with stdout_for_results():
        code, result, lines = VERBS[name].run(argparse.Namespace(**arguments))
    to_stdout([json.dumps(result, allow_nan=False, separators=(",", ":"))] if arguments["json"] else lines)
    return code


def _parameter(option: Option) -> click.Parameter:
    if option.is_argument:
        many = -1 if option.several else 1
        return click.Argument(
            [option.name], type=_type(option), nargs=many, required=not option.optional, metavar=_metavar(option)
        )
    if option.type == "flag":
        return click.Option([option.name], is_flag=True, help=option.help)
    form: dict[str, Any] = {"type": _type(option), "help": option.help, "metavar": _metavar(option)}
    if option.several:
        form |= {"multiple": True}
    elif option.default is not None:
        form |= {"default": option.default, "show_default": option.bare is None}
    if option.bare is not None:
        form |= {"is_flag": False, "flag_value": option.bare}
    return click.Option([option.name], **form)


def _metavar(option: Option) -> str | None:
    name = option.metavar + ("..." if option.is_argument and option.several else "")
    return (f"[{name}]" if option.is_argument and option.optional else name) or None


def _type(option: Option) -> click.ParamType[Any, Any] | type:
    if option.choices:
        return click.Choice(option.choices)
    if option.least is not None:
        return click.IntRange(min=option.least)
    if option.type == "path":
        return FILE
    return {"text": str, "whole": int, "number": float}[option.type]
