"""The self-test at power-on: a bundle on this machine must answer as it did when it was made.

`golden.npz` holds, by array name:

| name | what |
|---|---|
| `image_<i>` | the bytes of image file i, uint8 |
| `decoded_<i>` | sha256 of the decoded pixels (shape, type and values), uint8 (32,) |
| `<engine>/<i>/<tensor>` | the raw output, float32 |

The archive is stored, not compressed, and carries no time: equal arrays give equal bytes.

Another CPU may round an int8 sum otherwise, and a saturating one (AVX2 without VNNI) gives a large error, so raw
outputs are held against a tolerance: the root mean square of the difference over that of the expected values (at least
1: they are logits or standardised values). A finding or choice that flips fails the test where its probability moved
clearly; on the threshold it may fall to either side.
"""

from __future__ import annotations

import hashlib
import zipfile
from collections.abc import Callable, Mapping, Sequence
from io import BytesIO
from pathlib import Path
from typing import Any, Protocol

import msgspec
import numpy as np
from numpy.typing import NDArray

from .answer import Prediction, decode
from .box_map import comparable
from .bundle import Bundle
from .errors import FoveolaError
from .image import decode_image, prepare
from .manifest import EngineName, Manifest
from .predict import Predictor

TOLERANCE = {"float32": 0.001, "float16": 0.02, "int8": 0.1}  # relative root mean square, by the engine's arithmetic
CLEAR_MOVE = 0.05  # of probability
GOLDEN = "golden.npz"
_EPOCH = (1980, 1, 1, 0, 0, 0)  # the ZIP format's zero


class Drift(msgspec.Struct, frozen=True, kw_only=True):
    """One output tensor over all golden images."""

    tensor: str
    largest: float  # absolute difference
    relative: float  # root mean square of the difference over that of the expected values
    tolerance: float


class SelfTest(msgspec.Struct, frozen=True, kw_only=True):
    """The outcome; `faults` is empty where `ok`."""

    ok: bool
    engine: EngineName
    images: int
    drifts: tuple[Drift, ...]
    flips: int  # findings and choices that differ
    decoder_changed: int  # images whose decoded pixels differ: another JPEG decoder, mostly harmless
    faults: tuple[str, ...]


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


def make_golden(predictors: Sequence[Asked], images: Sequence[bytes]) -> bytes:
    """Make `golden.npz` of a few image files and the answers of each engine to them."""
    arrays: dict[str, NDArray[Any]] = {}
    for i, image in enumerate(images):
        picture = decode_image(image, f"golden image {i}")
        arrays[f"image_{i}"] = np.frombuffer(image, np.uint8)
        arrays[f"decoded_{i}"] = _pixel_digest(np.asarray(picture))
        for predictor in predictors:
            x_CHW, _ = prepare(picture, predictor.manifest.input)
            for name, raw in predictor.run(x_CHW[None]).items():
                arrays[f"{predictor.engine}/{i}/{name}"] = raw
    return _encode(arrays)


def self_test(bundle: Bundle, engine: str | None = None, engines: Path | None = None) -> SelfTest:
    """Run the golden images through the bundle on this machine.

    Args:
        bundle: the bundle, already vouched for.
        engine: as for `Predictor`.
        engines: as for `Predictor`.

    Raises:
        FoveolaError: there is nothing golden for the engine in the bundle, or the bundle does not open on it.
    """
    golden = _golden(bundle)
    predictor = Predictor(bundle, engine, engines)
    cases, outputs = _cases(golden, predictor), predictor.manifest.outputs
    drifts, faults, moves, decoder_changed = _Drifts(), [], [], 0
    for case in cases:
        picture = decode_image(case.image, case.place)
        decoder_changed += not np.array_equal(_pixel_digest(np.asarray(picture)), case.decoded)
        x_CHW, geometry = prepare(picture, predictor.manifest.input)
        got = predictor.run(x_CHW[None])
        try:
            drifts.add(*(comparable(outputs, raw, predictor.manifest.input) for raw in (case.expected, got)))
            then, now = (decode(outputs, raw, geometry, predictor.manifest.input) for raw in (case.expected, got))
            moves += _moves(then, now)
        except FoveolaError as error:
            faults.append(f"{case.place}: {error}")
    report = drifts.report(TOLERANCE[predictor.arithmetic])
    faults += [f"{d.tensor} drifted by {d.relative:.3g}, allowed {d.tolerance:g}" for d in report if not _holds(d)]
    clear = sum(move > CLEAR_MOVE for move in moves)
    faults += [f"{clear} decision(s) flipped"] if clear else []
    return SelfTest(
        ok=not faults,
        engine=predictor.engine,
        images=len(cases),
        drifts=report,
        flips=len(moves),
        decoder_changed=decoder_changed,
        faults=tuple(faults),
    )


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


