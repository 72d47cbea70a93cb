"""`foveola export`: a student that is there, written for another device than its recipe's, without training anew."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from ...runtime.errors import FoveolaError, UsageError
from .parts import example, json_option, runs_option, say_json, set_option, stdout_for_results

if TYPE_CHECKING:
    from ..progress import Progress
    from ..stages.artefact import Export
    from ..work import Work


@click.command(
    epilog=example(
        "foveola export demo:warm --device intel-n100",
        "foveola export chest-xray:int8 --device jetson-orin-nano-8gb-super --out nano --json",
    )
)
@click.argument("step", metavar="STEP")
@click.option(
    "--of", "origin", metavar="RECIPE", help="Where STEP is a folder: the recipe that has its data and tasks."
)
@click.option("--device", metavar="ID", help="Device that it is for (`foveola devices`); by default the recipe's.")
@click.option("--strict", is_flag=True, help="Refuse a device whose figures are not all confirmed.")
@click.option(
    "--engine",
    "engines",
    type=click.Choice(["onnxruntime", "openvino", "tensorrt"]),
    multiple=True,
    help="Only this engine; may be given again.",
)
@click.option(
    "--precision",
    "precisions",
    type=click.Choice(["int8", "float16", "float32"]),
    multiple=True,
    help="Only this precision; may be given again.",
)
@click.option(
    "--input-type",
    type=click.Choice(["float32", "uint16"]),
    default="float32",
    show_default=True,
    help="Type of the graphs' input; uint16 takes a detector's words.",
)
@click.option(
    "--nncf",
    type=click.Choice(["off", "on", "accuracy"]),
    default="on",
    show_default=True,
    help="NNCF's own int8 as a form for OpenVINO; `accuracy` puts layers back to float until all margins are kept.",
)
@click.option(
    "--pick",
    type=click.Choice(["auto", "measure", "roofline", "first"]),
    default="auto",
    show_default=True,
    help="Choose by times measured here, by the device's roofline, or the first that keeps its margins.",
)
@click.option(
    "-o", "--out", type=click.Path(file_okay=False, path_type=Path), metavar="DIR", help="Default: RECIPE-ID."
)
@set_option
@runs_option
@json_option
def export(
    step: str,
    origin: str | None,
    device: str | None,
    strict: bool,
    engines: tuple[str, ...],
    precisions: tuple[str, ...],
    input_type: str,
    nncf: str,
    pick: str,
    out: Path | None,
    changes: tuple[str, ...],
    runs: Path,
    as_json: bool,
) -> None:
    """Write a trained student for a device.

    STEP is a finished step, quantised or in float: RECIPE:STEP, or its folder with --of RECIPE. Every form that the
    device can run is written, held against torch on the validation images, and timed here or by the device's roofline;
    of each engine the best ships, and the table says why the others do not. Which images are answered about (`source`,
    `fitness`) and the version are those of the recipe's own export step. Nothing is trained, proved or signed:
    `foveola parity` and `foveola sign` do that.
    """
    import msgspec

    from ...devices.profile import load_profile
    from ..progress import make_progress
    from ..stages.artefact import Export
    from ..variants.adhoc import adhoc_work, rules_of
    from ..variants.table import VARIANTS, read_variants, variant_lines, variant_table

    wanted = {
        "engines": engines,
        "precisions": precisions,
        "nncf": nncf,
        "pick": pick,
        "input_type": input_type,
        "of": "of",
    }
    try:
        stage = msgspec.convert(wanted, Export)
    except msgspec.ValidationError as error:
        raise UsageError("foveola export", str(error), "see `foveola export --help`") from None
    voice = make_progress()
    with stdout_for_results():
        work = adhoc_work(step, origin, runs, changes, device, out, voice)
        load_profile(work.recipe.device, strict=strict)
        stage = msgspec.structs.replace(stage, **rules_of(work.recipe, step))
        stage.check_ahead(work)
        bundle = _run(stage, work, voice)
    variants = read_variants(work.folder / VARIANTS)
    if as_json:
        say_json({"bundle": bundle, "device": work.recipe.device, "variants": msgspec.to_builtins(variants)})
        return
    from rich.console import Console

    Console(highlight=False).print(variant_table(variants))
    click.echo("\n".join(variant_lines(variants)))
    click.echo(f"{bundle}  not proved, not signed")


def _run(stage: Export, work: Work, voice: Progress) -> Path:
    from ..ship import CORE

    for path in (work.folder, work.cache):
        try:
            path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            fault = f"the folder cannot be made: {error.strerror}"
            raise FoveolaError(str(path), fault, "choose another --out") from None
    voice.begin("export", 1, 1, work.recipe.device)
    try:
        stage.run(work)
        voice.end("done")
    finally:
        voice.close()
    bundle = work.folder / f"{work.recipe.name}.foveola"
    (work.folder / CORE).replace(bundle)
    return bundle
