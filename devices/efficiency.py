"""What share of a machine's peaks layers reach, by their kind: the roofline calibrated by measured layers.

The plain roofline (`roofline.py`) lets every layer reach the same share. Here each kind of layer has its own, found by
measuring many layers in one engine on one machine:

    time = call + operations / (peak x share of it) + bytes / (bandwidth x share of it)

- The peak is the best rate that the engine reached in large layers there, the bandwidth that of a large addition: not
  those of a data sheet.
- A sum, not the longer of two: most layers of a small network lie near the ridge, where both show, and a sum is fitted
  by least squares with no share below zero.
- What stands between the layers (layouts, conversions) is one factor on the whole for each arithmetic.
- Its error is told: every network is predicted by what the others have taught.

For another device the shares and the cost of a call are taken as they are and its own peaks are put in. That is a
prediction, and is always named one (`source: calibrated`).

    efficiency = fit_efficiency(measured, peaks, bandwidth_gb_s, ...)
    predict_calibrated(layers, load_profile("intel-n100"), efficiency).ms
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations
from statistics import median
from typing import Literal

import msgspec
import numpy as np
from numpy.typing import NDArray

from ..runtime.manifest import Arithmetic, EngineName
from .profile import Profile
from .roofline import WIDER, LayerWork, Prediction, peak_gops

Kind = Literal["dense", "pointwise", "depthwise", "matrix", "elementwise", "activation", "pool", "other"]
# Operations beside the layers, by kind; all others move values (Resize, Concat) and are `other`.
KINDS: dict[str, Kind] = {
    **dict.fromkeys(("Gemm", "MatMul"), "matrix"),
    **dict.fromkeys(("Add", "Div", "Mul", "Sub"), "elementwise"),
    **dict.fromkeys(
        ("Elu", "Erf", "Gelu", "HardSigmoid", "HardSwish", "LeakyRelu", "Sigmoid", "Softmax", "Tanh"), "activation"
    ),
    **dict.fromkeys(
        ("AveragePool", "GlobalAveragePool", "GlobalMaxPool", "MaxPool", "ReduceMax", "ReduceMean"), "pool"
    ),
}
LAYER_KINDS = frozenset({"dense", "pointwise", "depthwise", "matrix"})
ROUNDS = 5  # of the robust fit: layers far off count less in the next one
FUSED = 0.2  # share of layers without a kernel of their own above which none is taken for an outlier
FEWEST = 4  # layers of a kind that are enough for shares of its own


class Reach(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What the layers of one kind reach in one arithmetic.

    Args:
        kind: `dense` and `pointwise` convolutions (larger than 1 x 1, and 1 x 1), `depthwise` ones, `matrix` products;
            `elementwise` operations, `activation`, `pool`, and `other` ones, which move values.
        arithmetic: of the layers; for operations beside them that of the network around.
        compute: share of the peak; None: operations did not show in the times.
        bandwidth: share of the bandwidth; above 1 where caches hold the values; None: bytes did not show.
        call_us: cost of a call, microseconds.
        layers: that were measured.
        error: median of the absolute relative errors of these layers' times.
    """

    kind: Kind
    arithmetic: Arithmetic
    compute: float | None
    bandwidth: float | None
    call_us: float
    layers: int
    error: float


