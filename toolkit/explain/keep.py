"""What an export keeps of its student's layers, for the report: the cheap parts alone, in a few seconds."""

from __future__ import annotations

from pathlib import Path

from ..compress.quantise import INT8_GRAPH
from ..data.dataset import Dataset
from .gather import explain_student
from .record import LAYERS_FILE, Explained, write_explained


def keep_layers(of: Path, name: str, dataset: Dataset, *, device: str, folder: Path, cache: Path) -> Explained | None:
    """Write `layers.json` where the student is quantised: its layers with their times here and their noise.

    Args:
        of: folder of the student.
        name: of the recipe.
        dataset: its validation images show the noise.
        device: profile whose engine is timed, where it runs here.
        folder: where the file goes.
        cache: folder for what can be made again.
    """
    if not (of / INT8_GRAPH).exists():
        return None
    found = explain_student(
        of,
        name,
        dataset,
        device=device,
        cache=cache,
        deep=False,
        predict=False,
        progress=lambda done, total, text: None,
    )
    write_explained(found, folder / LAYERS_FILE)
    return found
