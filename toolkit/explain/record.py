"""What `foveola explain` finds out, and `layers.json`, which an export keeps of it.

A layer is a node of the exported graph that costs something of its own: activations, new shapes and quantisers are told
with the layer that they belong to. A part is a stage of the backbone, the decoder, or one task's head.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import msgspec

from ...devices.roofline import Prediction
from ...runtime.manifest import Arithmetic, EngineName

LAYERS_FILE = "layers.json"
PartKind = Literal["input", "backbone", "decoder", "head"]


class Layer(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One layer; None where something was not measured or does not apply.

    Args:
        node: its name in the graph, as `float_layers` takes it.
        operator: of ONNX.
        module: of the network in torch; empty where it belongs to none.
        part: name of its part.
        weighted: whether it is a convolution or matrix product with weights.
        parameters: of its own.
        macs: multiply-adds of one answer.
        arithmetic: in which it computes in the graph that ships.
        ms: its time in that graph; 0 where another layer's kernel does its work.
        float_ms: its time in the float graph.
        sqnr_db: noise of its result with that of all layers before, decibels.
        own_db: noise that it brings itself.
        clipped: share of its 16-bit sums that real images clip on a processor without VNNI.
        proved: whether no input can clip one.
        kept_float: why it was left in float; empty where it was not.
        channels: of its result.
        pruned_from: channels of its result before pruning.
        slacks: of each task where this layer alone is quantised; empty where that was not measured.
    """

    node: str
    operator: str
    module: str
    part: str
    weighted: bool
    parameters: int
    macs: int
    arithmetic: Arithmetic
    ms: float | None = None
    float_ms: float | None = None
    sqnr_db: float | None = None
    own_db: float | None = None
    clipped: float | None = None
    proved: bool | None = None
    kept_float: str = ""
    channels: int = 0
    pruned_from: int | None = None
    slacks: dict[str, float] = {}


class Part(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One part of the network, summed over its layers.

    Args:
        name: `backbone blocks.2`, `decoder`, `head findings`.
        kind: what it is.
        layers: with weights.
        float_layers: of these, left in float.
        parameters: of the part.
        macs: of one answer.
        ms: in the graph that ships.
        float_ms: in the float graph.
        least_db: the lowest SQNR of its layers.
        slacks: of each task where this part alone is quantised: 1 nothing lost, 0 the whole margin; empty where it was
            not measured.
    """

    name: str
    kind: PartKind
    layers: int
    float_layers: int
    parameters: int
    macs: int
    ms: float | None = None
    float_ms: float | None = None
    least_db: float | None = None
    slacks: dict[str, float] = {}


class Timed(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """How the times were measured.

    Args:
        engine: that ran the graphs.
        version: of it.
        threads: that it had.
        machine: processor, in words.
        runs: of each graph.
        ms: of a whole answer of the graph that ships.
        float_ms: of the float graph.
        own_ms: of the engine's own work between the layers, in the graph that ships.
    """

    engine: EngineName
    version: str
    threads: int
    machine: str
    runs: int
    ms: float
    float_ms: float | None
    own_ms: float


class Foreseen(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A prediction for a device, by the roofline with the shares that layers reach on this machine.

    Args:
        device: id of its profile.
        prediction: of the graph that ships; None where the profile knows no peak or no bandwidth.
        float_prediction: of the float graph.
        measured_on: machine whose layers gave the shares.
        here_ms: the same prediction with the peaks of this machine, beside which the measured time can be held.
    """

    device: str
    prediction: Prediction | None
    float_prediction: Prediction | None
    measured_on: str
    here_ms: float | None


class Explained(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """All that was found out about a student.

    Args:
        format: of this file.
        name: of the student, as it was asked for.
        step: the stage that made it.
        backbone: of its architecture.
        input: height, width and channels.
        tasks: by name.
        quantised: whether there is an int8 graph; if not, times and arithmetic are the float graph's.
        layers: in graph order.
        parts: in graph order.
        timed: how; None where no engine ran here.
        foreseen: for a device that was named.
        sqnr_images: on which the noise was measured; 0 where it was not.
        slack_images: on which sensitivities were measured, of layers or of parts.
        merged: whether blocks with branches were merged.
        pruning: what pruning took, in words; empty where it took nothing.
        folded: batch normalisations that were folded into layers for good.
        notes: what could not be found out, and what a reader must know.
    """

    format: Literal[1] = 1
    name: str
    step: str
    backbone: str
    input: tuple[int, int, int]
    tasks: tuple[str, ...]
    quantised: bool
    layers: tuple[Layer, ...]
    parts: tuple[Part, ...]
    timed: Timed | None = None
    foreseen: Foreseen | None = None
    sqnr_images: int = 0
    slack_images: int = 0
    merged: bool = False
    folded: int = 0
    pruning: str = ""
    notes: tuple[str, ...] = ()

    @property
    def parameters(self) -> int:
        """Of the whole graph."""
        return sum(one.parameters for one in self.layers)

    @property
    def macs(self) -> int:
        """Of one answer."""
        return sum(one.macs for one in self.layers)

    @property
    def kept(self) -> tuple[Layer, ...]:
        """Layers that were left in float, in graph order."""
        return tuple(one for one in self.layers if one.kept_float)

    @property
    def pruned(self) -> tuple[Layer, ...]:
        """Layers that pruning has made narrower, in graph order."""
        return tuple(one for one in self.layers if one.pruned_from is not None)


def write_explained(found: Explained, path: Path) -> None:
    """Write `layers.json`; `read_explained` gives the same back."""
    path.write_bytes(msgspec.json.format(msgspec.json.encode(found), indent=1) + b"\n")


def read_explained(path: Path) -> Explained | None:
    """Read `layers.json`; None where there is none, or one of another version."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=Explained)
    except (OSError, msgspec.DecodeError):
        return None
