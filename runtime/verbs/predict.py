"""The verb `predict`: answers about image files and folders of them, in words, JSON or DICOM, and masks as files."""

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

from ..bundle import open_bundle
from ..dicom_results.identity import identity_of
from ..dicom_results.write import parse_kinds, require_parts, write_about
from ..errors import ExitCode, FoveolaError, MissingPartError, UsageError, printable
from ..predict import Predictor, engine_files
from ..prediction import Mask, Prediction, prediction_json
from ..source import Source, open_source
from .verb import DICOM_KINDS, Answer

SHOWN_VALUES = 4  # of an embedding, in words


def predict(arguments: argparse.Namespace) -> Answer:
    """Answer about or refuse each image on its own.

    One that is refused, or not fit, makes the exit code 1; one that asks for an extra that is not installed, 4.
    """
    images = image_files(arguments.images)
    names = Counter(image.name for image in images)
    if arguments.masks and max(names.values()) > 1:
        raise UsageError("--masks", f"several images are called {names.most_common(1)[0][0]}", "one folder for each")
    if arguments.dicom_kinds is not None and not arguments.dicom_out:
        raise UsageError("--dicom-kinds", "no results are written", "give --dicom-out as well, or leave it out")
    kinds = parse_kinds(DICOM_KINDS if arguments.dicom_kinds is None else arguments.dicom_kinds)
    if arguments.dicom_out:
        require_parts()  # rather now than after the first answer
    bundle = open_bundle(arguments.bundle, key=arguments.key, only=engine_files(arguments.engine))
    predictor = Predictor(bundle, arguments.engine)
    identity = identity_of(bundle, f"{predictor.engine} {predictor.arithmetic}")
    del bundle  # the engine has its graph
    answers: list[dict[str, Any]] = []
    lines: list[str] = []
    codes = {ExitCode.DONE}
    answered: dict[str, dict[str, Any]] = {}  # by SOP Instance UID
    for image in images:
        try:
            source = open_source(image, predictor.manifest.input, predictor.manifest.source)
            prediction = predictor.answer(source.picture)
            plain = prediction_json(prediction)
            if arguments.masks:
                _write_masks(prediction.masks, arguments.masks, image.name)
            results: list[Path] = []
            if arguments.dicom_out:
                _check_alone(source, plain, answered, str(image))
                results = write_about(source, prediction, identity, kinds, arguments.dicom_out, str(image))
        except FoveolaError as error:
            print(error, file=sys.stderr)
            answers.append({"file": _named(image), "error": str(error)})
            codes.add(ExitCode.PART_MISSING if isinstance(error, MissingPartError) else ExitCode.REFUSED)
        else:
            told = {"dicom": [_named(path) for path in results]} if arguments.dicom_out else {}
            answers.append({"file": _named(image), "prediction": plain, **told})
            if prediction.quality is not None and not prediction.quality.fit:
                codes.add(ExitCode.REFUSED)
            written = [f"  written          {printable(str(path))}" for path in results]
            lines += [printable(str(image)), *prediction_lines(prediction), *written]
    return max(codes), {"bundle": predictor.manifest.name, "engine": predictor.engine, "images": answers}, lines


def _named(path: Path) -> str:
    """Write a path as text; bytes of it that are none, which JSON cannot hold, with a backslash."""
    return str(path).encode(errors="backslashreplace").decode()


def _check_alone(source: Source, plain: dict[str, Any], answered: dict[str, dict[str, Any]], place: str) -> None:
    """Refuse a second picture of the same SOP Instance UID, whose results would replace the first one's.

    A copy of a picture has equal answers and is none; careless de-identification gives all pictures one UID.
    """
    if source.dataset is None:
        return
    from ..dicom.tags import Tags, quiet  # pydicom is there, since it read the picture

    with quiet():
        uid = Tags(source.dataset, place).text("SOPInstanceUID")
    if answered.setdefault(uid, plain) != plain and uid:
        fault = "has the SOP Instance UID of another image, which was answered about otherwise"
        raise FoveolaError(place, fault, "give each image a UID of its own, or a --dicom-out of its own")


def image_files(paths: Sequence[Path]) -> list[Path]:
    """List files as they were given, and in the place of each folder all the files in it and below, by name.

    A DICOMDIR, the index of a medium (PS3.10 8.6), and names that begin with a dot are no images.

    Raises:
        FoveolaError: a folder without a file, or one that cannot be listed.
    """
    found: list[Path] = []
    for path in paths:
        if not path.is_dir():
            found.append(path)
            continue
        try:
            inside = sorted(one for one in path.rglob("*") if one.is_file())
        except OSError as error:
            raise FoveolaError(str(path), f"cannot be listed ({error.strerror})", "check its permissions") from None
        inside = [one for one in inside if one.name != "DICOMDIR" and not one.name.startswith(".")]
        if not inside:
            raise FoveolaError(str(path), "a folder without a file", "give the folder that holds the images")
        found += inside
    return found


def prediction_lines(prediction: Prediction) -> list[str]:
    """Write a prediction in words, one line a reason against it, or a part of it; of boxes the positive ones."""
    lines = [f"  not fit          {reason}" for reason in (prediction.quality.reasons if prediction.quality else ())]
    lines += [
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
    return lines + [f"  {e.task:<16} {'embedding':<28} {shown_values(e.values)}" for e in prediction.embeddings]


def shown_values(values: Sequence[float]) -> str:
    """Show how many numbers an embedding has, and the first few of them."""
    first = ", ".join(f"{value:.3f}" for value in values[:SHOWN_VALUES])
    return f"{len(values)} numbers: {first}{', ...' if len(values) > SHOWN_VALUES else ''}"


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
