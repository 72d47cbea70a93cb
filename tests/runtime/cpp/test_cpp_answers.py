"""The C++ reader answers as Python does: raw outputs and JSON bit for bit, on every kind of picture and task."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from foveola.runtime.exponential import exp64, sigmoid64
from foveola.runtime.manifest import InputSpec
from foveola.runtime.predict import open_predictor
from foveola.runtime.verbs.predict import prediction_lines
from foveola.tests.runtime.cpp.conftest import SOURCES, Ask
from foveola.tests.runtime.cpp.many_tasks import make_bundle

Pictures = Callable[[], list[Path]]


def disc(width: int, height: int, seed: int = 0) -> NDArray[np.uint8]:
    """A fundus photograph in the rough: a textured bright disc off the middle of a nearly black picture."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:height, :width]
    inside = (x - 0.55 * width) ** 2 + (y - 0.5 * height) ** 2 < (0.38 * min(width, height)) ** 2
    colours = np.stack([170 + 60 * np.sin(x / 9), 90 + 40 * np.cos(y / 7), 40 + 10 * np.sin((x + y) / 5)], -1)
    noise = rng.normal(0, 12, (height, width, 3))
    return np.asarray(np.clip(np.where(inside[..., None], colours + noise, 4 + noise / 6), 0, 255), np.uint8)


def encoded(pixels: Any, kind: str, **options: Any) -> bytes:
    stream = io.BytesIO()
    (pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)).save(stream, kind, **options)
    return stream.getvalue()


def turned(pixels: NDArray[np.uint8], orientation: int) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return encoded(pixels, "JPEG", quality=90, exif=exif)


def pictures() -> dict[str, bytes]:
    """Pictures of many sizes, depths and kinds, each of which Python reads too."""
    colour, grey = disc(331, 257), disc(300, 411, 1)[..., 1]
    deep = (grey.astype(np.uint16) * 257 + np.arange(300, dtype=np.uint16)) // 3
    palette = Image.fromarray(colour).quantize(64)
    alpha = Image.fromarray(colour).convert("RGBA")
    profile = encoded(colour, "PNG", optimize=True)
    return {
        "colour.png": profile,
        "grey.png": encoded(grey, "PNG"),
        "deep.png": encoded(deep, "PNG"),
        "deep-large.png": encoded(np.repeat(np.repeat(deep, 4, 0), 5, 1), "PNG"),
        "large.png": encoded(np.repeat(np.repeat(colour, 9, 0), 8, 1), "PNG"),
        "palette.png": encoded(palette, "PNG"),
        "palette-4.png": encoded(Image.fromarray(colour).quantize(11), "PNG", bits=4),
        "bits.png": encoded(Image.fromarray(grey > 90), "PNG"),
        "opaque.png": encoded(alpha, "PNG"),
        "grey-alpha.png": encoded(Image.fromarray(grey).convert("LA"), "PNG"),
        "one.png": encoded(grey[200:201, 150:151], "PNG"),
        "row.png": encoded(grey[200:201], "PNG"),
        "column.png": encoded(grey[:, 150:151], "PNG"),
        "small.png": encoded(grey[180:197, 140:151], "PNG"),
        "flat.png": encoded(np.full((50, 60), 77, np.uint8), "PNG"),
        "colour.jpg": encoded(colour, "JPEG", quality=85),
        "colour-444.jpg": encoded(colour, "JPEG", quality=95, subsampling=0),
        "colour-422.jpg": encoded(colour, "JPEG", quality=70, subsampling=1),
        "progressive.jpg": encoded(colour, "JPEG", quality=80, progressive=True),
        "grey.jpg": encoded(grey, "JPEG", quality=80),
        "turned-3.jpg": turned(colour, 3),
        "turned-6.jpg": turned(colour, 6),
        "turned-8.jpg": turned(colour, 8),
    }


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pictures")
    for name, data in pictures().items():
        (folder / name).write_bytes(data)
    return folder


