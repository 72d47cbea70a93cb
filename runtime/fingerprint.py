"""All that a bundle's answers depend on here: when one part changes, the last self-test says nothing any more.

What counts: the bundle, this runtime, the engine's version, the processor and its sets of instructions (an int8 sum is
rounded otherwise without VNNI), the GPU or NPU and its driver where the engine uses one, and whatever turns a file into
pixels: numpy, Pillow, its libraries, the DICOM decoders that are installed, and the pixels that a small JPEG within
this file is decoded to - which catches a libjpeg that was exchanged under its old name.

What does not count: memory, clocks, cores, the system's name and the machine's own name or number.

    changes(earlier, fingerprint(bundle, options))  # ["Pillow 11.3.0 -> 12.0.0"]
"""

from __future__ import annotations

import base64
import platform
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from io import BytesIO
from pathlib import Path
from typing import Any, Literal

import msgspec
import numpy as np
from PIL import Image, features
from PIL import __version__ as pillow_version

from .. import __version__
from .benchmark.machine import SYSTEM_ROOT, read_machine
from .bundle import Bundle
from .engine import engine_of
from .errors import FoveolaError
from .golden import pixel_digest
from .manifest import EngineName, EngineOptions, OpenVinoOptions, Sha256, TensorRtOptions
from .offline import forbid_telemetry

FORMAT = 1
# Packages that may turn a DICOM file into pixels; absent ones are left out.
DECODERS = (
    "pydicom",
    "pylibjpeg",
    "pylibjpeg-libjpeg",
    "pylibjpeg-openjpeg",
    "pylibjpeg-rle",
    "pyjpegls",
    "python-gdcm",
)
# 24 x 24 RGB noise, chroma at half the side, quality 60: every step of a decoder that may round otherwise has its part.
_JPEG = base64.b64decode(
    "/9j/4AAQSkZJRgABAQAAAQABAAD/2wBDAA0JCgsKCA0LCgsODg0PEyAVExISEyccHhcgLikxMC4pLSwzOko+MzZGNywtQFdBRkxOUlNSMj5aYV"
    "pQYEpRUk//2wBDAQ4ODhMREyYVFSZPNS01T09PT09PT09PT09PT09PT09PT09PT09PT09PT09PT09PT09PT09PT09PT09PT09PT0//wAARCAAY"
    "ABgDASIAAhEBAxEB/8QAGAABAQEBAQAAAAAAAAAAAAAAAAUEBgP/xAApEAACAAQEBQQDAAAAAAAAAAABAgAEESEDEjFRInGBkbEjQWHwMnLR/8"
    "QAGQEAAgMBAAAAAAAAAAAAAAAAAwYAAgQH/8QAIREAAgICAgEFAAAAAAAAAAAAAQIAAwQRITESE2GhwfD/2gAMAwEAAhEDEQA/AOISXWqhgCjV"
    "BZDX37+x7RtwJZiwLgqCbIL13uLd6xQWWfDciqo37Xa/yKfaRSlpZDTEyrdCWDAnoNtuu8Dq3aJbEzNHiT5eTJZM+ZhlFGVtBWnnzCOhwsEKg9"
    "PMdMwLXtW22gvTWsIli4qHxduR7bjLTlu6bT98zwlZNl41IGMACHFD8/f5FfDwEwvyLXbhY3A5DkPHKEIzVMVxWcd8fQnN8OxmYczVLSauvAq1"
    "WhZ6EVtqeoJ7QhCAufRACiM1Frle5//Z"
)


