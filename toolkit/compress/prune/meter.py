"""How long a network takes once it is exported: timed in an engine in turn with the unpruned one, or predicted.

- The graph is the one that would ship: branches merged, int8 with the device's weight bits where that is asked for.
- Both networks are timed in the same rounds, so that a machine that slows down slows both.
- int8 ranges come from a few training images; they change no time.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import msgspec
import numpy as np
from numpy.typing import NDArray

from ....devices.doctor import at_hand, examine
from ....devices.profile import Profile
from ....devices.roofline import LayerWork, peak_gops, predict
from ....export.graph_facts import layer_work
from ....export.onnx_graph import export_onnx
from ....export.quantize import calibrate_graph, write_int8
from ....runtime.engine import Session, open_session, runs_anywhere
from ....runtime.errors import FoveolaError, MissingPartError
from ....runtime.manifest import Arithmetic, EngineName
from ...models.dense_teacher import as_graph
from ...models.network import Network
from ...models.outputs import graph_outputs
from ...variants.candidates import Candidate, candidates
from ...variants.timing import ROUNDS, measure
from ...variants.write import Sources, write_variant
from .record import Reading

Time = Literal["auto", "measure", "roofline"]
QUICK = 7  # rounds of a timing inside the search


class Clock(msgspec.Struct, frozen=True, kw_only=True):
    """The form of the network that is timed, and how."""

    candidate: Candidate
    measured: bool


def choose_clock(device: Profile, arithmetic: Arithmetic, engine: EngineName | Literal[""], time: Time) -> Clock:
    """The form by which pruning is judged: an engine of the device in one arithmetic, timed here or predicted.

    Args:
        device: the profile.
        arithmetic: of the layers.
        engine: one of the device's; empty: its first that has the arithmetic, and runs here where it is to be timed.
        time: `auto` measures where this machine is such a device, else predicts.

    Raises:
        FoveolaError: the device has no such engine, or the engine no such arithmetic.
        MissingPartError: it is to be timed here, but does not run here.
    """
    wanted: tuple[EngineName, ...] = (engine,) if engine else tuple(one.engine for one in device.engines)
    able: list[EngineName] = [one for one in wanted if _has(device, one, arithmetic)]
    if not able:
        offers = "; ".join(f"{one.engine}: {', '.join(one.precisions)}" for one in device.engines)
        place = f"device {device.id}"
        raise FoveolaError(place, f"has no {arithmetic} on {engine or 'any engine'}", f"its engines: {offers}")
    forms = [candidates(device, (one,), precisions=(arithmetic,), quantised=True, nncf=False)[0] for one in able]
    here = [one for one in forms if runs_anywhere(one.options)]
    if time == "roofline" or (time == "auto" and not (here and at_hand(examine(), device))):
        return Clock(candidate=forms[0], measured=False)
    if not here:
        raise MissingPartError(f"time: {time}", f"{forms[0].engine} does not run here", "take time: roofline")
    return Clock(candidate=here[0], measured=True)


def require_time(clock: Clock, device: Profile) -> None:
    """Refuse a clock that would have to predict from a profile without peaks.

    Raises:
        FoveolaError: nothing is known to predict from.
    """
    one = clock.candidate
    known = device.memory.bandwidth_gb_s is not None and peak_gops(device, one.arithmetic, one.target) is not None
    if not clock.measured and not known:
        raise _unknown(clock, device)


def _unknown(clock: Clock, device: Profile) -> FoveolaError:
    fault = f"{device.id} knows no peak or no bandwidth for {clock.candidate.arithmetic}"
    return FoveolaError("time: roofline", fault, "take time: measure, or ratio instead")


def _has(device: Profile, engine: EngineName, arithmetic: Arithmetic) -> bool:
    own = device.engine(engine)
    return own is not None and arithmetic in own.precisions


class Meter:
    """Times networks against the one that pruning began with.

    Args:
        unpruned: that network.
        clock: the form that is timed.
        device: its opset, weight bits and, for predictions, its roofline.
        images: a few prepared ones (N, C, H, W), for ranges and as input.
    """

    def __init__(self, unpruned: Network, clock: Clock, device: Profile, images: NDArray[np.float32]) -> None:
        self.unpruned, self.clock, self.device, self.images = unpruned, clock, device, images
        self.machine = (examine().model or "this machine") if clock.measured else device.id
        self.before = self._session(unpruned) if clock.measured else None
        self.before_ms = 0.0 if clock.measured else self._predicted(unpruned)

    def read(self, network: Network, *, rounds: int = ROUNDS) -> Reading:
        """Time a network, or predict its time."""
        if self.before is None:
            return self._reading(self.before_ms, self._predicted(network))
        found = measure({"before": self.before, "after": self._session(network)}, self.images[:1], rounds=rounds)
        before, after = found["before"].ms, found["after"].ms
        assert before is not None
        assert after is not None
        return self._reading(before, after)

    def _reading(self, before_ms: float, after_ms: float) -> Reading:
        return Reading(
            before_ms=before_ms,
            after_ms=after_ms,
            source="measured" if self.clock.measured else "predicted",
            engine=self.clock.candidate.engine,
            arithmetic=self.clock.candidate.arithmetic,
            machine=self.machine,
        )

    def _session(self, network: Network) -> Session:
        with tempfile.TemporaryDirectory() as scratch:
            sources = self._sources(network, Path(scratch))
            form = Path(scratch) / "form"
            form.mkdir()
            return open_session(self.clock.candidate.options, write_variant(self.clock.candidate, sources, form))

    def _predicted(self, network: Network) -> float:
        with tempfile.TemporaryDirectory() as scratch:
            sources = self._sources(network, Path(scratch))
            layers: Sequence[LayerWork] = layer_work(sources.int8_graph or sources.float_graph)
        found = predict(layers, self.device, target=self.clock.candidate.target)
        if found is None:
            raise _unknown(self.clock, self.device)
        return found.ms

    def _sources(self, network: Network, folder: Path) -> Sources:
        """The float graph and, where integers are timed, the int8 one."""
        graph, export = folder / "float.onnx", self.device.export
        export_onnx(as_graph(network), network.input, graph_outputs(network), graph, opset=export.opset)
        int8 = None
        if self.clock.candidate.arithmetic == "int8":
            int8 = folder / "int8.onnx"
            each = [np.ascontiguousarray(self.images[i : i + 1]) for i in range(len(self.images))]
            write_int8(calibrate_graph(graph, each, min_images=1), int8, weight_bits=export.weight_bits)
        return Sources(
            float_graph=graph,
            int8_graph=int8,
            images=list,
            input_type="float32",
            tensorrt="",
            weight_bits=export.weight_bits,
            origins=dict,
        )
