"""`foveola build-engine`: on the target, from the build kit in a bundle; the runtime does the work."""

from __future__ import annotations

import click

from .bundle import FILE, _verb, bundle_argument, key_option
from .parts import example, json_option


@click.command(
    "build-engine",
    epilog=example("foveola build-engine chest.foveola --key maker.pub", "foveola build-engine chest.foveola --force"),
)
@bundle_argument
@key_option
@click.option(
    "--engines",
    type=FILE,
    metavar="DIR",
    help="Folder of engines; by default FOVEOLA_ENGINES, else NAME.engines beside the bundle.",
)
@click.option("--force", is_flag=True, help="Build although a good engine is there.")
@json_option
def build_engine(as_json: bool, **arguments: object) -> int:
    """Build the TensorRT engine of a bundle on this machine.

    Takes minutes, once: at installation, never while somebody waits for an answer. The engine is hashed, put to the
    bundle's self-test and kept with a record of GPU, driver and TensorRT; one that is there and passes is kept.
    """
    return _verb("build-engine", json=as_json, **arguments)