class Fingerprint(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What a self-test holds for; nothing in it names one particular machine.

    Args:
        format: of this record.
        bundle: digest of the bundle.
        foveola: version of this runtime.
        engine: name of the engine.
        engine_version: of its library.
        processor: its model, and the board's where a device tree tells it.
        architecture: `x86_64`, `aarch64`.
        instructions: sets of instructions that decide how integers and half floats are computed.
        accelerator: GPU or NPU that the engine runs on; empty for the processor.
        driver: of the accelerator; empty for the processor.
        libraries: version by name of what turns a file into pixels.
        jpeg: the pixels of a small JPEG, as this machine decodes it.
    """

    format: Literal[1] = 1
    bundle: Sha256
    foveola: str
    engine: EngineName
    engine_version: str
    processor: str
    architecture: str
    instructions: tuple[str, ...]
    accelerator: str
    driver: str
    libraries: dict[str, str]
    jpeg: Sha256


_NAMES = {
    "bundle": "bundle",
    "foveola": "foveola",
    "engine": "engine",
    "engine_version": "engine's version",
    "processor": "processor",
    "architecture": "architecture",
    "accelerator": "GPU or NPU",
    "driver": "driver",
    "jpeg": "pixels of the same JPEG",
}


def fingerprint(bundle: Bundle, options: EngineOptions, root: Path = SYSTEM_ROOT) -> Fingerprint:
    """Take the fingerprint of a bundle on one of its engines, here and now.

    Args:
        bundle: the bundle.
        options: of the engine, from the manifest.
        root: root of the file system; another one in tests.

    Raises:
        FoveolaError: the GPU that the engine needs does not tell what it is.
        MissingPartError: CUDA's Python bindings are not installed.
    """
    forbid_telemetry()
    engine, machine = engine_of(options), read_machine(root)
    library = import_module(engine)
    accelerator, driver = _accelerator(library, options)
    return Fingerprint(
        bundle=bundle.digest,
        foveola=__version__,
        engine=engine,
        engine_version=str(getattr(library, "__version__", "")),
        processor=", ".join(filter(None, (machine.processor, machine.board))),  # ARM's cpuinfo names no model
        architecture=machine.architecture,
        instructions=machine.instructions,
        accelerator=accelerator,
        driver=driver,
        libraries=libraries(),
        jpeg=jpeg_digest(),
    )


def changes(before: Fingerprint, now: Fingerprint) -> list[str]:
    """Say in words which parts are other ones than before; empty where none is."""
    words = []
    for field, name in _NAMES.items():
        old, new = str(getattr(before, field)), str(getattr(now, field))
        if old != new:
            words.append(f"{name}: {_short(old)} -> {_short(new)}")
    moved = [f"-{one}" for one in before.instructions if one not in now.instructions]
    moved += [f"+{one}" for one in now.instructions if one not in before.instructions]
    words += [f"instructions: {' '.join(moved)}"] if moved else []
    for name in sorted(before.libraries.keys() | now.libraries.keys()):
        old, new = before.libraries.get(name, "none"), now.libraries.get(name, "none")
        words += [f"{name}: {old} -> {new}"] if old != new else []
    return words


def libraries() -> dict[str, str]:
    """Give the version, by name, of each library that turns a file into pixels or pixels into the network's input."""
    found = {"numpy": np.__version__, "Pillow": pillow_version}
    for codec in ("jpg", "zlib", "libtiff"):
        found[codec] = str(features.version(codec) or "none")
    found["libjpeg-turbo"] = str(features.version_feature("libjpeg_turbo") or "none")
    for package in DECODERS:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def jpeg_digest(data: bytes = _JPEG) -> str:
    """Take the digest of the pixels that a JPEG is decoded to here, by Pillow as for any image."""
    with Image.open(BytesIO(data)) as picture:
        return pixel_digest(np.asarray(picture.convert("RGB"))).tobytes().hex()


def _accelerator(library: Any, options: EngineOptions) -> tuple[str, str]:
    """Name the GPU or NPU of an engine, and its driver; both empty for the processor."""
    if isinstance(options, TensorRtOptions):
        from .tensorrt.cuda import Gpu
        from .tensorrt.session import this_target

        target = this_target(library, Gpu())
        driver = " ".join(filter(None, (target.driver, f"CUDA {target.cuda}", target.jetpack)))
        return f"{target.gpu} (compute capability {target.compute_capability})", driver
    if isinstance(options, OpenVinoOptions) and options.plugin != "CPU":
        return openvino_device(library.Core(), options.plugin)
    return "", ""


def openvino_device(core: Any, plugin: str) -> tuple[str, str]:
    """Ask OpenVINO for a device's name and whatever of its driver it tells; the kernel brings the other half of it."""
    try:
        name = str(core.get_property(plugin, "FULL_DEVICE_NAME"))
        told = [one for one in core.get_property(plugin, "SUPPORTED_PROPERTIES") if "DRIVER_VERSION" in one]
        versions = [f"{one} {core.get_property(plugin, one)}" for one in sorted(told)]
    except RuntimeError as error:
        reason = " ".join(str(error).split())[:300]
        raise FoveolaError(plugin, f"OpenVINO does not tell what it is ({reason})", "install its driver") from None
    return name, " ".join([*versions, f"{platform.system()} {platform.release()}"])


def _short(value: str) -> str:
    return value[:12] if len(value) == 64 else value or "none"
