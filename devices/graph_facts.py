"""What is known of one graph before it meets a device: plain facts, no ONNX and no engine.

`export.graph_facts` reads them from a file; `devices.rules` judges them against a profile. A fact that is not known
stays at its default and is not judged.

    facts = GraphFacts(artefact="model.onnx", engine="onnxruntime", arithmetic="int8", opset=20, nodes=nodes,
                       weight_bits=8, activations="unsigned")
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import msgspec

from ..runtime.manifest import Arithmetic, EngineName

Sign = Literal["signed", "unsigned"]
# Types of numbers that a graph holds, as the ONNX specification spells them, in small letters.
TensorType = Literal[
    "float32", "float16", "bfloat16", "float64", "float8", "float4", "int4", "uint4", "int8", "uint8", "int16",
    "uint16", "int32", "uint32", "int64", "uint64", "bool", "string", "complex",
]  # fmt: skip


class Node(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One operator of a graph."""

    name: str
    operator: str  # ONNX operator, with its domain unless it is ONNX's own: "Conv", "com.microsoft.QGemm"
    origin: str = ""  # path of the module that it comes from ("backbone.blocks.3.act"); empty: not known
    shapes: tuple[tuple[int, ...], ...] = ()  # of its weights (initialisers), for rules about channels


class GraphFacts(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One artefact as an engine would get it.

    Args:
        artefact: how messages name it: a member of a bundle or a file.
        engine: the engine that it is for.
        engine_version: its version, where it is known.
        arithmetic: of its layers.
        nodes: all operators, in topological order, with those of inner graphs.
        opset: of ONNX's own operators; None where there is none (OpenVINO IR).
        open_axes: axes of inputs and outputs that have no fixed length, as `image[0]`.
        data_dependent: operators whose result's shape depends on the data (NonZero, NonMaxSuppression ...), by name.
        types: types of numbers that its tensors have.
        weight_bits: bits that the widest int8 weights use (7 or 8); None: no int8 weights.
        activations: whether quantised activations are uint8 or int8; None: there are none.
        weights: whether quantised weights are int8 (signed) or uint8; None: there are none.
        plugin: OpenVINO's plugin.
        inference_precision: the hint given to OpenVINO; None: none is given, so the engine chooses.
        target: the kind of accelerator that the artefact is to run on, `cpu` where none.
        saturation_safe: the lint has proved that no 16-bit sum overflows, whatever the weights' bits.
    """

    artefact: str
    engine: EngineName
    engine_version: str = ""
    arithmetic: Arithmetic
    nodes: tuple[Node, ...] = ()
    opset: int | None = None
    open_axes: tuple[str, ...] = ()
    data_dependent: tuple[str, ...] = ()
    types: tuple[TensorType, ...] = ()
    weight_bits: Literal[4, 7, 8] | None = None
    activations: Sign | None = None
    weights: Sign | None = None
    plugin: Literal["CPU", "GPU", "NPU"] = "CPU"
    inference_precision: Literal["f32", "f16"] | None = None
    target: Literal["cpu", "gpu", "npu", "dla", "dpu"] = "cpu"
    saturation_safe: bool = False

    @property
    def static(self) -> bool:
        """Whether every shape is known before the graph runs."""
        return not self.open_axes and not self.data_dependent

    def named(self, operators: Sequence[str]) -> tuple[Node, ...]:
        """The nodes with one of some operators."""
        wanted = frozenset(operators)
        return tuple(node for node in self.nodes if node.operator in wanted)
