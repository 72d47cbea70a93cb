"""How long a graph would take on a device that is not at hand: the roofline model (Williams et al., CACM 2009).

Each layer takes the longer of two times: its operations over the device's peak in the layer's arithmetic, and its bytes
over the memory's bandwidth; and a fixed time besides for being called. Layers follow one another. The profile's derates
turn peaks into what such devices reach. The result is a prediction and is always named one.

    predict(layers, load_profile("jetson-orin-nano-8gb"), target="gpu").ms

Where layers have been measured somewhere, `efficiency.predict_calibrated` says more: what share of the peaks each kind
of layer reaches, and what a call costs.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import msgspec

from ..runtime.manifest import Arithmetic
from .parts import Precision
from .profile import Profile

CALL_US = 3.0  # to start one layer on a CPU; microseconds, of the order that ONNX Runtime's own profile shows
LAUNCH_US = 6.0  # to start one kernel on a GPU
# Where an arithmetic has no peak of its own, the layer runs in the next wider numbers.
WIDER: dict[Arithmetic, tuple[Arithmetic, ...]] = {
    "int8": ("int8", "float16", "float32"),
    "float16": ("float16", "float32"),
    "float32": ("float32",),
}


class LayerWork(msgspec.Struct, frozen=True, kw_only=True):
    """What one layer asks of the machine."""

    name: str
    operator: str
    arithmetic: Arithmetic
    macs: int  # multiply-adds; one is two operations
    bytes_moved: int  # weights and activations, in and out
    channels: tuple[int, int] = (0, 0)  # in and out, of a dense layer
    kernel: int = 1  # cells of a convolution's kernel


class Prediction(msgspec.Struct, frozen=True, kw_only=True):
    """A time by the roofline, batch 1."""

    ms: float
    compute_bound: int  # layers whose operations take longer than their bytes
    layers: int
    peak_gops: float  # of the arithmetic that most operations have
    bandwidth_gb_s: float
    source: Literal["profile", "calibrated"] = "profile"  # `calibrated`: layers of other machines were measured
    error: float | None = None  # calibrated: median relative error on networks that it had not seen


def peak_gops(profile: Profile, arithmetic: Arithmetic, target: str = "cpu") -> float | None:
    """Peak of a device in billions of operations a second, before any derate; None where the profile knows none.

    Args:
        profile: the device.
        arithmetic: of the layers; what has no peak of its own runs at that of the next wider numbers.
        target: `cpu`, or the name or kind of an accelerator.
    """
    peaks = _peaks(profile, target)
    return next((peaks[name] for name in WIDER[arithmetic] if name in peaks), None)


def predict(
    layers: Sequence[LayerWork],
    profile: Profile,
    *,
    target: Literal["cpu", "gpu", "npu", "dla", "dpu"] = "cpu",
) -> Prediction | None:
    """Predict the time of a graph; None where the profile knows no peak or no bandwidth.

    Args:
        layers: what the graph asks, layer by layer.
        profile: the device.
        target: where the layers run.
    """
    bandwidth = profile.memory.bandwidth_gb_s
    peaks = {layer.arithmetic: peak_gops(profile, layer.arithmetic, target) for layer in layers}
    if bandwidth is None or not layers or any(peak is None for peak in peaks.values()):
        return None
    compute, memory = profile.derate.compute or 1.0, profile.derate.bandwidth or 1.0
    call_s = (CALL_US if target == "cpu" else LAUNCH_US) * 1e-6
    total, bound = 0.0, 0
    for layer in layers:
        peak = peaks[layer.arithmetic]
        assert peak is not None
        operations_s = 2 * layer.macs / (peak * 1e9 * compute)
        bytes_s = layer.bytes_moved / (bandwidth * 1e9 * memory)
        bound += operations_s > bytes_s
        total += max(operations_s, bytes_s) + call_s
    heaviest = max(layers, key=lambda layer: layer.macs).arithmetic
    peak = peaks[heaviest]
    assert peak is not None
    return Prediction(ms=1e3 * total, compute_bound=bound, layers=len(layers), peak_gops=peak, bandwidth_gb_s=bandwidth)


def _peaks(profile: Profile, target: str) -> dict[Precision, float]:
    if target == "cpu":
        return dict(profile.cpu.peak_gops)
    accelerator = profile.accelerator(target)
    return {name: 1e3 * tops for name, tops in accelerator.peak_tops.items()} if accelerator else {}