def without_avx512() -> dict[str, str]:
    """An environment in which numpy computes as on a processor without AVX-512."""
    told = np._core._multiarray_umath  # type: ignore[attr-defined]
    wide = [name for name in told.__cpu_dispatch__ if name.startswith(("AVX512", "X86_V4"))]
    here = [name for name in wide if told.__cpu_features__.get(name)]
    return {**os.environ, "NPY_DISABLE_CPU_FEATURES": " ".join(here)} if here else dict(os.environ)


def python_says(bundle: Path, images: list[Path], environment: dict[str, str] | None = None) -> str:
    words = ("predict", bundle, *images, "--engine", "openvino", "--json")
    command = [sys.executable, "-m", "foveola.runtime", *map(str, words)]
    ended = subprocess.run(command, capture_output=True, text=True, check=False, env=environment, timeout=120)
    assert ended.returncode == 0, ended.stderr
    return ended.stdout


def test_the_golden_vectors_are_answered_bit_for_bit(ask: Ask, tiny_path: Path) -> None:
    ended = ask("selftest", tiny_path, "--json")

    told = json.loads(ended.stdout)
    assert (ended.returncode, told["ok"], told["identical"], told["images"]) == (0, True, True, 1), ended.stderr
    assert told["decoder_changed"] == told["flips"] == 0
    assert all(drift["largest"] == 0 for drift in told["drifts"])


def test_the_tiny_bundle_is_answered_letter_for_letter(ask: Ask, tiny_path: Path, folder: Path) -> None:
    images = sorted(folder.iterdir())

    ended = ask("predict", tiny_path, *images, "--json")

    assert ended.returncode == 0, ended.stderr
    assert ended.stdout == python_says(tiny_path, images)


SPECS = {
    "colour, padded": InputSpec(height=48, width=64, channels=3),
    "fundus": InputSpec(height=64, width=48, channels=3, crop="fov"),
    "fundus in grey, stretched": InputSpec(height=36, width=64, channels=1, crop="fov", fit="stretch"),
    "radiograph": InputSpec(height=64, width=64, channels=1, window="percentile", low=0.5, high=99.5),
    "radiograph in three channels": InputSpec(height=40, width=88, channels=3, window="percentile", low=2, high=90),
    "blocks": InputSpec(height=32, width=40, channels=3, reduction="box"),
    "blocks in grey, stretched": InputSpec(
        height=24, width=64, channels=1, reduction="box", fit="stretch", window="percentile"
    ),
    "larger than most": InputSpec(height=512, width=384, channels=1, crop="fov", window="percentile"),
}


@pytest.mark.parametrize("kind", SPECS)
def test_every_kind_of_task_and_input_is_answered_letter_for_letter(
    kind: str, ask: Ask, folder: Path, tmp_path: Path
) -> None:
    bundle = make_bundle(tmp_path, SPECS[kind], (folder / "colour.jpg").read_bytes(), seed=len(kind))
    images = sorted(folder.iterdir())

    ended = ask("predict", bundle, *images, "--json")

    assert ended.returncode == 0, ended.stderr
    assert ended.stdout == python_says(bundle, images)
    told = json.loads(ask("selftest", bundle, "--json").stdout)
    assert (told["ok"], told["identical"]) == (True, True)
    first = json.loads(ended.stdout)["images"][0]["prediction"]
    assert all(first[part] for part in ("findings", "choices", "measurements", "boxes", "masks", "embeddings"))


def test_a_graph_that_takes_words_is_answered_letter_for_letter(ask: Ask, folder: Path, tmp_path: Path) -> None:
    spec = InputSpec(height=48, width=64, channels=1, window="percentile")
    bundle = make_bundle(tmp_path, spec, (folder / "deep.png").read_bytes(), "uint16")
    images = sorted(folder.iterdir())

    ended = ask("predict", bundle, *images, "--json")

    assert ended.returncode == 0, ended.stderr
    assert ended.stdout == python_says(bundle, images)


