"""Which forms of a network a device can run: every engine of its profile in every precision that works there.

The order is the order of preference: engines as asked for, precisions as the profile has them, and the portable int8
before NNCF's, since one graph for all engines is one graph to prove.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import msgspec

from ...devices.profile import Profile, options_for
from ...runtime.engine import engine_of
from ...runtime.errors import FoveolaError
from ...runtime.manifest import Arithmetic, EngineName, EngineOptions, OpenVinoOptions, TensorRtOptions

Quantiser = Literal["none", "portable", "nncf", "weights"]


class Candidate(msgspec.Struct, frozen=True, kw_only=True):
    """One form of the network on one engine, not yet written.

    Args:
        options: as the bundle's manifest would have them.
        quantiser: what made the integers; `none` for a float form, `weights` for one whose weights alone are bytes.
    """

    options: EngineOptions
    quantiser: Quantiser = "none"

    @property
    def engine(self) -> EngineName:
        """The engine's name."""
        return engine_of(self.options)

    @property
    def arithmetic(self) -> Arithmetic:
        """Of the layers."""
        return self.options.arithmetic

    @property
    def name(self) -> str:
        """`openvino int8 nncf`: how tables and folders name it."""
        maker = "" if self.quantiser in ("none", "portable") else f" {self.quantiser}"
        return f"{self.engine} {self.arithmetic}{maker}"

    @property
    def target(self) -> Literal["cpu", "gpu", "npu"]:
        """The kind of processor that it runs on."""
        if isinstance(self.options, TensorRtOptions):
            return "gpu"
        plugin = self.options.plugin if isinstance(self.options, OpenVinoOptions) else "CPU"
        return {"CPU": "cpu", "GPU": "gpu", "NPU": "npu"}[plugin]  # type: ignore[return-value]


def candidates(
    device: Profile,
    engines: Sequence[EngineName],
    *,
    precisions: Sequence[Arithmetic] = (),
    quantised: bool,
    nncf: bool,
    weight_only: bool = False,
) -> tuple[Candidate, ...]:
    """List the forms to write, in order of preference.

    Args:
        device: the profile.
        engines: which of its engines, the preferred first; none: all.
        precisions: which of their precisions; none: all.
        quantised: whether there is an int8 graph.
        nncf: whether NNCF's int8 is a candidate too.
        weight_only: whether float32 with weights as bytes is one, where the device computes float32.

    Raises:
        FoveolaError: an engine that the device has not, or nothing that it could run.
    """
    wanted = tuple(engines) or tuple(one.engine for one in device.engines)
    settings = {engine_of(one): one for one in options_for(device, wanted)}
    offered = {one.engine: one.precisions for one in device.engines}
    found: list[Candidate] = []
    for engine in wanted:
        for precision in offered[engine]:
            if (precisions and precision not in precisions) or (precision == "int8" and not quantised):
                continue
            found += _of(settings[engine], precision, nncf=nncf)
            if weight_only and precision == "float32" and engine != "tensorrt":
                found += [msgspec.structs.replace(one, quantiser="weights") for one in found[-1:]]
    absent = [engine for engine in wanted if engine not in {one.engine for one in found}]
    if absent:
        offers = "; ".join(f"{engine}: {', '.join(offered[engine])}" for engine in absent)
        least = "quantise the student first" if not quantised else "name another precision"
        raise FoveolaError(f"device {device.id}", f"nothing to write for {', '.join(absent)}", f"{least} ({offers})")
    return tuple(found)


def _of(settings: EngineOptions, precision: Arithmetic, *, nncf: bool) -> list[Candidate]:
    options = msgspec.structs.replace(settings, arithmetic=precision)
    if not isinstance(options, OpenVinoOptions):
        return [Candidate(options=options, quantiser="portable" if precision == "int8" else "none")]
    hint: Literal["f32", "f16"] = "f16" if precision == "float16" else "f32"
    options = msgspec.structs.replace(options, inference_precision=hint)
    if precision != "int8":
        return [Candidate(options=options)]
    portable = Candidate(options=options, quantiser="portable")
    own = Candidate(options=msgspec.structs.replace(options, quantiser="nncf"), quantiser="nncf")
    return [portable, own] if nncf else [portable]
