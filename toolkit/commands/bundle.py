"""The verbs of a bundle, and keys: the same functions that `python -m foveola.runtime` calls.

The options stand here a second time, for click and its help; `tests/toolkit/test_cli.py` holds the two lists against
each other. What a verb does stands in `runtime/__main__.py` alone.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from .parts import example, json_option, say_json, stdout_for_results

F = TypeVar("F", bound=Callable[..., Any])

FILE = click.Path(path_type=Path)


def _verb(name: str, **arguments: object) -> int:
    """Run a verb of the runtime; its answer is an exit code, a JSON object and the same in lines."""
    from ...runtime.__main__ import VERBS

    with stdout_for_results():
        code, result, lines = VERBS[name](argparse.Namespace(**arguments))
    if arguments["json"]:
        say_json(result)
    elif lines:
        click.echo("\n".join(lines))
    return code


def bundle_argument(function: F) -> F:
    """Take BUNDLE: a .foveola file."""
    return click.argument("bundle", type=FILE, metavar="BUNDLE")(function)


def key_option(function: F) -> F:
    """Take `--key PUB`."""
    text = "Public key (PEM) of whoever vouches for the bundle; else FOVEOLA_KEY, else NAME.pub beside it."
    return click.option("--key", type=FILE, metavar="PUB", help=text)(function)


def engine_option(function: F) -> F:
    """Take `--engine E`."""
    text = "onnxruntime, openvino or tensorrt; by default the bundle's first that is installed."
    return click.option("--engine", metavar="E", help=text)(function)


@click.command(
    epilog=example(
        "foveola predict chest.foveola image.png --key maker.pub", "foveola predict chest.foveola *.png --json"
    )
)
@bundle_argument
@click.argument("images", type=FILE, nargs=-1, required=True, metavar="IMAGE...")
@key_option
@engine_option
@click.option("--masks", type=FILE, metavar="DIR", help="Write each mask there as a PNG of the image's size.")
@json_option
def predict(as_json: bool, **arguments: object) -> int:
    """Answer about images: findings, measurements, masks, boxes.

    An image that cannot be read is told and does not stop the others; the exit code is then 1.
    """
    return _verb("predict", json=as_json, **arguments)


@click.command(epilog=example("foveola inspect chest.foveola"))
@bundle_argument
@json_option
def inspect(as_json: bool, bundle: Path) -> int:
    """Show what a bundle is; nobody's word is taken.

    Needs no key and checks no signature; `foveola verify` does.
    """
    return _verb("inspect", json=as_json, bundle=bundle)


@click.command(epilog=example("foveola verify chest.foveola --key maker.pub"))
@bundle_argument
@key_option
@json_option
def verify(as_json: bool, **arguments: object) -> int:
    """Check who vouches for a bundle; exit code 5 when nobody does."""
    return _verb("verify", json=as_json, **arguments)


@click.command(epilog=example("foveola selftest chest.foveola --engine openvino"))
@bundle_argument
@key_option
@engine_option
@json_option
def selftest(as_json: bool, **arguments: object) -> int:
    """Check that a bundle still answers as it did when it was made."""
    return _verb("selftest", json=as_json, **arguments)


def _seconds(name: str, flag_value: float, text: str) -> Callable[[F], F]:
    """Take `NAME [S]`: 0 without it, `flag_value` without a number."""
    return click.option(name, type=float, is_flag=False, flag_value=flag_value, default=0.0, metavar="[S]", help=text)


@click.command(
    epilog=example(
        "foveola bench chest.foveola --runs 200",
        "foveola bench chest.foveola --idle --sustain 1800 --out n100.json",
        "foveola bench --merge n100.json orin.json --out table.md",
    )
)
@click.argument("paths", type=FILE, nargs=-1, required=True, metavar="BUNDLE")
@key_option
@engine_option
@click.option("--image", type=FILE, metavar="IMAGE", help="By default the bundle's first golden image.")
@click.option("--runs", type=click.IntRange(min=1), default=100, show_default=True, metavar="N", help="Timed calls.")
@click.option(
    "--cold",
    type=click.IntRange(min=0),
    default=5,
    show_default=True,
    metavar="N",
    help="Fresh processes for the cold start.",
)
@_seconds("--idle", 2.0, "Also 10 calls, each after S seconds of idling (2).")
@_seconds("--sustain", 60.0, "Also S seconds without a pause (60), with temperature and clock.")
@click.option(
    "--energy",
    type=float,
    default=5.0,
    show_default=True,
    metavar="S",
    help="Joules an image over S seconds, where the machine tells; 0: not.",
)
@click.option("--require-budget", is_flag=True, help="Exit code 1 unless every line of the budget holds.")
@click.option("--merge", is_flag=True, help="Take records instead of a bundle and put them into one table.")
@click.option("--any-bundle", is_flag=True, help="With --merge: records of bundles of different names too.")
@click.option("--out", type=FILE, metavar="FILE", help="Write the record (JSON) or the table (Markdown) there.")
@json_option
def bench(as_json: bool, **arguments: object) -> int:
    """Measure what a bundle costs on this machine: time, memory, energy.

    Cold start, first answer, warm latency and its parts, peak memory and size, held against the budget that the bundle
    brings along. With --merge, records of several machines become one table.
    """
    return _verb("bench", json=as_json, **arguments)


@click.command(epilog=example("foveola keygen keys/maker"))
@click.argument("name", type=FILE)
@json_option
def keygen(name: Path, as_json: bool) -> None:
    """Make a pair of keys.

    NAME.pem is private and stays here; NAME.pub goes onto the devices. ECDSA on P-256. Files that are there already are
    never overwritten.
    """
    from ...export.signing import make_keys

    private, public = make_keys(name)
    if as_json:
        say_json({"private": private, "public": public})
    else:
        click.echo(f"private  {private}\npublic   {public}")


@click.command(
    epilog=example(
        "foveola sign chest.foveola --key maker.pem",
        "foveola sign chest.foveola --key maker.pem --out new.foveola",
    )
)
@bundle_argument
@click.option("--key", type=FILE, required=True, metavar="PEM", help="Private key that `foveola keygen` made.")
@click.option("--out", type=FILE, metavar="FILE", help="Write there and leave BUNDLE as it is.")
@json_option
def sign(bundle: Path, key: Path, out: Path | None, as_json: bool) -> None:
    """Sign a bundle.

    Devices that hold the public key then open it. An older signature is replaced.
    """
    from ...export.signing import sign_bundle

    signed = sign_bundle(bundle, key, out)
    if as_json:
        say_json({"bundle": out or bundle, "name": signed.manifest.name, "digest": signed.digest})
    else:
        click.echo(f"signed  {out or bundle}, digest {signed.digest}")
