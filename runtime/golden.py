"""The golden vectors of a bundle: a few image files and what each engine answered when the bundle was made.

`golden.npz` holds, by array name:

| name | what |
|---|---|
| `image_<i>` | the bytes of image file i, uint8 |
| `decoded_<i>` | sha256 of the decoded pixels (shape, type and values), uint8 (32,) |
| `<engine>/<i>/<tensor>` | the raw output, float32 |

The archive is stored, not compressed, and carries no time: equal arrays give equal bytes.
"""

from __future__ import annotations

import hashlib
import zipfile
from collections.abc import Callable, Mapping, Sequence
from io import BytesIO
from typing import Any, Protocol

import msgspec
import numpy as np
from numpy.typing import NDArray

from .bundle import Bundle
from .errors import FoveolaError
from .image import decode_image, prepare
from .manifest import EngineName, Manifest

GOLDEN = "golden.npz"
_EPOCH = (1980, 1, 1, 0, 0, 0)  # the ZIP format's zero


class Asked(Protocol):
    """Whose answers are expected: a `Predictor`, or what stands in for an engine that is built on the device."""

    @property
    def engine(self) -> EngineName:
        """Under which engine's name the answers are kept."""
        ...

    @property
    def manifest(self) -> Manifest:
        """Of the bundle."""
        ...

    @property
    def run(self) -> Callable[[NDArray[np.float32]], dict[str, NDArray[np.float32]]]:
        """A prepared input (1, C, H, W) to raw outputs by tensor name."""
        ...


class Case(msgspec.Struct, frozen=True, kw_only=True):
    """One golden image, and what one engine is expected to answer."""

    place: str
    image: bytes
    decoded: NDArray[np.uint8]  # as `pixel_digest` gives it
    expected: dict[str, NDArray[np.float32]]


def make_golden(predictors: Sequence[Asked], images: Sequence[bytes]) -> bytes:
    """Make `golden.npz` of a few image files and the answers of each engine to them."""
    arrays: dict[str, NDArray[Any]] = {}
    for i, image in enumerate(images):
        picture = decode_image(image, f"golden image {i}")
        arrays[f"image_{i}"] = np.frombuffer(image, np.uint8)
        arrays[f"decoded_{i}"] = pixel_digest(np.asarray(picture))
        for predictor in predictors:
            x_CHW, _ = prepare(picture, predictor.manifest.input)
            for name, raw in predictor.run(x_CHW[None]).items():
                arrays[f"{predictor.engine}/{i}/{name}"] = raw
    return _encode(arrays)


def golden_cases(bundle: Bundle, engine: EngineName) -> list[Case]:
    """Read the golden images with the answers of one engine; there is one at least.

    Raises:
        FoveolaError: there is nothing golden for the engine in the bundle.
    """
    golden = _golden(bundle)
    count = sum(name.startswith("image_") for name in golden)
    tensors = [name for output in bundle.manifest.outputs for name in output.tensors]
    needed = {f"{engine}/{i}/{name}" for i in range(count) for name in tensors}
    needed |= {f"{part}_{i}" for i in range(count) for part in ("image", "decoded")}
    absent = sorted(needed - set(golden))
    if absent or not count:
        fault = f"holds no {absent[0]}" if absent else "holds no image"
        raise FoveolaError(GOLDEN, fault, f"make the bundle anew with {engine}")
    return [
        Case(
            place=f"golden image {i}",
            image=golden[f"image_{i}"].tobytes(),
            decoded=golden[f"decoded_{i}"],
            expected={name: golden[f"{engine}/{i}/{name}"] for name in tensors},
        )
        for i in range(count)
    ]


def first_golden_image(bundle: Bundle) -> bytes:
    """Give the bytes of a bundle's first golden image file."""
    return golden_images(bundle)[0]


def golden_images(bundle: Bundle) -> list[bytes]:
    """Give the bytes of a bundle's golden image files, in order; there is one at least."""
    golden = _golden(bundle)
    count = sum(name.startswith("image_") for name in golden)
    if "image_0" not in golden:
        raise FoveolaError(GOLDEN, "holds no image", "make the bundle anew")
    return [golden[f"image_{i}"].tobytes() for i in range(count) if f"image_{i}" in golden]


def pixel_digest(pixels: NDArray[Any]) -> NDArray[np.uint8]:
    """Take the sha256 of a picture's shape, type and values, uint8 (32,)."""
    header = f"{pixels.shape} {pixels.dtype.str} ".encode()
    return np.frombuffer(hashlib.sha256(header + pixels.tobytes()).digest(), np.uint8)


def _golden(bundle: Bundle) -> dict[str, NDArray[Any]]:
    if GOLDEN not in bundle.members:
        raise FoveolaError(bundle.manifest.name, f"holds no {GOLDEN}", "make the bundle anew")
    return _decode(bundle.members[GOLDEN])


def _encode(arrays: Mapping[str, NDArray[Any]]) -> bytes:
    stream = BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_STORED) as archive:
        for name, array in sorted(arrays.items()):
            data = BytesIO()
            np.lib.format.write_array(data, np.ascontiguousarray(array), version=(1, 0), allow_pickle=False)
            archive.writestr(zipfile.ZipInfo(f"{name}.npy", _EPOCH), data.getvalue())
    return stream.getvalue()


def _decode(data: bytes) -> dict[str, NDArray[Any]]:
    """Read what `_encode` wrote; anything compressed is refused, so that nothing grows beyond the member's limit."""
    try:
        with zipfile.ZipFile(BytesIO(data)) as archive:
            if any(info.compress_type != zipfile.ZIP_STORED for info in archive.infolist()):
                raise FoveolaError(GOLDEN, "holds compressed arrays", "make the bundle anew")
            return {
                info.filename.removesuffix(".npy"): np.lib.format.read_array(
                    BytesIO(archive.read(info)), allow_pickle=False
                )
                for info in archive.infolist()
            }
    except (zipfile.BadZipFile, ValueError, EOFError, NotImplementedError) as error:
        raise FoveolaError(GOLDEN, f"cannot be read ({error})", "make the bundle anew") from None
