"""The ranges that activations take on calibration images, measured one image at a time.

Memory stays bounded whatever the number of images: per tensor an extent and, for two of the methods, one histogram
whose bins double in width when a larger value comes.

| method | the range ends at | source |
|---|---|---|
| minmax | the extremes seen | |
| percentile | the 99.99th percentile of magnitudes | Wu et al. 2020 (arXiv 2004.09602), sec. 4 |
| entropy | the end whose clipped, quantised histogram loses least information | Migacz, GTC 2017 |
| mse | the end with the least mean squared error of clipping and rounding | Wu et al. 2020, sec. 4; Banner et al., NeurIPS 2019 |

Ranges that were learned instead stand in a file, `ranges.json`: {"tensors": {"conv_2.out": [-1.5, 2.25]}}.
"""  # noqa: E501

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import msgspec
import numpy as np
import onnx
from numpy.typing import NDArray

from ..runtime.errors import FoveolaError
from ..runtime.offline import forbid_telemetry
from .onnx_graph import INPUT

Method = Literal["minmax", "percentile", "entropy", "mse"]
Magnitudes = NDArray[np.float32]
Counts = NDArray[np.int64]

BINS = 2048
PERCENTILE = 99.99
LEVELS = 128  # magnitudes that a signed 8-bit grid tells apart


class Range(msgspec.Struct, frozen=True):
    """Ends of the interval that a tensor's values take; zero always lies inside, as padding is zero."""

    low: float
    high: float

    @property
    def magnitude(self) -> float:
        """The larger distance from zero."""
        return max(-self.low, self.high)