class Efficiency(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One machine's shares in one engine.

    Args:
        machine: what was measured, in words.
        engine: that ran the layers.
        threads: that it had.
        peaks: best rate in large layers, 10^9 operations a second (a multiply-add is two).
        bandwidth_gb_s: of a large addition.
        reaches: by kind and arithmetic.
        overhead: measured time of whole networks over the sum of their layers, by arithmetic.
        networks: that were measured, by name.
        error: median of the absolute relative errors with which networks were predicted by the others.
        worst_error: the largest of them.
    """

    format: Literal[1] = 1
    machine: str
    engine: EngineName
    threads: int
    peaks: dict[Arithmetic, float]
    bandwidth_gb_s: float
    reaches: tuple[Reach, ...]
    overhead: dict[Arithmetic, float]
    networks: tuple[str, ...]
    error: float
    worst_error: float

    def reach(self, kind: Kind, arithmetic: Arithmetic) -> Reach:
        """The shares of a kind; of the next wider numbers, or of all other operations, where it was not measured."""
        for numbers in WIDER[arithmetic]:
            for name in (kind, "other"):
                found = [one for one in self.reaches if (one.kind, one.arithmetic) == (name, numbers)]
                if found:
                    return found[0]
        return self.reaches[0]

    def on_this(self, profile: Profile) -> Profile:
        """The profile with the peaks that were measured on this machine in place of its own."""
        cpu = msgspec.structs.replace(profile.cpu, peak_gops=dict(self.peaks))
        memory = msgspec.structs.replace(profile.memory, bandwidth_gb_s=self.bandwidth_gb_s)
        derate = msgspec.structs.replace(profile.derate, compute=1.0, bandwidth=1.0)
        return msgspec.structs.replace(profile, cpu=cpu, memory=memory, derate=derate)


class Measured(msgspec.Struct, frozen=True, kw_only=True):
    """One network's layers and their times on one machine.

    Args:
        name: of the network.
        layers: what they ask.
        ms: time of each layer by its name; 0 or none where another layer's kernel did its work.
        whole_ms: of an answer of the whole network.
    """

    name: str
    layers: tuple[LayerWork, ...]
    ms: Mapping[str, float]
    whole_ms: float

    @property
    def arithmetic(self) -> Arithmetic:
        """Of the heaviest layer."""
        return arithmetic_of(self.layers)


def kind_of(layer: LayerWork) -> Kind:
    """The kind of a layer; grouped convolutions with several channels a group count as dense ones."""
    if layer.operator == "Conv":
        if layer.channels == (0, 0):
            return "depthwise"
        return "pointwise" if layer.kernel == 1 else "dense"
    return KINDS.get(layer.operator, "other")


def arithmetic_of(layers: Sequence[LayerWork]) -> Arithmetic:
    """Of the heaviest layer of a network."""
    return max(layers, key=lambda layer: layer.macs).arithmetic


def fit_efficiency(
    measured: Sequence[Measured],
    peaks: Mapping[Arithmetic, float],
    bandwidth_gb_s: float,
    *,
    machine: str,
    engine: EngineName,
    threads: int,
) -> Efficiency:
    """Fit the shares of all kinds, and tell how well they foretell networks that they have not seen.

    Args:
        measured: networks with the times of their layers; two of an arithmetic at least, for the error.
        peaks: of the machine in this engine, by arithmetic.
        bandwidth_gb_s: likewise.
        machine: in words.
        engine: that ran them.
        threads: that it had.
    """
    own = Efficiency(
        machine=machine,
        engine=engine,
        threads=threads,
        peaks=dict(peaks),
        bandwidth_gb_s=bandwidth_gb_s,
        reaches=(),
        overhead={},
        networks=tuple(dict.fromkeys(one.name for one in measured)),
        error=0.0,
        worst_error=0.0,
    )
    errors = []
    for left in measured:
        others = [one for one in measured if one.name != left.name]
        if any(one.arithmetic == left.arithmetic for one in others):
            taught = _fitted(own, others)
            errors.append(abs(_whole(left.layers, taught, taught.peaks, bandwidth_gb_s) / left.whole_ms - 1))
    found = _fitted(own, measured)
    return msgspec.structs.replace(
        found, error=round(median(errors), 4) if errors else 0.0, worst_error=round(max(errors, default=0.0), 4)
    )


def predict_calibrated(layers: Sequence[LayerWork], profile: Profile, efficiency: Efficiency) -> Prediction | None:
    """Predict a graph's time on a device's processor from what layers reached elsewhere; see the law above.

    Returns:
        None where the profile knows no peak or no bandwidth; `efficiency.on_this(profile)` has this machine's.
    """
    bandwidth = profile.memory.bandwidth_gb_s
    compute, memory = profile.derate.compute or 1.0, profile.derate.bandwidth or 1.0
    known: dict[Arithmetic, float] = {}
    for layer in layers:
        peak = peak_gops(profile, layer.arithmetic)
        if peak is not None:
            known[layer.arithmetic] = peak * compute
    if bandwidth is None or not layers or any(layer.arithmetic not in known for layer in layers):
        return None
    main = arithmetic_of(layers)
    bound = sum(
        _operations_us(layer, efficiency, main, known) > _bytes_us(layer, efficiency, main, bandwidth * memory)
        for layer in layers
    )
    return Prediction(
        ms=_whole(layers, efficiency, known, bandwidth * memory),
        compute_bound=bound,
        layers=len(layers),
        peak_gops=known[main] / compute,
        bandwidth_gb_s=bandwidth,
        source="calibrated",
        error=efficiency.error,
    )


def layer_ms(
    layer: LayerWork,
    efficiency: Efficiency,
    main: Arithmetic,
    peaks: Mapping[Arithmetic, float],
    bandwidth_gb_s: float,
) -> float:
    """One layer's time, milliseconds.

    Args:
        layer: of a network whose heaviest layer has the arithmetic `main`.
        efficiency: the shares.
        main: see above.
        peaks: of the device.
        bandwidth_gb_s: of the device.
    """
    call = efficiency.reach(kind_of(layer), _numbers(layer, main)).call_us
    both = _operations_us(layer, efficiency, main, peaks) + _bytes_us(layer, efficiency, main, bandwidth_gb_s)
    return (call + both) / 1e3


def _whole(
    layers: Sequence[LayerWork], efficiency: Efficiency, peaks: Mapping[Arithmetic, float], bandwidth_gb_s: float
) -> float:
    main = arithmetic_of(layers)
    total = sum(layer_ms(layer, efficiency, main, peaks, bandwidth_gb_s) for layer in layers)
    return total * next((efficiency.overhead[name] for name in WIDER[main] if name in efficiency.overhead), 1.0)


def _numbers(layer: LayerWork, main: Arithmetic) -> Arithmetic:
    """The arithmetic by which a layer is filed: between integer layers an addition works on integers too."""
    return layer.arithmetic if kind_of(layer) in LAYER_KINDS else main


def _operations_us(
    layer: LayerWork, efficiency: Efficiency, main: Arithmetic, peaks: Mapping[Arithmetic, float]
) -> float:
    share = efficiency.reach(kind_of(layer), _numbers(layer, main)).compute
    return 0.0 if share is None or not layer.macs else _us(layer.macs, peaks[layer.arithmetic]) / share


def _bytes_us(layer: LayerWork, efficiency: Efficiency, main: Arithmetic, bandwidth_gb_s: float) -> float:
    share = efficiency.reach(kind_of(layer), _numbers(layer, main)).bandwidth
    return 0.0 if share is None else layer.bytes_moved / (1e3 * bandwidth_gb_s) / share


def _us(macs: int, gops: float) -> float:
    return 2 * macs / (1e3 * gops)


def _fitted(own: Efficiency, measured: Sequence[Measured]) -> Efficiency:
    """The shares by kind, then the factor of whole networks."""
    rows: dict[tuple[Kind, Arithmetic], list[tuple[LayerWork, float]]] = {}
    for network in measured:
        for layer in network.layers:
            key = (kind_of(layer), _numbers(layer, network.arithmetic))
            rows.setdefault(key, []).append((layer, 1e3 * network.ms.get(layer.name, 0.0)))
    reaches = [_reach(own, key, found) for key, found in sorted(rows.items()) if len(found) >= FEWEST]
    if not reaches:
        reaches = [_reach(own, key, found) for key, found in sorted(rows.items())]
    found = msgspec.structs.replace(own, reaches=tuple(reaches))
    ratios: dict[Arithmetic, list[float]] = {}
    for network in measured:
        summed = _whole(network.layers, found, own.peaks, own.bandwidth_gb_s)
        ratios.setdefault(network.arithmetic, []).append(network.whole_ms / max(summed, 1e-9))
    overhead: dict[Arithmetic, float] = {name: round(median(many), 4) for name, many in ratios.items()}
    return msgspec.structs.replace(found, overhead=overhead)


def _reach(own: Efficiency, key: tuple[Kind, Arithmetic], rows: Sequence[tuple[LayerWork, float]]) -> Reach:
    kind, arithmetic = key
    times = np.array([us for _, us in rows])
    peak = [next(own.peaks[name] for name in WIDER[layer.arithmetic] if name in own.peaks) for layer, _ in rows]
    asked = np.array(
        [
            (1.0, _us(layer.macs, gops), layer.bytes_moved / (1e3 * own.bandwidth_gb_s))
            for (layer, _), gops in zip(rows, peak, strict=True)
        ]
    )
    call, operations, moved = _robust(asked, times)
    off = np.abs(asked @ np.array([call, operations, moved]) - times) / np.maximum(times, _typical(times))
    return Reach(
        kind=kind,
        arithmetic=arithmetic,
        compute=float(f"{1 / operations:.4g}") if operations > 0 else None,
        bandwidth=float(f"{1 / moved:.4g}") if moved > 0 else None,
        call_us=round(float(call), 3),
        layers=len(rows),
        error=round(float(np.median(off)), 4),
    )


def _robust(asked: NDArray[np.float64], times: NDArray[np.float64]) -> tuple[float, float, float]:
    """Factors of the three columns, none below zero: relative errors, layers far off counting less (Huber 1964)."""
    scale = np.maximum(times, _typical(times))
    weight = 1 / scale
    factors = _not_negative(asked * weight[:, None], times * weight)
    if (times == 0).mean() <= FUSED:
        for _ in range(ROUNDS):
            off = np.abs(asked @ factors - times) / scale
            bend = max(1.345 * 1.4826 * float(np.median(off)), 0.02)
            weight = np.sqrt(np.minimum(1.0, bend / np.maximum(off, 1e-12))) / scale
            factors = _not_negative(asked * weight[:, None], times * weight)
    return float(factors[0]), float(factors[1]), float(factors[2])


def _typical(times: NDArray[np.float64]) -> float:
    """Half of a layer's usual time, below which errors count as if it took so long."""
    return max(0.5 * float(np.mean(times)), 1e-3)


def _not_negative(matrix: NDArray[np.float64], wanted: NDArray[np.float64]) -> NDArray[np.float64]:
    """Least squares with no factor below zero; with three columns all sets of them can be tried."""
    best, least = np.zeros(3), float(wanted @ wanted)
    for count in (1, 2, 3):
        for columns in combinations(range(3), count):
            found = np.linalg.lstsq(matrix[:, columns], wanted, rcond=None)[0]
            left = matrix[:, columns] @ found - wanted
            if (found >= 0).all() and float(left @ left) < least:
                best, least = np.zeros(3), float(left @ left)
                best[list(columns)] = found
    return best
