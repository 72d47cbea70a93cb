"""`foveola data` and `foveola devices`: what goes in, and what it is made for."""

from __future__ import annotations

from pathlib import Path

import click

from .cli_parts import Group, example, json_option, recipe_argument, say_json, set_option, stdout_for_results


@click.group(cls=Group, epilog=example("foveola data phantom demo-data", "foveola data check mine.yaml"))
def data() -> None:
    """Make phantom data, or check one's own."""


@data.command(epilog=example("foveola data phantom demo-data --patients 100 --seed 7"))
@click.argument("folder", type=click.Path(file_okay=False, path_type=Path))
@click.option(
    "--anatomy", type=click.Choice(["chest", "fundus"]), default="chest", show_default=True, help="What to draw."
)
@click.option(
    "--patients", type=click.IntRange(min=1), default=300, show_default=True, help="One to three images each."
)
@click.option(
    "--size", type=click.IntRange(min=64), default=256, show_default=True, help="Side of the images in pixels."
)
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Equal seeds give equal files.")
@json_option
def phantom(folder: Path, anatomy: str, patients: int, size: int, seed: int, as_json: bool) -> None:
    """Draw images of patients that never were, with findings, masks, boxes and a manifest.

    FOLDER is made if need be and must be empty.
    """
    from .progress import make_progress

    progress = make_progress()
    progress.begin(str(folder), 1, 1, f"{anatomy} phantoms")

    def drawn(done: int, total: int) -> None:
        progress.advance(done, total, "patients")

    try:
        if anatomy == "chest":
            from .data.phantom_chest import make_chest

            images = make_chest(folder, patients=patients, seed=seed, size=size, progress=drawn)
        else:
            from .data.phantom_fundus import make_fundus

            images = make_fundus(folder, patients=patients, seed=seed, size=size, progress=drawn)
        progress.end("done")
    finally:
        progress.close()
    if as_json:
        say_json({"folder": folder, "images": images, "patients": patients})
    else:
        click.echo(f"{images} images of {patients} patients in {folder}")


@data.command(epilog=example("foveola data check mine.yaml --set data.root=/data/xray"))
@recipe_argument
@set_option
@json_option
def check(recipe: str, changes: tuple[str, ...], as_json: bool) -> int:
    """Check the data of a recipe for leaks and faults, and tell all of them.

    Missing and broken files, patients and images that stand in two splits, masks of another size, boxes outside the
    image, cells that cannot be read, and how many images each class has. Exit code 1 when there is an error among them.
    """
    from .cli_run import load_recipe
    from .data.check import check_dataset
    from .stages import Manifest

    raise NotImplementedError(check_dataset, Manifest, load_recipe, stdout_for_results)


@click.group(cls=Group, invoke_without_command=True, epilog=example("foveola devices", "foveola devices show rpi5-8gb"))
@json_option
@click.pass_context
def devices(context: click.Context, as_json: bool) -> None:
    """List the devices that recipes can name."""
    if context.invoked_subcommand is not None:
        return
    from ..devices.profile import load_profile, profile_ids

    titles = {name: load_profile(name).title for name in profile_ids()}
    if as_json:
        say_json({"devices": titles})
        return
    width = max(map(len, titles), default=0)
    for name, title in titles.items():
        click.echo(f"{name:<{width}}  {title}")


@devices.command(epilog=example("foveola devices show intel-n100"))
@click.argument("device", metavar="DEVICE")
@json_option
def show(device: str, as_json: bool) -> None:
    """Show what a device can do, and where each figure comes from."""
    import yaml

    from ..devices.profile import load_profile
    from .stage import as_json as plain

    profile = plain(load_profile(device))
    if as_json:
        say_json(profile)
    else:
        click.echo(yaml.safe_dump(profile, sort_keys=False, allow_unicode=True), nl=False)