def test_a_box_is_the_same_to_the_last_bit_on_a_processor_without_avx512(
    ask: Ask, folder: Path, tmp_path: Path
) -> None:
    bundle = make_bundle(tmp_path, SPECS["colour, padded"], (folder / "colour.jpg").read_bytes())
    images = sorted(folder.iterdir())

    ended = ask("predict", bundle, *images, "--json")

    assert ended.stdout == python_says(bundle, images, without_avx512())


EXPONENTIALS = """
#include <cstdio>
#include "foveola.hpp"
int main() {
  for (double x[2]; std::fread(x, sizeof x[0], 1, stdin) == 1;) {
    x[1] = foveola::sigmoid(x[0]);
    x[0] = foveola::exp64(x[0]);
    std::fwrite(x, sizeof x[0], 2, stdout);
  }
}
"""


def test_exponentials_of_64_bits_are_the_same_to_the_last_bit(built: Path, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    spread = [rng.normal(0, scale, 60_000) for scale in (1e-6, 0.1, 2, 30, 400)]
    x = np.concatenate([*spread, [0.0, -0.0, 5e-324, -745.13, -745.14, 709.78, 709.79, -1e308, 1e308]])
    (tmp_path / "exponentials.cpp").write_text(EXPONENTIALS)
    sources, reader = str(SOURCES), str(built / "libfoveola_reader.a")
    words = ["c++", "-std=c++17", "-I", sources, "exponentials.cpp", reader, "-o", "exponentials"]
    subprocess.run(words, cwd=tmp_path, check=True)

    told = subprocess.run([str(tmp_path / "exponentials")], input=x.tobytes(), capture_output=True, check=True).stdout

    theirs = np.frombuffer(told, np.uint64).reshape(-1, 2)
    assert np.array_equal(theirs[:, 0], exp64(x).view(np.uint64))
    assert np.array_equal(theirs[:, 1], sigmoid64(x).view(np.uint64))


@pytest.mark.parametrize(
    ("name", "twin"), [("grey.pgm", "grey.png"), ("colour.ppm", "colour.png"), ("deep.pgm", "deep.png")]
)
def test_raw_pixels_are_answered_as_the_same_pixels_in_png(
    name: str, twin: str, ask: Ask, tiny_path: Path, folder: Path, tmp_path: Path
) -> None:
    with Image.open(folder / twin) as picture:
        pixels = np.asarray(picture)
    header = f"P{6 if pixels.ndim == 3 else 5}\n# a comment\n{pixels.shape[1]} {pixels.shape[0]}\n"
    white, order = (65535, ">u2") if pixels.dtype == np.uint16 else (255, "u1")
    (tmp_path / name).write_bytes(f"{header}{white}\n".encode() + pixels.astype(order).tobytes())

    ended = ask("predict", tiny_path, tmp_path / name, folder / twin, "--json")

    raw, png = json.loads(ended.stdout)["images"]
    assert raw["prediction"] == png["prediction"]


def test_words_for_people_are_those_of_python(ask: Ask, tiny_path: Path, folder: Path) -> None:
    words = ("predict", tiny_path, folder / "grey.png")
    command = [sys.executable, "-m", "foveola.runtime", *map(str, words), "--engine", "openvino"]
    python = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout

    assert ask(*words).stdout == python


def test_the_words_about_an_embedding_are_those_of_python(ask: Ask, folder: Path, tmp_path: Path) -> None:
    picture = folder / "colour.jpg"
    bundle = make_bundle(tmp_path, SPECS["colour, padded"], picture.read_bytes())

    told = [line for line in ask("predict", bundle, picture).stdout.splitlines() if "embedding" in line]

    prediction = open_predictor(bundle, "openvino").predict(picture)
    assert told == [line for line in prediction_lines(prediction) if "embedding" in line]
    assert [len(one.values) for one in prediction.embeddings] == [150, 3]
    assert told[1].endswith(" numbers: " + ", ".join(f"{value:.3f}" for value in prediction.embeddings[1].values))
