"""Keys and signatures, on the host that makes bundles; a device only verifies."""

from __future__ import annotations

from pathlib import Path

import click

from .parts import FILE, bundle_argument, example, json_option, say_json


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
