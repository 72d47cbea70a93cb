"""`foveola protocol`: what will be proved, fixed before any answer of the student is seen."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from .parts import Group, example, json_option, say_json, set_option

if TYPE_CHECKING:
    from rich.console import RenderableType

FILE = click.Path(dir_okay=False, path_type=Path)


@click.group(
    cls=Group,
    epilog=example("foveola protocol new chest-xray --data /data/cxr", "foveola protocol lock protocol.yaml"),
)
def protocol() -> None:
    """Fix what will be proved before any answer of the student is seen.

    `new` writes the endpoints and margins of a bundle or recipe into a file, `power` says how many cases they need, and
    `lock` keeps the file as it is: a proof refuses a protocol that is not locked, or that changed since.
    """


@protocol.command(
    epilog=example(
        "foveola protocol new chest-xray --data /data/cxr/manifest.csv",
        "foveola protocol new chest.foveola --data /data/cxr -o chest-protocol.yaml",
    )
)
@click.argument("origin", metavar="(BUNDLE | RECIPE)")
@click.option(
    "--data", type=click.Path(path_type=Path), metavar="MANIFEST", help="Cases of the proof: CSV or its folder."
)
@click.option(
    "-o", "--out", type=FILE, default=Path("protocol.yaml"), show_default=True, help="Where to write; must not exist."
)
@set_option
@json_option
def new(origin: str, data: Path | None, out: Path, changes: tuple[str, ...], as_json: bool) -> None:
    """Write a protocol with the usual endpoints and margins, every field explained.

    The tasks and their margins are those of the bundle or recipe. The data are named by their digest, and the columns
    that describe the cases become subgroups: those of the recipe, or without one those with few values. Without --data
    a recipe's own data are taken, if they are there.
    """
    from ..protocol.origin import write_new

    written = write_new(origin, data, out, changes)
    for note in written.notes:
        click.echo(note, err=True)
    if as_json:
        say_json({"file": out, "digest": written.protocol.digest, "notes": written.notes})
    else:
        click.echo(f"{out}  change what does not suit, then: foveola protocol lock {out}")


@protocol.command(
    epilog=example("foveola protocol lock protocol.yaml", "foveola protocol lock protocol.yaml chest-xray")
)
@click.argument("file", type=FILE, metavar="PROTOCOL")
@click.argument("origin", metavar="[BUNDLE | RECIPE]", required=False)
@click.option(
    "--data", type=click.Path(path_type=Path), metavar="MANIFEST", help="Hold digest and subgroups against it."
)
@json_option
def lock(file: Path, origin: str | None, data: Path | None, as_json: bool) -> None:
    """Check a protocol and lock it: PROTOCOL.lock.json, with its digest, stands beside it.

    Note the digest elsewhere too: a proof with --expect DIGEST takes no other. With BUNDLE or RECIPE the tasks must be
    those. A protocol that is locked already and has not changed stays as it is; one that changed is refused.
    """
    from ..protocol.file import lock_path, lock_protocol
    from ..protocol.origin import check_ahead

    notes = check_ahead(file, origin, data)
    locked = lock_protocol(file)
    for note in notes:
        click.echo(note, err=True)
    if as_json:
        say_json({"file": lock_path(file), "digest": locked.digest, "locked": locked.locked})
    else:
        click.echo(f"{lock_path(file)}  locked on {locked.locked}\ndigest {locked.digest}")


@protocol.command(epilog=example("foveola protocol show protocol.yaml"))
@click.argument("file", type=FILE, metavar="PROTOCOL")
@json_option
def show(file: Path, as_json: bool) -> None:
    """Show a protocol, or its lock alone, as a table, and whether it is locked.

    The first line says whether it is locked, and whether it changed since.
    """
    from ..protocol.file import look_at

    seen = look_at(file)
    if as_json:
        digest = seen.protocol.digest
        say_json({"state": seen.state, "digest": digest, "changes": seen.changes, "protocol": seen.protocol})
        return
    from ..protocol.table import protocol_table

    _print(protocol_table(seen.protocol, seen.state))
    for change in seen.changes:
        click.echo(f"changed  {change}")


@protocol.command(epilog=example("foveola protocol power protocol.yaml --data /data/cxr --answers teacher.npz"))
@click.argument("file", type=FILE, metavar="PROTOCOL")
@click.option("--data", type=click.Path(path_type=Path), required=True, metavar="MANIFEST", help="CSV or its folder.")
@click.option("--answers", type=FILE, required=True, help="The teacher's, as `foveola answers` wrote them.")
@click.option(
    "--of",
    "origin",
    metavar="(BUNDLE | RECIPE)",
    help="Names the manifest's columns where they are not those of tasks and classes.",
)
@click.option(
    "--correlation",
    type=click.FloatRange(min=-1, max=1, min_open=True, max_open=True),
    default=0.95,
    show_default=True,
    help="Assumed, of teacher's and student's scores.",
)
@click.option(
    "--discordance",
    type=click.FloatRange(min=0, max=1, min_open=True, max_open=True),
    help="Share of decisions that will differ, instead of what the correlation means for them.",
)
@click.option("--split", metavar="SPLIT", help="Cases to plan from; the protocol's own unless given.")
@json_option
def power(
    file: Path,
    data: Path,
    answers: Path,
    origin: str | None,
    correlation: float,
    discordance: float | None,
    split: str | None,
    as_json: bool,
) -> None:
    """Say how many cases each endpoint needs, from the teacher's answers alone.

    For every endpoint: cases, positives and patients that its margin needs for the planned power when the student is as
    good as the teacher, how many there are, the smallest margin that these would prove, and the power. It rests on an
    assumed correlation of the two models' scores among cases with the same truth; a second table shows the needed
    cases for others.
    """
    from ..protocol.power import plan_files

    planned = plan_files(
        file, data, answers, origin=origin, correlation=correlation, discordance=discordance, split=split
    )
    if as_json:
        tables = [{"correlation": r, "endpoints": rows} for r, rows in planned.others.items()]
        say_json(
            {
                "endpoints": planned.asked,
                "joint_power": planned.joint,
                "left_out": planned.left_out,
                "by_correlation": tables,
            }
        )
        return
    from ..protocol.table import correlation_table, power_table

    if planned.left_out:
        click.echo(f"{planned.left_out} cases have no stored answer and are left out", err=True)
    _print(power_table(planned.asked))
    click.echo()
    _print(correlation_table(planned.others))


def _print(table: RenderableType) -> None:
    from rich.console import Console

    console = Console(highlight=False)
    (console if console.is_terminal else Console(highlight=False, width=100)).print(table)
