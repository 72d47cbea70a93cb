"""What the commands share: options, the order of help, and a clean stdout."""

from __future__ import annotations

import contextlib
import ctypes
import os
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

import click

from ...runtime.verbs.verb import ENGINE, KEY
from ..data.faults import did_you_mean

F = TypeVar("F", bound=Callable[..., Any])

FILE = click.Path(path_type=Path)


class Group(click.Group):
    """A group that lists commands as they were added, and knows what a mistyped one may have meant."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Give the names in order."""
        return list(self.commands)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find the command, or refuse with the nearest one."""
        if args and not args[0].startswith("-") and args[0] not in self.commands:
            ctx.fail(f"no command {args[0]!r}; {did_you_mean(args[0], self.commands)}".rstrip("; "))
        return super().resolve_command(ctx, args)


def example(*lines: str) -> str:
    """Give the end of a help text: commands to copy."""
    return "\b\nExample:\n" + "\n".join(f"  {line}" for line in lines)


def bundle_argument(function: F) -> F:
    """Take BUNDLE: a .foveola file."""
    return click.argument("bundle", type=FILE, metavar="BUNDLE")(function)


def key_option(function: F) -> F:
    """Take `--key PUB`."""
    return click.option("--key", type=FILE, metavar="PUB", help=KEY.help)(function)


def engine_option(function: F) -> F:
    """Take `--engine E`."""
    return click.option("--engine", metavar="E", help=ENGINE.help)(function)


def recipe_argument(function: F) -> F:
    """Take RECIPE: a file, or the name of a shipped recipe."""
    return click.argument("recipe", metavar="RECIPE")(function)


def set_option(function: F) -> F:
    """Take `--set FIELD=VALUE`, any number of times."""
    text = "Change one value of the recipe, for example steps.slim.ratio=0.3; may be given again."
    return click.option("--set", "changes", multiple=True, metavar="FIELD=VALUE", help=text)(function)


def runs_option(function: F) -> F:
    """Take `--runs DIR`."""
    kind = click.Path(file_okay=False, path_type=Path)
    text = "Folder of all runs; the recipe's own is DIR/NAME."
    return click.option("--runs", type=kind, default=Path("runs"), show_default=True, metavar="DIR", help=text)(
        function
    )


def json_option(function: F) -> F:
    """Take `--json`."""
    return click.option("--json", "as_json", is_flag=True, help="One JSON object on stdout and nothing else.")(function)


def say_json(result: Mapping[str, object]) -> None:
    """Print one JSON object on stdout."""
    import msgspec

    click.echo(msgspec.json.encode(result, enc_hook=str).decode())


@contextlib.contextmanager
def stdout_for_results() -> Iterator[None]:
    """Send to stderr whatever libraries print meanwhile, also those that are not Python; results are printed after."""
    sys.stdout.flush()
    libc = ctypes.CDLL(None)
    saved = os.dup(1)
    os.dup2(2, 1)
    try:
        with contextlib.redirect_stdout(sys.stderr):
            yield
    finally:
        libc.fflush(None)  # C's own buffer would otherwise reach stdout when the process ends
        os.dup2(saved, 1)
        os.close(saved)
