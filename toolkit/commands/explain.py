"""`foveola explain`: what a student is made of, layer by layer."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Literal

import click

from .parts import example, json_option, runs_option, say_json, stdout_for_results

if TYPE_CHECKING:
    from ..explain.record import Explained

WIDTH = 140
FOLDER = click.Path(file_okay=False, path_type=Path)


@click.command(
    epilog=example(
        "foveola explain demo",
        "foveola explain demo:int8 --html int8.html",
        "foveola explain runs/demo/student-6d0b1b5b4b42 --device intel-n100 --sort noise --all",
    )
)
@click.argument("student", metavar="STUDENT")
@click.option("--of", "origin", metavar="RECIPE", help="The recipe that has the student's images.")
@click.option("--data", type=FOLDER, metavar="FOLDER", help="Or the folder whose manifest.csv names them.")
@click.option(
    "--device", metavar="ID", help="Time in this device's engine, and predict its time there (`foveola devices`)."
)
@click.option(
    "--sort",
    "order",
    type=click.Choice(["time", "noise", "work", "size", "graph"]),
    default="time",
    show_default=True,
    help="Which layers come first.",
)
@click.option("--all", "every", is_flag=True, help="Show every layer, not only the first twelve.")
@click.option("--quick", is_flag=True, help="Leave out what each task loses part by part; fewer images and runs.")
@click.option(
    "--limit",
    type=click.FloatRange(min=0),
    default=90.0,
    show_default=True,
    metavar="S",
    help="Seconds after which no further part is tried.",
)
@click.option(
    "--html", type=click.Path(dir_okay=False, path_type=Path), metavar="FILE", help="Write a page with pictures too."
)
@runs_option
@json_option
def explain(
    student: str,
    origin: str | None,
    data: Path | None,
    device: str | None,
    order: Literal["time", "noise", "work", "size", "graph"],
    every: bool,
    quick: bool,
    limit: float,
    html: Path | None,
    runs: Path,
    as_json: bool,
) -> None:
    """Show what a student is made of and what compression did to it.

    STUDENT is a step's folder, RECIPE:STEP, or a run's name, of which the step nearest to the device is taken. Of every
    layer and every part (stage of the backbone, decoder, head): parameters, multiply-adds, time measured here in
    integers and in float, noise of quantisation (SQNR), sums that overflow without VNNI, what was pruned, and what was
    kept in float and why; and how much of its margin each task keeps where one part alone is quantised.
    """
    with stdout_for_results():
        found = _explained(student, runs, origin, data, device, quick=quick, limit_s=limit)
        if html is not None:
            _write(html, found)
    if as_json:
        import msgspec

        say_json(msgspec.to_builtins(found))
        return
    from rich.console import Console

    from ..explain.words import SHOWN, head_lines, layer_table, part_table, tail_lines

    console = Console(highlight=False)
    if not console.is_terminal:
        console = Console(highlight=False, width=WIDTH)  # nobody's window limits a file or a pipe
    click.echo("\n".join(head_lines(found)) + "\n")
    console.print(part_table(found))
    click.echo()
    console.print(layer_table(found, order, None if every else SHOWN))
    if not every and len(found.layers) > SHOWN:
        click.echo(f"and {len(found.layers) - SHOWN} more layers (--all)")
    click.echo("\n".join(["", *tail_lines(found)]))
    if html is not None:
        click.echo(html)


def _explained(
    student: str,
    runs: Path,
    origin: str | None,
    data: Path | None,
    device: str | None,
    *,
    quick: bool,
    limit_s: float,
) -> Explained:
    from ..explain.find import find_student
    from ..explain.gather import explain_student
    from ..progress import make_progress

    step = find_student(student, runs, origin=origin, data=data)
    voice = make_progress()
    voice.begin("explain", 1, 1, step.folder.name)
    try:
        found = explain_student(
            step.folder,
            step.name,
            step.dataset,
            device=device,
            cache=step.cache,
            deep=not quick,
            limit_s=limit_s,
            progress=voice.advance,
        )
        voice.end("done")
    finally:
        voice.close()
    return found


def _write(path: Path, found: Explained) -> None:
    from ...runtime.errors import FoveolaError
    from ..explain.page import render_explained

    try:
        path.write_text(render_explained(found), encoding="utf-8")
    except OSError as error:
        raise FoveolaError(str(path), f"cannot be written: {error.strerror}", "choose another --html") from None
