"""All commands in one visible table, in the order in which `foveola --help` shows them."""

from __future__ import annotations

import click

from ... import __version__
from ...runtime.verbs.table import VERBS
from .check import check
from .data import data
from .devices import devices
from .evidence import evidence
from .explain import explain
from .export import export
from .field import field
from .keys import keygen, sign
from .parity import answers, parity
from .parts import Group, example
from .protocol import protocol
from .run import plan, recipes, run, schema
from .search import search
from .verbs import command_of


@click.group(
    cls=Group,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog=example("foveola run demo", "foveola predict runs/demo/ship-*/demo.foveola image.png"),
)
@click.version_option(__version__, prog_name="foveola")
def foveola() -> None:
    """Compress networks for medical images and prove that nothing was lost.

    A recipe (YAML) goes in; a signed bundle for the device and the proof against its teacher come out. Start with the
    demo, whose images are made on the spot.
    """


for command in (
    run,
    plan,
    recipes,
    schema,
    search,
    data,
    export,
    explain,
    protocol,
    answers,
    parity,
    evidence,
    field,
    *map(command_of, VERBS),
    check,
    devices,
    keygen,
    sign,
):
    foveola.add_command(command)
