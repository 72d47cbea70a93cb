"""From a file's bytes to findings, part by part: what decoding, preprocessing, engine and postprocessing take.

    python bench/front.py runs/chest-xray/ship-*/chest-xray.foveola
    python bench/front.py runs/fundus/ship-*/fundus.foveola --engine openvino --json front.json

The pictures are made here: a radiograph of 3000 x 3000 as 16-bit DICOM (12 bits stored; plain, RLE and JPEG-LS) and a
photograph of 12 megapixels as JPEG. Each part is timed in turn with all others, and medians are told; `whole` is
`Predictor.predict` on the bytes. Beside the preprocessing stand the same reduction by Pillow, OpenCV and torchvision on
the decoded picture, as one would call them, where they are installed; beside the decoding, Pillow's or pydicom's own.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import statistics
import time
from collections.abc import Callable, Mapping
from io import BytesIO
from pathlib import Path

import msgspec
import numpy as np
from numpy.typing import NDArray
from PIL import Image
from pydicom import dcmread
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import (
    DigitalXRayImageStorageForPresentation,
    ExplicitVRLittleEndian,
    JPEGLSLossless,
    RLELossless,
    generate_uid,
)

from foveola.runtime.answer import decode
from foveola.runtime.bundle import read_unverified
from foveola.runtime.image import prepare
from foveola.runtime.manifest import InputSpec
from foveola.runtime.predict import Predictor
from foveola.runtime.source import open_source

SIDE = 3000  # of the radiograph, pixels
PHOTOGRAPH = (3000, 4000)  # rows and columns: 12 megapixels
Call = Callable[[], object]
PARTS = ("decode", "preprocess", "engine", "postprocess")


def main() -> None:
    """Time every picture that fits the bundle's input, print a table each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--engine", help="default: the bundle's first")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    predictor = Predictor(read_unverified(given.bundle), given.engine)
    found = {}
    for name, data in pictures(predictor.manifest.input).items():
        found[name] = interleaved(calls(predictor, data), given.rounds)
        say(name, len(data), found[name])
    if given.json:
        given.json.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


def pictures(spec: InputSpec) -> dict[str, bytes]:
    """File bytes by name, of the colour that the network takes; a JPEG in grey serves a grey one."""
    photograph = scene(*PHOTOGRAPH)
    if spec.channels == 3:
        tinted = np.stack([photograph, photograph * 0.6, photograph * 0.3], -1)
        return {"12-megapixel JPEG, colour": jpeg(Image.fromarray((255 * tinted).astype(np.uint8)))}
    radiograph = scene(SIDE, SIDE)
    plain = dicom((4095 * radiograph).astype(np.uint16))
    found = {"3000 x 3000 DICOM, uncompressed": written(plain)}
    for name, syntax in (("RLE", RLELossless), ("JPEG-LS", JPEGLSLossless)):
        packed = dcmread(BytesIO(written(plain)))
        packed.compress(syntax)
        found[f"3000 x 3000 DICOM, {name}"] = written(packed)
    return found | {"12-megapixel JPEG, grey": jpeg(Image.fromarray((255 * photograph).astype(np.uint8)))}


def scene(height: int, width: int) -> NDArray[np.float32]:
    """Soft shapes and grain in 0..1, which compress as pictures do."""
    rng = np.random.default_rng(0)
    coarse = Image.fromarray(rng.random((24, 32), dtype=np.float32))
    soft = np.asarray(coarse.resize((width, height), Image.Resampling.BICUBIC))
    grain = 0.01 * rng.standard_normal((height, width), dtype=np.float32)
    return np.clip(0.15 + 0.7 * soft + grain, 0, 1).astype(np.float32)


def jpeg(image: Image.Image) -> bytes:
    """Quality 92, as cameras store."""
    data = BytesIO()
    image.save(data, "JPEG", quality=92)
    return data.getvalue()


def dicom(pixels: NDArray[np.uint16]) -> Dataset:
    """A radiograph for presentation with a window: 12 bits stored in 16."""
    found = Dataset()
    found.file_meta = FileMetaDataset()
    found.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    found.file_meta.MediaStorageSOPClassUID = DigitalXRayImageStorageForPresentation
    found.file_meta.MediaStorageSOPInstanceUID = generate_uid(entropy_srcs=["front"])
    found.SOPClassUID = DigitalXRayImageStorageForPresentation
    found.SOPInstanceUID = found.file_meta.MediaStorageSOPInstanceUID
    found.Modality, found.PresentationIntentType, found.BodyPartExamined = "DX", "FOR PRESENTATION", "CHEST"
    found.SamplesPerPixel, found.PhotometricInterpretation = 1, "MONOCHROME2"
    found.Rows, found.Columns = pixels.shape
    found.BitsAllocated, found.BitsStored, found.HighBit, found.PixelRepresentation = 16, 12, 11, 0
    found.WindowCenter, found.WindowWidth = 2048, 3600
    found.RescaleIntercept, found.RescaleSlope, found.RescaleType = 0, 1, "US"
    found.PresentationLUTShape = "IDENTITY"
    found.PixelData = pixels.tobytes()
    return found


