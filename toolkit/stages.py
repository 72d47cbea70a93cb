"""All stages that a recipe may name, in one visible table; each is its knobs and one call of a plain function.

What a field means stands in its class; `foveola schema` prints all of it for editors. Nothing heavy is imported until a
stage runs, so that reading, planning and explaining a recipe is quick.
"""

from __future__ import annotations

from .stage import Stage
from .stages_artefact import Bench, Export, Parity, Quantize, Sign
from .stages_data import Manifest, Phantom
from .stages_network import Distill, Load, Train

STAGES: dict[str, type[Stage]] = {
    "phantom": Phantom,
    "manifest": Manifest,
    "train": Train,
    "load": Load,
    "distill": Distill,
    "quantize": Quantize,
    "export": Export,
    "parity": Parity,
    "sign": Sign,
    "bench": Bench,
}
