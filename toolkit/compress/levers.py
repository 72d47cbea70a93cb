"""What makes rounding to 8 bits cost less, each lever pulled where it pays.

Ranges by another rule, cross-layer equalisation, learned rounding and bias correction, in this order. Each is a knob;
`auto` pulls a lever and keeps it only if the noise of the int8 graph's outputs falls by GAIN decibels. Nothing decides
on the images that taught it: every second calibration image tunes, the others judge; the ranges come from all, as
without any lever. The graphs are computed as their definition has it (`export.partial`), so that a choice does not
depend on the machine that made it.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from pathlib import Path
from typing import Literal, get_args

import msgspec
import numpy as np
import onnx
from numpy.typing import NDArray

from ...export.bias_correction import correct_biases
from ...export.calibrate import Method, Range
from ...export.equalise import By, Equalised, equalise
from ...export.layer_error import output_sqnr, overall
from ...export.onnx_graph import encode
from ...export.quantize import Calibrated, Overflow, WeightBits, calibrate_graph, int8_model
from ...export.rounding import Rounded, learn_rounding
from ...runtime.errors import FoveolaError
from ..data.arrays import Arrays
from .overflow import spread

LEVERS = "levers.json"
GAIN = 0.1  # dB: what a lever must bring to be kept
TUNED = 64  # images at most that teach a lever; as many judge

Ranges = Literal["minmax", "percentile", "entropy", "mse", "auto"]
Equalise = Literal["off", "weights", "activations", "auto"]
Correction = Literal["off", "on", "auto"]
Rounding = Literal["nearest", "adaround", "auto"]
F32 = NDArray[np.float32]
Progress = Callable[[int, int, str], None]


class Lever(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One lever and what became of it.

    Args:
        name: `ranges mse`, `equalise activations`, `rounding adaround`, `bias correction`.
        kept: whether the int8 graph has it.
        asked: whether it was asked for, and not tried.
        outputs_db: SQNR of each output with it.
        gain_db: what it brought over all outputs; negative where it cost.
        note: more, in words.
    """

    name: str
    kept: bool
    asked: bool
    outputs_db: dict[str, float]
    gain_db: float
    note: str = ""


