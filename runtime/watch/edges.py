"""Between which edges each number of the watch is counted.

The bundle's own edges where it brings a histogram, so that the counts can be held against it; else fixed ones.
"""

from __future__ import annotations

from typing import get_args

from ..fitness.manifest import MeasureName
from ..manifest import Manifest, TaskOutput

MOST_WATCHED = 256  # histograms of a day, so that its file is bounded

Edges = tuple[float, ...]

_DIGITS = (1, 2, 5)
_TENTHS = tuple(k / 10 for k in range(1, 10))
_TWENTIETHS = tuple(k / 20 for k in range(1, 20))
_DECADES = tuple(digit * 10.0**power for power in range(-3, 4) for digit in _DIGITS)

SHARE: Edges = _TENTHS
YES_NO: Edges = (0.5,)
ANY: Edges = tuple(sorted({0.0, *_TWENTIETHS, *_DECADES, *(-one for one in _DECADES if 0.01 <= one <= 1000)}))
BOXES: Edges = (0.5, 1.5, 2.5, 3.5, 5.5, 10.5, 20.5)
LATENCY_S: Edges = tuple(round(10 ** (k / 5), 6) for k in range(-15, 11))  # 1 ms to 100 s
TEMPERATURE_C: Edges = tuple(float(k) for k in range(0, 111, 5))
INPUTS = ("brightness", "contrast", "sharpness")


def edges_of(manifest: Manifest) -> dict[str, Edges]:
    """Give the inner edges of all that is counted for a bundle, by name; the first 256 of them."""
    inputs = manifest.reference.inputs if manifest.reference else {}
    answers = manifest.reference.answers if manifest.reference else {}
    found: dict[str, Edges] = {"latency_s": LATENCY_S, "temperature_c": TEMPERATURE_C}
    found |= {f"input/{name}": inputs[name].edges if name in inputs else ANY for name in INPUTS}
    if manifest.fitness is not None:
        for name in (*get_args(MeasureName), "novelty"):
            known = inputs.get(f"quality/{name}")
            found[f"quality/{name}"] = known.edges if known else ANY
    for output in manifest.outputs:
        for name, edges in _answers(output).items():
            known = answers.get(name.removeprefix("score/"))
            found[name] = known.edges if known and name.startswith("score/") else edges
    return dict(list(found.items())[:MOST_WATCHED])


def _answers(output: TaskOutput) -> dict[str, Edges]:
    task = output.task
    labels = [f"{task.name}/{label}" for label in (task.classes[1:] if task.kind == "binary" else task.classes)]
    match task.kind:
        case "binary" | "multilabel":
            scores = {f"score/{label}": _TWENTIETHS for label in labels}
            return scores | {f"positive/{label}": YES_NO for label in labels}
        case "multiclass" | "ordinal":
            return {f"score/{label}": _TWENTIETHS for label in labels}
        case "regression":
            return {f"score/{label}": ANY for label in labels}
        case "segmentation":
            return {f"mask/{label}": SHARE for label in labels}
        case "detection":
            return {f"boxes/{task.name}": BOXES}
        case "embedding":  # a direction is no number that drifts by itself
            return {}
