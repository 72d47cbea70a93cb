"""Does the runtime grow? Thousands of predictions about varied pictures, with the resident memory along the way.

    python bench/soak.py runs/chest-xray/ship-*/chest-xray.foveola --count 20000

Pictures differ in size, depth and content, and every hundredth is broken. The growth is the slope of a straight line
through the resident memory after the first tenth, in KiB a thousand predictions, and the difference of the last
tenth's median to the second tenth's.
"""

from __future__ import annotations

import argparse
import gc
import json
import time
from io import BytesIO
from pathlib import Path

import numpy as np
from PIL import Image

from foveola.runtime.bundle import read_unverified
from foveola.runtime.errors import FoveolaError
from foveola.runtime.measure import rss_mib
from foveola.runtime.predict import Predictor

SIZES = ((512, 512), (640, 480), (333, 777), (1024, 800), (200, 200))  # width and height


def main() -> None:
    """Predict, and tell what became of the memory."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--engine")
    parser.add_argument("--count", type=int, default=20_000)
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    predictor = Predictor(read_unverified(given.bundle), given.engine)
    pictures = varied(predictor.manifest.input.channels)
    refused, seen = 0, []
    begun = time.perf_counter()
    for turn in range(given.count):
        try:
            predictor.predict(pictures[turn % len(pictures)] if turn % 100 else b"\x89PNG\r\n\x1a\nbroken")
        except FoveolaError:
            refused += 1
        if turn % max(1, given.count // 400) == 0:
            seen.append((turn, rss_mib() or float("nan")))
    passed = time.perf_counter() - begun
    gc.collect()
    found = {"predictions": given.count, "refused": refused, "images_per_second": given.count / passed, **growth(seen)}
    print(json.dumps(found, indent=1))
    if given.json:
        given.json.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


def varied(channels: int) -> list[bytes]:
    """Files of several sizes, depths and formats."""
    rng = np.random.default_rng(0)
    found = []
    for index in range(40):
        width, height = SIZES[index % len(SIZES)]
        deep = channels == 1 and index % 3 == 0
        shape = (height, width) if channels == 1 else (height, width, 3)
        noise = rng.integers(0, 65536 if deep else 256, shape)
        image = Image.fromarray(noise.astype(np.uint16 if deep else np.uint8))
        data = BytesIO()
        image.save(data, "PNG" if deep or index % 2 else "JPEG")
        found.append(data.getvalue())
    return found


def growth(seen: list[tuple[int, float]]) -> dict[str, float]:
    """Slope and difference after the first tenth."""
    turns, mib = np.array(seen).T
    tenth = max(1, len(turns) // 10)
    slope = float(np.polyfit(turns[tenth:], mib[tenth:], 1)[0])
    early, late = float(np.median(mib[tenth : 2 * tenth])), float(np.median(mib[-tenth:]))
    return {"first_mib": float(mib[0]), "early_mib": early, "late_mib": late, "kib_per_thousand": slope * 1024 * 1000}


if __name__ == "__main__":
    main()
