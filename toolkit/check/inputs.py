"""The images of a check: the bundle's golden ones, files that the user names, or some of a folder's.

Shapes: every input is float32 (1, C, H, W) in 0..1, as the device prepares it.
"""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ...runtime.bundle import Bundle
from ...runtime.errors import FoveolaError
from ...runtime.image import decode_image, prepare
from ...runtime.selftest import golden_images

MANIFEST, COLUMN = "manifest.csv", "file"
ENDINGS = frozenset({".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp"})


def read_inputs(bundle: Bundle, images: Sequence[Path], data: Path | None, limit: int) -> list[NDArray[np.float32]]:
    """Read and prepare the images.

    Args:
        bundle: says how an image is prepared, and carries the golden ones.
        images: files; all of them are taken.
        data: folder, with a `manifest.csv` that names the images in its column `file`, or with image files in it.
        limit: at most so many of the folder, spread evenly.

    Raises:
        FoveolaError: an image cannot be read, or there is none.
    """
    files = [*images, *(_spread(_listed(data), limit) if data else [])]
    sources: list[tuple[Path | bytes, str]] = [(path, str(path)) for path in files]
    if not files:
        sources = [(image, f"golden image {i}") for i, image in enumerate(golden_images(bundle))]
    spec = bundle.manifest.input
    return [np.ascontiguousarray(prepare(decode_image(image, place), spec)[0][None]) for image, place in sources]


def _listed(folder: Path) -> list[Path]:
    table = folder / MANIFEST
    try:
        if not table.is_file():
            files = sorted(path for path in folder.iterdir() if path.suffix.lower() in ENDINGS)
        else:
            with table.open(newline="", encoding="utf-8-sig") as stream:
                rows = csv.DictReader(stream)
                if COLUMN not in (rows.fieldnames or []):
                    raise FoveolaError(str(table), f"has no column {COLUMN!r}", "name the image files instead")
                files = [folder / row[COLUMN] for row in rows if row[COLUMN]]
    except OSError as error:
        raise FoveolaError(str(folder), f"cannot be read: {error.strerror}", "give a folder of images") from None
    except (UnicodeDecodeError, csv.Error) as error:
        raise FoveolaError(str(table), f"cannot be read ({error})", "name the image files instead") from None
    if not files:
        raise FoveolaError(str(folder), "holds no image", f"it needs a {MANIFEST} or {', '.join(sorted(ENDINGS))}")
    return files


def _spread(files: Sequence[Path], limit: int) -> list[Path]:
    count = min(limit, len(files))
    return [files[i * len(files) // count] for i in range(count)]
