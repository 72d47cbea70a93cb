"""The self-test at power-on: a bundle on this machine must answer as it did when it was made.

Each golden image (`golden.py`) goes the whole way, from the file's bytes to the decision:

- **Drift.** Another CPU may round an int8 sum otherwise, and a saturating one (AVX2 without VNNI) gives a large error,
  so raw outputs are held against a tolerance: the root mean square of the difference over that of the expected values
  (at least 1: they are logits or standardised values). Of an embedding that is the distance of the two directions.
- **Decisions.** A finding or choice that flips fails the test where its probability moved clearly; on the threshold it
  may fall to either side.
- **NaN and infinity** fail.
- **Time.** An answer that takes `SLOW` times the budget's, or what it took before on this very machine, fails: the
  engine runs otherwise than it should, or the machine does. Load by others is let pass: the best of some calls counts.
- **Decoder.** Golden images that are decoded to other pixels than they were (another libjpeg) are told as a warning,
  and fail where the answers drift by it: what counts is the answer.

Whether a test is needed again is told by `tested.py`.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from time import perf_counter_ns
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from .answer import decode
from .box_map import comparable
from .bundle import Bundle
from .errors import FoveolaError
from .golden import GOLDEN as GOLDEN
from .golden import Asked as Asked
from .golden import Case, golden_cases, pixel_digest
from .golden import first_golden_image as first_golden_image
from .golden import golden_images as golden_images
from .golden import make_golden as make_golden
from .image import Geometry, decode_image, prepare
from .manifest import EngineName, Manifest
from .predict import Predictor
from .prediction import Prediction

TOLERANCE = {"float32": 0.001, "float16": 0.02, "int8": 0.1}  # relative root mean square, by the engine's arithmetic
CLEAR_MOVE = 0.05  # of probability
SLOW = 5  # times the budget, or the time that was recorded
LEAST_LIMIT_MS = 50.0  # below it a scheduler's pause is longer than the work
CALLS = 5  # of an image whose first one was too slow


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
    latency_ms: float = 0.0  # of the slowest golden image, from the file's bytes to the findings
    latency_limit_ms: float | None = None  # beyond it the test fails; None: nothing to hold it against
    warnings: tuple[str, ...] = ()


def self_test(
    bundle: Bundle, engine: str | None = None, engines: Path | None = None, recorded_ms: float | None = None
) -> SelfTest:
    """Run the golden images through the bundle on this machine.

    Args:
        bundle: the bundle, already vouched for.
        engine: as for `Predictor`.
        engines: as for `Predictor`.
        recorded_ms: what an answer took in an earlier test on this very machine; used where there is no budget.

    Raises:
        FoveolaError: there is nothing golden for the engine in the bundle, or the bundle does not open on it.
    """
    predictor = Predictor(bundle, engine, engines)
    limit = latency_limit_ms(predictor.manifest, recorded_ms)
    drifts, faults, moves, times, decoder_changed = _Drifts(), list[str](), list[float](), list[float](), 0
    for case in golden_cases(bundle, predictor.engine):
        reply = _ask(predictor, case)
        times.append(_least_ms(predictor, case, reply.ms, limit))
        decoder_changed += not reply.decoded_as_before
        try:
            moves += _compare(predictor.manifest, case, reply, drifts)
        except FoveolaError as error:
            faults.append(f"{case.place}: {error}")
    report = drifts.report(TOLERANCE[predictor.arithmetic])
    faults += [f"{d.tensor} drifted by {d.relative:.3g}, allowed {d.tolerance:g}" for d in report if not _holds(d)]
    clear = sum(move > CLEAR_MOVE for move in moves)
    faults += [f"{clear} decision(s) flipped"] if clear else []
    slowest = max(times)
    faults += [_slow_words(slowest, limit)] if limit is not None and slowest > limit else []
    return SelfTest(
        ok=not faults,
        engine=predictor.engine,
        images=len(times),
        drifts=report,
        flips=len(moves),
        decoder_changed=decoder_changed,
        faults=tuple(faults),
        latency_ms=slowest,
        latency_limit_ms=limit,
        warnings=(f"{decoder_changed} image(s) are decoded to other pixels",) if decoder_changed else (),
    )


def latency_limit_ms(manifest: Manifest, recorded_ms: float | None = None) -> float | None:
    """Give the time beyond which an answer is no longer sane: of the budget, else of what was recorded; else None."""
    usual = manifest.budget.latency_ms if manifest.budget is not None else recorded_ms
    return None if usual is None else max(SLOW * usual, LEAST_LIMIT_MS)


def _slow_words(slowest: float, limit: float) -> str:
    return f"an answer took {slowest:.0f} ms, sane are {limit:.0f} ms"


class _Reply(msgspec.Struct, frozen=True, kw_only=True):
    raw: dict[str, NDArray[np.float32]]
    geometry: Geometry
    decoded_as_before: bool
    ms: float


def _ask(predictor: Predictor, case: Case) -> _Reply:
    """Answer about a golden image, and take the time from its bytes to the findings."""
    spec, outputs = predictor.manifest.input, predictor.manifest.outputs
    start = perf_counter_ns()
    picture = decode_image(case.image, case.place)
    x_CHW, geometry = prepare(picture, spec)
    raw = predictor.run(x_CHW[None])
    with suppress(FoveolaError):  # no answer (NaN): the comparison tells it
        decode(outputs, raw, geometry, spec)
    ms = (perf_counter_ns() - start) / 1e6
    same = bool(np.array_equal(pixel_digest(np.asarray(picture)), case.decoded))
    return _Reply(raw=raw, geometry=geometry, decoded_as_before=same, ms=ms)


def _least_ms(predictor: Predictor, case: Case, first_ms: float, limit: float | None) -> float:
    """Ask again where the first answer was too slow, and give the quickest time."""
    least = first_ms
    for _ in range(CALLS - 1):
        if limit is None or least <= limit:
            break
        least = min(least, _ask(predictor, case).ms)
    return least


def _compare(manifest: Manifest, case: Case, reply: _Reply, drifts: _Drifts) -> list[float]:
    """Add a golden image's drifts, and give how far each decision that flipped has moved."""
    outputs, spec = manifest.outputs, manifest.input
    drifts.add(*(comparable(outputs, raw, spec) for raw in (case.expected, reply.raw)))
    then, now = (decode(outputs, raw, reply.geometry, spec) for raw in (case.expected, reply.raw))
    return _moves(then, now)


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
