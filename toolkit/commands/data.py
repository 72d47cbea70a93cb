"""`foveola data`: what goes in."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import click

from ...runtime.errors import ExitCode, FoveolaError, UsageError
from ..data.phantoms import LEAST_SIZE, PHANTOMS, Anatomy
from .importing import import_data
from .parts import Group, example, json_option, say_json, set_option

if TYPE_CHECKING:
    from ..data.check import Survey


@click.group(cls=Group, epilog=example("foveola data phantom demo-data", "foveola data check /data/xray"))
def data() -> None:
    """Make phantom data, or import and check one's own."""


data.add_command(import_data)


@data.command(epilog=example("foveola data phantom demo-data --patients 100 --seed 7"))
@click.argument("folder", type=click.Path(file_okay=False, path_type=Path))
@click.option(
    "--anatomy",
    type=click.Choice(list(PHANTOMS)),
    default="chest",
    show_default=True,
    help="What to draw: " + ", ".join(f"{name} ({kind.about})" for name, kind in PHANTOMS.items()) + ".",
)
@click.option(
    "--patients",
    type=click.IntRange(min=1),
    default=300,
    show_default=True,
    help="One to three images each; twins have more.",
)
@click.option(
    "--size", type=click.IntRange(min=LEAST_SIZE), default=256, show_default=True, help="Side of the images in pixels."
)
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Equal seeds give equal files.")
@json_option
def phantom(folder: Path, anatomy: Anatomy, patients: int, size: int, seed: int, as_json: bool) -> None:
    """Draw images of patients that never were, with findings, masks, boxes and a manifest.

    FOLDER is made if need be and must be empty.
    """
    from ..data.phantom import empty_folder
    from ..progress import make_progress

    empty_folder(folder)
    progress = make_progress()
    progress.begin(str(folder), 1, 1, f"{anatomy} phantoms")

    def drawn(done: int, total: int) -> None:
        progress.advance(done, total, "patients")

    try:
        images = PHANTOMS[anatomy].make(folder, patients=patients, seed=seed, size=size, progress=drawn)
        progress.end("done")
    except OSError as error:
        progress.end("stopped")
        shutil.rmtree(folder, ignore_errors=True)  # it was empty, so all in it is ours
        fault, mend = f"cannot be written: {error.strerror or error}", "make room, or name another folder"
        raise FoveolaError(str(folder), fault, mend) from None
    finally:
        progress.close()
    if as_json:
        say_json({"folder": folder, "images": images, "patients": patients})
    else:
        click.echo(f"{images} images of {patients} patients in {folder}")


@data.command(epilog=example("foveola data check /data/xray", "foveola data check /data/xray --recipe chest-xray"))
@click.argument("folder", type=click.Path(path_type=Path), required=False, metavar="[FOLDER]")
@click.option("--recipe", metavar="RECIPE", help="Check against its tasks and columns; FOLDER is then its data.root.")
@set_option
@json_option
def check(folder: Path | None, recipe: str | None, changes: tuple[str, ...], as_json: bool) -> int:
    """Check data for leaks and faults, and tell all of them.

    Missing and broken files, patients and images that stand in two splits, masks of another size, boxes outside the
    image, cells that cannot be read, and how many images say what. FOLDER holds manifest.csv, or is the CSV itself;
    without --recipe only files, splits, masks and boxes are looked at. Exit code 1 when there is an error.
    """
    from ..progress import make_progress

    place, survey_it = _what_to_check(folder, recipe, changes)
    progress = make_progress()
    progress.begin(place, 1, 1, "checking")
    try:
        survey = survey_it(lambda n, of: progress.advance(n, of, "images"))
        progress.end("checked")
    finally:
        progress.close()
    if as_json:
        counts = {"images": survey.images, "patients": survey.patients, "targets": survey.targets}
        say_json({"errors": survey.errors, "warnings": survey.warnings, **counts, "digest": survey.digest})
    else:
        click.echo("\n".join(_survey_lines(survey)))
    return ExitCode.REFUSED if survey.errors else ExitCode.DONE


def _what_to_check(
    folder: Path | None, recipe: str | None, changes: tuple[str, ...]
) -> tuple[str, Callable[[Callable[[int, int], None]], Survey]]:
    """Where the data are, and the check of a folder alone or of what a recipe reads."""
    from ..data.check import survey_dataset

    if recipe is None:
        if folder is None or changes:
            raise click.UsageError("--set needs --recipe" if folder else "give FOLDER, --recipe RECIPE or both")
        root, manifest = (folder.parent, folder.name) if folder.suffix == ".csv" else (folder, "manifest.csv")
        return str(root), lambda progress: survey_dataset(root, manifest=manifest, progress=progress)
    from ..stages.data import FileStage
    from .run import load_recipe

    more = [f"data.root={folder.absolute()}"] if folder else []
    read = load_recipe(recipe, (*changes, *more))
    stage = read.data.stage
    if not isinstance(stage, FileStage):
        raise UsageError(f"{recipe}: data", f"{read.data.kind} has nothing to check", "it makes its own pictures")
    return stage.root, partial(stage.survey, read.tasks, read.seed)


def _survey_lines(survey: Survey) -> list[str]:
    """Write faults, counts by split, counts by target."""
    lines = [f"{fault.severity:<8} {fault}" for fault in survey.faults]
    lines += [
        f"{split:<12} {survey.images[split]:>6} images {survey.patients[split]:>6} patients" for split in survey.images
    ]
    for task, splits in survey.targets.items():
        for split, counts in splits.items():
            said = ", ".join(f"{what} {count}" for what, count in counts.items() if count)
            lines += [f"{task:<16} {split:<12} {said}"] if said else []
    return [*lines, f"{len(survey.errors)} error(s), {len(survey.warnings)} warning(s)"]
