"""The verb `predict`: answers about image files, in words or JSON, and masks as files."""

from __future__ import annotations

import argparse
import re
import sys
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from ..answer import Mask, Prediction, prediction_json
from ..bundle import open_bundle
from ..errors import ExitCode, FoveolaError, UsageError
from ..predict import Predictor
from .verb import Answer


def predict(arguments: argparse.Namespace) -> Answer:
    """All images are answered or refused on their own; one that is refused makes the exit code 1."""
    images: list[Path] = arguments.images
    names = Counter(image.name for image in images)
    if arguments.masks and max(names.values()) > 1:
        raise UsageError("--masks", f"several images are called {names.most_common(1)[0][0]}", "one folder for each")
    predictor = Predictor(open_bundle(arguments.bundle, key=arguments.key), arguments.engine)
    answers: list[dict[str, Any]] = []
    lines: list[str] = []
    code = ExitCode.DONE
    for image in images:
        try:
            prediction = predictor.predict(image)
            if arguments.masks:
                _write_masks(prediction.masks, arguments.masks, image.name)
        except FoveolaError as error:
            print(error, file=sys.stderr)
            answers.append({"file": str(image), "error": str(error)})
            code = ExitCode.REFUSED
        else:
            answers.append({"file": str(image), "prediction": prediction_json(prediction)})
            lines += [str(image), *prediction_lines(prediction)]
    return code, {"bundle": predictor.manifest.name, "engine": predictor.engine, "images": answers}, lines


def prediction_lines(prediction: Prediction) -> list[str]:
    """Write a prediction in words, one line a finding, choice, measurement, mask and positive box."""
    lines = [
        f"  {f.task:<16} {f.label:<28} {f.probability:.3f} {'>=' if f.positive else '< '} {f.threshold:.3f}"
        f"  {'POSITIVE' if f.positive else 'negative'}"
        for f in prediction.findings
    ]
    lines += [f"  {c.task:<16} {c.label:<28} {c.probabilities[c.index]:.3f}" for c in prediction.choices]
    lines += [f"  {m.task:<16} {m.name:<28} {m.value:.2f} {m.unit}".rstrip() for m in prediction.measurements]
    lines += [f"  {m.task:<16} {m.label:<28} {m.area_px} px  {100 * m.fraction:.1f} %" for m in prediction.masks]
    for b in prediction.boxes:
        if b.positive:
            lines.append(f"  {b.task:<16} {b.label:<28} {b.score:.3f}  {b.x1:.0f},{b.y1:.0f} - {b.x2:.0f},{b.y2:.0f}")
    return lines


def _write_masks(masks: Sequence[Mask], folder: Path, name: str) -> None:
    partial: Path | None = None
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for mask in masks:
            data = BytesIO()
            Image.fromarray(mask.pixels.astype(np.uint8) * 255).save(data, "PNG")
            label = re.sub(r"[^\w.-]+", "_", f"{mask.task}.{mask.label}")
            path = folder / f"{name}.{label}.png"
            partial = path.with_name(path.name + ".partial")
            partial.write_bytes(data.getvalue())
            partial.replace(path)
    except OSError as error:
        if partial is not None:
            with suppress(OSError):  # the first error is the one to tell
                partial.unlink(missing_ok=True)
        fault = f"masks cannot be written: {error.strerror}"
        raise FoveolaError(str(folder), fault, "make room, or name another folder") from None
