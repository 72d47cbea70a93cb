"""`foveola data import`: a published data set becomes a manifest."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from .parts import example, json_option, say_json

if TYPE_CHECKING:
    from ..data.layouts.importing import Imported

HELP = """Read a published data set as it was unpacked, and write its manifest.

Images stay where they are; a patient is in one split only, by the official parts where they part patients, by
hash otherwise. What was left out is counted and named.

\b
LAYOUT is one of
  nih, chexpert, kermany, indiana, deepcovid   findings of the chest
  montgomery, shenzhen, chest-masks, tbx11k    tuberculosis, lung masks, boxes
  mura, rsna-boneage, fracatlas                arms, hands, limbs
  aptos, eyepacs, messidor2, deepdrid          diabetic retinopathy
  idrid, odir, refuge, drive                   the eye: diseases, lesions, disc, fovea, vessels
  medmnist                                     small pictures in .npz archives
  folders                                      any {train,val,test}/CLASS/*

ROOT is the folder into which its archives were unpacked. docs/import.md says what becomes which column.
"""


@click.command(
    "import",
    help=HELP,
    epilog=example(
        "foveola data import nih /data/nih",
        "foveola data import chexpert /data/CheXpert-v1.0-small --uncertain zero",
        "foveola data import medmnist /data/medmnist --file retinamnist.npz",
        "foveola data check /data/nih",
    ),
)
@click.argument("layout", metavar="LAYOUT")
@click.argument("root", metavar="ROOT", type=click.Path(path_type=Path))
@click.option(
    "--out", metavar="FILE.csv", type=click.Path(path_type=Path), help="In ROOT; ROOT/manifest.csv if absent."
)
@click.option("--paper-literal", is_flag=True, help="Split as MTPret did, by image, and say where that leaks.")
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Of the splits.")
@click.option(
    "--uncertain", type=click.Choice(["gap", "zero", "one"]), help="chexpert: what -1 becomes.  [default: gap]"
)
@click.option("--boxes", type=click.Choice(["json", "xml"]), help="tbx11k: where boxes are read.  [default: json]")
@click.option("--file", metavar="NAME.npz", help="medmnist: one of several archives.  [default: all]")
@click.option("--force", is_flag=True, help="Replace a manifest that is there.")
@click.option("--allow-missing", is_flag=True, help="Leave missing files out instead of refusing.")
@json_option
def import_data(
    layout: str,
    root: Path,
    out: Path | None,
    paper_literal: bool,
    seed: int,
    uncertain: str | None,
    boxes: str | None,
    file: str | None,
    force: bool,
    allow_missing: bool,
    as_json: bool,
) -> None:
    """Read a published data set, and write its manifest."""
    from ..data.layouts.importing import import_layout
    from ..data.layouts.read import source_of
    from ..progress import make_progress

    title = source_of(layout).title
    given = {"uncertain": uncertain, "boxes": boxes, "file": file}
    options = {name: value for name, value in given.items() if value is not None}
    progress = make_progress()
    progress.begin(str(root), 1, 1, title)
    try:
        done = import_layout(
            layout,
            root,
            out=out,
            paper_literal=paper_literal,
            seed=seed,
            force=force,
            allow_missing=allow_missing,
            options=options,
            progress=progress.advance,
        )
        progress.end("imported")
    finally:
        progress.close()
    if as_json:
        say_json({name: getattr(done, name) for name in done.__struct_fields__})
    else:
        click.echo("\n".join(_lines(done)))


def _lines(done: Imported) -> list[str]:
    """Write images and patients by split, targets, notes, and what comes next."""
    lines = [f"{split:<12} {done.images[split]:>6} images {done.patients[split]:>6} patients" for split in done.images]
    width = max(map(len, done.targets), default=0)
    for name, counts in done.targets.items():
        said = ", ".join(f"{what} {count}" for what, count in counts.items() if count)
        lines.append(f"{name:<{width}}  {said}")
    lines += [f"note: {note}" for note in done.notes]
    folder = done.manifest.parent if done.manifest.name == "manifest.csv" else done.manifest
    return [*lines, f"{done.manifest} is written; next: foveola data check {folder}"]
