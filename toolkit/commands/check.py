"""`foveola check`: why two engines disagree."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from .parts import FILE, bundle_argument, example, json_option, say_json, stdout_for_results

FOLDER = click.Path(file_okay=False, path_type=Path)


@click.command(
    epilog=example(
        "foveola check runs/demo/ship-*/demo.foveola",
        "foveola check demo.foveola --data images --student runs/demo/student-6d0b1b5b4b42",
        "foveola check demo.foveola --engines onnxruntime,openvino --tolerance 0.01 --layers",
    )
)
@bundle_argument
@click.argument("images", type=FILE, nargs=-1, metavar="[IMAGE]...")
@click.option("--data", type=FOLDER, metavar="FOLDER", help="Images of a folder, or those that its manifest.csv names.")
@click.option(
    "--limit", type=click.IntRange(min=1), default=32, show_default=True, metavar="N", help="At most N of the folder."
)
@click.option("--student", type=FOLDER, metavar="FOLDER", help="The student's folder; else it is looked for.")
@click.option("--engines", metavar="E,E", help="Only these engines; by default all that are installed.")
@click.option("--built", type=FOLDER, metavar="DIR", help="Folder of the engines that TensorRT has built.")
@click.option("--tolerance", type=click.FloatRange(min=0), metavar="X", help="Relative distance that counts as none.")
@click.option("--bisect/--no-bisect", default=None, help="Look for the layer always, or never.")
@click.option("--layers/--no-layers", default=None, help="Measure every layer always, or never; else on a drift.")
@click.option("--flips", type=click.IntRange(min=0), metavar="N", help="Exit code 1 where more decisions flip.")
@json_option
def check(bundle: Path, engines: str | None, flips: int | None, built: Path | None, as_json: bool, **rest: Any) -> int:
    """Hold a bundle's engines against torch and each other.

    The same images go through the student in torch, ONNX Runtime, OpenVINO and, where an engine is built, TensorRT: how
    far the outputs differ, which decisions flip, which step of making brought it, and the first layer at which two of
    them part. By default the bundle's own golden images.
    """
    from ..check.run import check_bundle
    from ..check.words import check_lines

    names = [name.strip() for name in (engines or "").split(",") if name.strip()]
    with stdout_for_results():
        found = check_bundle(
            bundle, engines=names, engines_folder=built, progress=lambda text: click.echo(text, err=True), **rest
        )
    if as_json:
        import msgspec

        say_json({**msgspec.to_builtins(found), "flips": found.flips})
    else:
        click.echo("\n".join(check_lines(found)))
    return int(flips is not None and found.flips > flips)