class _Case(msgspec.Struct, frozen=True, kw_only=True):
    place: str
    image: bytes
    decoded: NDArray[np.uint8]
    expected: dict[str, NDArray[np.float32]]


def _cases(golden: Mapping[str, NDArray[Any]], predictor: Predictor) -> list[_Case]:
    count = sum(name.startswith("image_") for name in golden)
    tensors = [name for output in predictor.manifest.outputs for name in output.tensors]
    needed = {f"{predictor.engine}/{i}/{name}" for i in range(count) for name in tensors}
    needed |= {f"{part}_{i}" for i in range(count) for part in ("image", "decoded")}
    absent = sorted(needed - set(golden))
    if absent or not count:
        fault = f"holds no {absent[0]}" if absent else "holds no image"
        raise FoveolaError(GOLDEN, fault, f"make the bundle anew with {predictor.engine}")
    return [
        _Case(
            place=f"golden image {i}",
            image=golden[f"image_{i}"].tobytes(),
            decoded=golden[f"decoded_{i}"],
            expected={name: golden[f"{predictor.engine}/{i}/{name}"] for name in tensors},
        )
        for i in range(count)
    ]


class _Drifts:
    """Sums over the golden images, tensor by tensor."""

    def __init__(self) -> None:
        self._largest: dict[str, float] = {}
        self._squares: dict[str, NDArray[np.float64]] = {}

    def add(self, expected: Mapping[str, NDArray[Any]], got: Mapping[str, NDArray[Any]]) -> None:
        for name, exact in expected.items():
            now, then = got[name], exact.astype(np.float64)
            with np.errstate(invalid="ignore"):  # infinity less infinity is NaN, which fails by itself
                difference = np.abs(now - then)
            sums = np.array([np.sum(difference**2), np.sum(then**2), then.size], np.float64)
            self._largest[name] = max(self._largest.get(name, 0.0), float(difference.max()))
            self._squares[name] = self._squares.get(name, np.zeros(3)) + sums

    def report(self, tolerance: float) -> tuple[Drift, ...]:
        drifts = []
        for name, (difference, expected, count) in self._squares.items():
            relative = float(np.sqrt(difference / max(expected, count)))
            drifts.append(Drift(tensor=name, largest=self._largest[name], relative=relative, tolerance=tolerance))
        return tuple(drifts)


def _holds(drift: Drift) -> bool:
    return drift.relative <= drift.tolerance  # false for NaN as well


def _moves(then: Prediction, now: Prediction) -> list[float]:
    """Tell how far the probability moved, for each finding and choice whose decision is another one now."""
    findings = zip(then.findings, now.findings, strict=True)
    choices = zip(then.choices, now.choices, strict=True)
    moves = [abs(a.probability - b.probability) for a, b in findings if a.positive != b.positive]
    for a, b in choices:
        if a.index != b.index:
            moves.append(float(np.abs(np.subtract(a.probabilities, b.probabilities)).max()))
    return moves


def _pixel_digest(pixels: NDArray[Any]) -> NDArray[np.uint8]:
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