class _RangesFile(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    tensors: dict[str, tuple[float, float]]


def write_ranges(ranges: Mapping[str, Range], path: Path) -> None:
    """Write ranges by tensor; `read_ranges` gives them back."""
    record = _RangesFile({name: (one.low, one.high) for name, one in sorted(ranges.items())})
    path.write_bytes(msgspec.json.format(msgspec.json.encode(record), indent=1) + b"\n")


def read_ranges(path: Path) -> dict[str, Range]:
    """Read what `write_ranges` wrote.

    Raises:
        FoveolaError: it is none, or a range does not hold zero or is not finite.
    """
    try:
        record = msgspec.json.decode(path.read_bytes(), type=_RangesFile)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise FoveolaError(str(path), f"is no file of ranges: {error}", "train the step anew") from None
    for name, (low, high) in record.tensors.items():
        if not (np.isfinite([low, high]).all() and low <= 0 <= high):
            raise FoveolaError(str(path), f"{name}: {low} to {high} is no range around zero", "train the step anew")
    return {name: Range(low, high) for name, (low, high) in record.tensors.items()}


def measure_ranges(
    model: onnx.ModelProto, tensors: Sequence[str], images: Iterable[NDArray[np.float32]], method: Method
) -> tuple[dict[str, Range], int]:
    """Run the float graph on the images and watch the given tensors.

    Args:
        model: float32 graph with one input `image`.
        tensors: values to watch; the input may be among them.
        images: float32 (1, C, H, W) each; drawn once, one at a time.
        method: as in the table above.

    Returns:
        The range of each tensor, and the number of images seen (with none, every range is empty).

    Raises:
        FoveolaError: the network answers NaN or infinity on an image.
    """
    run = _watcher(model, tensors)
    observers = {name: _Observer(method != "minmax") for name in tensors}
    count = 0
    for image in images:
        values = run(image)
        for name, observer in observers.items():
            if not observer.add(values[name]):
                raise FoveolaError(f"calibration image {count + 1}", f"{name} is not finite", "train the network anew")
        count += 1
    return {name: observer.range(method) for name, observer in observers.items()}, count


def channel_extents(
    model: onnx.ModelProto, tensors: Sequence[str], images: Iterable[NDArray[np.float32]]
) -> dict[str, NDArray[np.float32]]:
    """Largest magnitude of each channel (axis 1) of the given tensors, over all images; empty without any."""
    run = _watcher(model, tensors)
    found: dict[str, NDArray[np.float32]] = {}
    for image in images:
        values = run(image)
        for name in tensors:
            magnitudes = np.abs(values[name])
            most = magnitudes.max(axis=tuple(axis for axis in range(magnitudes.ndim) if axis != 1))
            found[name] = np.maximum(found[name], most) if name in found else most
    return found


class _Watch:
    def __init__(self, session: Any, names: list[str]) -> None:
        self.session, self.names = session, names

    def __call__(self, image: NDArray[np.float32]) -> dict[str, NDArray[np.float32]]:
        seen = dict(zip(self.names, self.session.run(self.names, {INPUT: image}), strict=True))
        return seen | {INPUT: image}


def _watcher(model: onnx.ModelProto, tensors: Sequence[str]) -> _Watch:
    """Open a copy of the graph that has the tensors as further outputs."""
    forbid_telemetry()
    import onnxruntime

    watched = onnx.ModelProto()
    watched.CopyFrom(model)
    outputs = {value.name for value in watched.graph.output}
    # An engine that is asked for nothing answers everything.
    names = [name for name in dict.fromkeys(tensors) if name != INPUT] or [model.graph.output[0].name]
    watched.graph.output.extend(
        onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None) for name in names if name not in outputs
    )
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # errors
    options.intra_op_num_threads = 1  # the same sums in the same order on every run
    session = onnxruntime.InferenceSession(watched.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return _Watch(session, names)


@dataclass
class _Observer:
    """Extent of a tensor and, where wanted, the histogram of its magnitudes on [0, top]."""

    histogram: bool
    low: float = 0.0
    high: float = 0.0
    top: float = 0.0
    counts: Counts | None = None

    def add(self, values: NDArray[np.float32]) -> bool:
        """Take in one image's values; False where one is not finite."""
        low, high = float(values.min(initial=0.0)), float(values.max(initial=0.0))
        if not (np.isfinite(low) and np.isfinite(high)):
            return False
        self.low, self.high = min(self.low, low), max(self.high, high)
        if self.histogram:
            self._count(np.abs(values).ravel(), max(-low, high))
        return True

    def _count(self, magnitudes: Magnitudes, largest: float) -> None:
        if self.counts is None or not self.top:
            zeros = 0 if self.counts is None else int(self.counts[0])  # images before this one were zero throughout
            self.counts, self.top = np.zeros(BINS, np.int64), largest
            self.counts[0] = zeros
        while largest > self.top:
            self.top *= 2
            self.counts = np.concatenate([self.counts.reshape(-1, 2).sum(1), np.zeros(BINS // 2, np.int64)])
        self.counts += np.histogram(magnitudes, bins=BINS, range=(0.0, self.top or 1.0))[0]

    def range(self, method: Method) -> Range:
        """Give the range by the method's rule, never wider than the extent seen."""
        end = max(-self.low, self.high)
        if self.counts is not None and self.top:
            end = self.top * self._end(self.counts, method)
        return Range(max(self.low, -end), min(self.high, end))

    def _end(self, counts: Counts, method: Method) -> float:
        if method == "percentile":
            return percentile_end(counts)
        # Where nothing is negative the unsigned form has twice as many steps for the same magnitudes.
        return entropy_end(counts) if method == "entropy" else mse_end(counts, LEVELS if self.low < 0 else 2 * LEVELS)


def percentile_end(counts: Counts) -> float:
    """End of the bin in which the percentile of the magnitudes lies, as a fraction of the histogram's extent."""
    cumulative = np.cumsum(counts)
    return float(np.searchsorted(cumulative, cumulative[-1] * PERCENTILE / 100) + 1) / len(counts)


def entropy_end(counts: Counts, levels: int = LEVELS) -> float:
    """End at which clipping and quantising to `levels` magnitudes has the least Kullback-Leibler divergence.

    The first bin is left out of the divergence: after a ReLU it holds the zeros, which every grid represents exactly
    and which would hide all else.
    """
    bins = len(counts)
    shape = counts.astype(np.float64)
    shape[0] = 0
    if not shape.any():
        return 1.0
    ends = range(levels, bins + 1, levels // 8)
    losses = [_divergence(shape, end, levels) for end in ends]
    return ends[int(np.argmin(losses))] / bins


def _divergence(shape: NDArray[np.float64], end: int, levels: int) -> float:
    kept = shape[:end].copy()
    clipped = kept.copy()
    clipped[-1] += shape[end:].sum()
    level = np.arange(end) * levels // end
    filled = kept > 0
    mass = np.bincount(level, weights=kept, minlength=levels)
    share = np.bincount(level, weights=filled, minlength=levels)
    spread = np.where(filled, (mass / np.maximum(share, 1))[level], 0.0)
    p, q = clipped / clipped.sum(), spread / max(spread.sum(), 1e-30)
    # A clipped mass on an empty last bin has no counterpart in q: infinite loss in theory, a large one here.
    where = p > 0
    return float(np.sum(p[where] * np.log(p[where] / np.maximum(q[where], 1e-12))))


def mse_end(counts: Counts, levels: int = LEVELS) -> float:
    """End with the least squared error of clipping and of rounding to `levels` magnitudes.

    Each bin counts as its middle; the first holds the zeros, which every grid represents exactly.
    """
    bins = len(counts)
    weight = counts.astype(np.float64)
    weight[0] = 0
    if not weight.any():
        return 1.0
    middle = np.arange(bins) + 0.5
    ends = np.arange(levels // 8, bins + 1, levels // 8)
    losses = []
    for end in ends:
        step = end / (levels - 1)
        nearest = np.minimum(np.rint(middle / step), levels - 1) * step
        losses.append(float((weight * (middle - nearest) ** 2).sum()))
    return float(ends[int(np.argmin(losses))]) / bins