def written(dataset: Dataset) -> bytes:
    """As a file."""
    data = BytesIO()
    dataset.save_as(data, enforce_file_format=True)
    return data.getvalue()


def calls(predictor: Predictor, data: bytes) -> dict[str, Call]:
    """Each part on what the part before it gives, and what it is held against."""
    manifest = predictor.manifest
    spec = manifest.input
    picture = open_source(data, spec, manifest.source).picture
    boxes = msgspec.structs.replace(spec, reduction="box")
    tensor, geometry = prepare(picture, spec)
    raw = predictor.run(tensor[None])
    found: dict[str, Call] = {
        "decode": lambda: open_source(data, spec, manifest.source),
        "preprocess": lambda: prepare(picture, spec),
        "preprocess with `reduction: box`": lambda: prepare(picture, boxes),
        "engine": lambda: predictor.run(tensor[None]),
        "postprocess": lambda: decode(manifest.outputs, raw, geometry, spec),
        "whole": lambda: predictor.predict(data),
        "decode, bare": bare_decode(data),
    }
    return found | {f"resize, {name}": call for name, call in resizes(picture, spec).items()}


def bare_decode(data: bytes) -> Call:
    """The decoder alone, without any rule, table or window."""
    if data[128:132] == b"DICM":
        return lambda: dcmread(BytesIO(data)).pixel_array
    return lambda: Image.open(BytesIO(data)).load()


def resizes(picture: Image.Image, spec: InputSpec) -> dict[str, Call]:
    """The same reduction by each library, low-pass filtered and not."""
    size = (spec.width, spec.height)
    pixels = np.asarray(picture)
    bilinear = Image.Resampling.BILINEAR
    found: dict[str, Call] = {"Pillow": lambda: picture.resize(size, bilinear)}
    if picture.mode != "I;16":
        found["Pillow, reducing_gap 2"] = lambda: picture.resize(size, bilinear, reducing_gap=2.0)
    if importlib.util.find_spec("cv2"):
        import cv2  # pyright: ignore[reportMissingImports]

        cv2.setNumThreads(1)
        found["OpenCV area"] = lambda: cv2.resize(pixels, size, interpolation=cv2.INTER_AREA)
        found["OpenCV linear, aliased"] = lambda: cv2.resize(pixels, size, interpolation=cv2.INTER_LINEAR)
    if importlib.util.find_spec("torchvision"):
        found["torchvision, antialiased"] = torchvision_resize(pixels, size)
    return found


def torchvision_resize(pixels: NDArray[np.uint8] | NDArray[np.uint16], size: tuple[int, int]) -> Call:
    """On a tensor, one thread; 16 bits as float32, which is what it takes."""
    import torch
    from torchvision.transforms.v2 import functional

    torch.set_num_threads(1)
    deep = pixels.dtype == np.uint16
    chw = pixels[None] if pixels.ndim == 2 else np.ascontiguousarray(pixels.transpose(2, 0, 1))
    tensor = torch.from_numpy(chw.astype(np.float32) if deep else chw.copy())
    return lambda: functional.resize(tensor, list(size[::-1]), antialias=True)


def interleaved(found: Mapping[str, Call], rounds: int) -> dict[str, float]:
    """Medians in milliseconds over rounds in which every call runs once; the first round warms up."""
    times: dict[str, list[float]] = {name: [] for name in found}
    for turn in range(rounds + 1):
        for name, call in found.items():
            start = time.perf_counter()
            call()
            if turn:
                times[name].append(1e3 * (time.perf_counter() - start))
    return {name: statistics.median(many) for name, many in times.items()}


def say(name: str, size: int, times: Mapping[str, float]) -> None:
    """A table of one picture."""
    total = sum(times[part] for part in PARTS)
    print(f"\n{name} ({size / 1e6:.1f} MB)\n\n| part | ms | of the sum |\n|---|---:|---:|")
    for part, ms in times.items():
        share = f"{ms / total:.0%}" if part in PARTS else ""
        print(f"| {part} | {ms:.2f} | {share} |")


if __name__ == "__main__":
    main()