class Levers(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The file `levers.json`: what was tried on the way from the plain int8 graph to the one that was written.

    Args:
        format: of this file.
        tuned_on: images that taught.
        judged_on: images that judged.
        before_db: SQNR of each output of the plain graph: ranges by minmax, or learned, and nothing else.
        after_db: of the graph that was written.
        levers: in the order in which they were pulled.
    """

    format: Literal[1] = 1
    tuned_on: int
    judged_on: int
    before_db: dict[str, float]
    after_db: dict[str, float]
    levers: tuple[Lever, ...]


class Knobs(msgspec.Struct, frozen=True, kw_only=True):
    """The levers of one quantisation."""

    method: Ranges = "minmax"
    equalise: Equalise = "off"
    rounding: Rounding = "nearest"
    bias_correction: Correction = "off"

    @property
    def plain(self) -> bool:
        """Whether there is nothing to pull."""
        return self.method != "auto" and (self.equalise, self.rounding, self.bias_correction) == (
            "off",
            "nearest",
            "off",
        )


class Bench(msgspec.Struct, frozen=True, kw_only=True, eq=False):
    """What the levers work on: the float graph's file, which equalisation writes anew, and the calibration images."""

    graph: Path
    arrays: Arrays
    min_images: int
    float_layers: Collection[str]
    weight_bits: WeightBits
    overflow: Overflow

    def calibrate(
        self, method: Method, known: Mapping[str, Range] | None = None, path: Path | None = None
    ) -> Calibrated:
        """Ranges by a method, on all images."""
        return calibrate_graph(
            path or self.graph,
            spread(self.arrays, len(self.arrays)),
            method=method,
            float_layers=self.float_layers,
            min_images=self.min_images,
            ranges=known,
        )

    def model(self, calibrated: Calibrated) -> onnx.ModelProto:
        """The int8 graph."""
        return int8_model(calibrated, weight_bits=self.weight_bits, overflow=self.overflow)

    def tuning(self) -> Iterator[F32]:
        """Images that teach."""
        return self._every(0)

    def judging(self) -> Iterator[F32]:
        """Images that judge."""
        return self._every(1)

    def _every(self, first: int) -> Iterator[F32]:
        places = np.arange(first if len(self.arrays) > 1 else 0, len(self.arrays), 2)
        places = places[np.unique(np.linspace(0, len(places) - 1, min(len(places), TUNED)).round().astype(int))]
        return (np.array(self.arrays.images[i : i + 1]) for i in places.tolist())


def pull_levers(
    bench: Bench, knobs: Knobs, progress: Progress, learned: Mapping[str, Range] | None = None
) -> tuple[Calibrated, Method, Levers | None]:
    """Find the ranges, roundings and biases of the int8 graph.

    Args:
        bench: graph and images; an equalised graph takes the place of the float graph's file.
        knobs: which levers.
        progress: called with (done, total, text).
        learned: ranges that training has found: they stay as they are, and so does what belongs to them.

    Returns:
        What the int8 graph is written from, the method of its ranges, and the account; None where nothing was pulled.
    """
    first: Method = "minmax" if knobs.method == "auto" else knobs.method
    calibrated = bench.calibrate(first, learned)
    if learned is not None:
        require_learned(calibrated.ranges, learned)
    if knobs.plain:
        return calibrated, first, None
    pull = _Pull(bench, calibrated, progress)
    method = first
    if learned is None:
        method = pull.ranges(first) if knobs.method == "auto" else first
        pull.equalised(knobs.equalise, method)
    pull.rounded(knobs.rounding)
    pull.corrected(knobs.bias_correction)
    return pull.best, method, pull.account()


def require_learned(used: Mapping[str, Range], learned: Mapping[str, Range]) -> None:
    """Refuse learned ranges that leave a quantiser without one.

    Raises:
        FoveolaError: the ranges belong to another graph.
    """
    missing = sorted(used.keys() - learned.keys())
    if missing:
        fault = f"{len(missing)} tensors have no learned range, first {missing[0]}"
        raise FoveolaError(
            "ranges.json", fault, "train the step anew for this device's opset, and quantise on the same"
        )


class _Pull:
    """The state between two levers: the best so far, and what its outputs' noise is."""

    def __init__(self, bench: Bench, calibrated: Calibrated, progress: Progress) -> None:
        self.bench, self.best, self.progress = bench, calibrated, progress
        self.plain = onnx.load(bench.graph)
        self.before = self.now = self._judge(calibrated)
        self.levers: list[Lever] = []

    def account(self) -> Levers:
        """All that was done."""
        return Levers(
            tuned_on=sum(1 for _ in self.bench.tuning()),
            judged_on=sum(1 for _ in self.bench.judging()),
            before_db=self.before,
            after_db=self.now,
            levers=tuple(self.levers),
        )

    def ranges(self, first: Method) -> Method:
        """Try every rule for the ranges; the best one's name."""
        best = first
        for method in get_args(Method):
            if method != first and self._try(f"ranges {method}", self.bench.calibrate(method), asked=False):
                best = method
        return best

    def equalised(self, knob: Equalise, method: Method) -> None:
        """Equalise by one rule or the better one; what is kept takes the place of the float graph."""
        if knob == "off":
            return
        sorts: tuple[By, ...] = get_args(By) if knob == "auto" else (knob,)
        source = onnx.load(self.bench.graph)
        for by in sorts:
            model, found = equalise(source, self.bench.tuning(), by=by)
            path = self.bench.graph.with_suffix(f".{by}.onnx")
            path.write_bytes(encode(model))
            calibrated = self.bench.calibrate(method, path=path)
            if self._try(f"equalise {by}", calibrated, asked=knob != "auto", note=_pairs(found)) and found.pairs:
                path.replace(self.bench.graph)
            path.unlink(missing_ok=True)

    def rounded(self, knob: Rounding) -> None:
        """Learn the weights' rounding."""
        if knob == "nearest":
            return
        corrections, gained = learn_rounding(
            self.best,
            self.bench.tuning,
            weight_bits=self.bench.weight_bits,
            overflow=self.bench.overflow,
            progress=lambda done, total: self.progress(done, total, "learning the rounding of layers"),
        )
        tried = msgspec.structs.replace(self.best, corrections=corrections)
        self._try("rounding adaround", tried, asked=knob == "adaround", note=_gained(gained))

    def corrected(self, knob: Correction) -> None:
        """Correct the biases."""
        if knob != "off":
            self._try("bias correction", with_biases(self.bench, self.best, self.progress), asked=knob == "on")

    def _try(self, name: str, calibrated: Calibrated, *, asked: bool, note: str = "") -> bool:
        found = self._judge(calibrated)
        gain = overall(found) - overall(self.now)
        kept = asked or gain >= GAIN
        self.levers.append(Lever(name=name, kept=kept, asked=asked, outputs_db=found, gain_db=gain, note=note))
        if kept:
            self.best, self.now = calibrated, found
        return kept

    def _judge(self, calibrated: Calibrated) -> dict[str, float]:
        return output_sqnr(self.plain, self.bench.model(calibrated), self.bench.judging())


def with_biases(bench: Bench, calibrated: Calibrated, progress: Progress) -> Calibrated:
    """The same with corrected biases."""
    corrections = correct_biases(
        calibrated,
        bench.tuning,
        weight_bits=bench.weight_bits,
        overflow=bench.overflow,
        progress=lambda done, total: progress(done, total, "correcting the biases of layers"),
    )
    return msgspec.structs.replace(calibrated, corrections=corrections)


def lever_lines(account: Levers) -> list[str]:
    """Say in one line each what the levers brought."""
    lines = []
    for one in account.levers:
        fate = "asked for" if one.asked else "kept" if one.kept else "not kept"
        note = f"; {one.note}" if one.note else ""
        lines.append(f"{one.name}: {one.gain_db:+.1f} dB over all outputs, {fate}{note}")
    before, after = overall(account.before_db), overall(account.after_db)
    return [*lines, f"the outputs' SQNR: {before:.1f} dB as it comes, {after:.1f} dB as written"]


def _pairs(found: Equalised) -> str:
    skipped = sum(found.skipped.values())
    why = f", {skipped} kept apart by {', '.join(found.skipped)}" if skipped else ""
    return f"{len(found.pairs)} pairs of layers{why}"


def _gained(account: tuple[Rounded, ...]) -> str:
    better = [one for one in account if one.error < 1]
    return f"{len(better)} of {len(account)} layers rounded otherwise"
