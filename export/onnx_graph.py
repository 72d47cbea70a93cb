"""A torch network as one self-contained ONNX file, the same bytes every time.

Rules:

- static shapes, batch 1, one input `image`, outputs named and ordered as the caller says;
- all weights inside the file (an `.onnx.data` beside it would be missed by a digest or a copy);
- no trace of the machine: the exporter's stack traces, file paths and scopes are removed, and nodes and values are
  numbered in graph order, so that two processes with the same weights write equal bytes;
- the full checker of onnx has passed the file before it is written.

Which module of the network a node comes from is not in the file; `export_onnx` returns it, for messages:

    origins = export_onnx(network, spec, tensors, path, opset=20)
    origins["conv_12"]  # "backbone.blocks.2.0.dw_start.conv"
"""

from __future__ import annotations

import ast
import copy
import io
import logging
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stdout
from pathlib import Path

import onnx
import torch
from torch import Tensor, nn

from ..runtime.errors import FoveolaError
from ..runtime.manifest import InputSpec

INPUT = "image"
LEAST_OPSET = 18  # the exporter writes 18 and up; its converter gives up below without a word
WEIGHTED = frozenset({"Conv", "ConvTranspose", "Gemm", "MatMul"})  # operators whose second input is a layer's weight
SCOPES = "pkg.torch.onnx.name_scopes"  # the exporter's note at a node: module within module, the operation last

# Node name -> path of the module that it comes from. A node that is not in it belongs to no module but the whole.
Origins = Mapping[str, str]


class _Ordered(nn.Module):
    """The network with its dict of outputs as a tuple in the given order, as the exporter wants it."""

    def __init__(self, network: nn.Module, tensors: Sequence[str]) -> None:
        super().__init__()
        self.network = network
        self.tensors = tuple(tensors)

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        outputs: Mapping[str, Tensor] = self.network(image)
        return tuple(outputs[name] for name in self.tensors)


def export_onnx(network: nn.Module, spec: InputSpec, tensors: Sequence[str], path: Path, *, opset: int) -> Origins:
    """Write the network as ONNX; the network itself is left as it was.

    Args:
        network: maps float32 (1, C, H, W) in 0..1 to a dict of raw outputs by tensor name.
        spec: gives C, H and W.
        tensors: the outputs to export, in the order of the graph's outputs; others are dropped.
        path: the file to write.
        opset: of the device profile; the IR version is the lowest that knows it, so that older runtimes read the file.

    Returns:
        The module that each node comes from, by the node's name. `quantize_onnx` keeps the names of the nodes.

    Raises:
        FoveolaError: the network cannot be traced, or a shape is not static.
    """
    if opset < LEAST_OPSET:
        raise FoveolaError("export", f"opset {opset} is not supported", f"take opset {LEAST_OPSET} or newer")
    frozen = _Ordered(copy.deepcopy(network).cpu(), tensors).eval().requires_grad_(False)
    sample = torch.zeros(1, spec.channels, spec.height, spec.width)
    # The exporter names its own values after operators; an output called `view` would be a second one of that name.
    stand_ins = [f"output_of_task_{index}" for index in range(len(tensors))]
    with quiet():
        try:
            program = torch.onnx.export(
                frozen,
                (sample,),
                input_names=[INPUT],
                output_names=stand_ins,
                opset_version=opset,
                dynamo=True,
                external_data=False,
                verbose=False,
            )
        except torch.onnx.OnnxExporterError as error:
            reason = str(error.__cause__ or error).strip().splitlines()[0]
            raise FoveolaError(
                "export", f"the network cannot be traced: {reason}", "no branch or shape may depend on the pixels"
            ) from error
        if program is None:  # the signature of torch.onnx.export allows it; the dynamo exporter always returns one
            raise RuntimeError("the exporter returned nothing")
        model = program.model_proto
    modules = _modules(model.graph)
    tidy(model)
    _rename(model.graph, dict(zip(stand_ins, tensors, strict=True)))
    _require_opset(model, opset)
    _require_static(model, spec, tensors)
    onnx.checker.check_model(model, full_check=True)
    path.write_bytes(encode(model))
    return {node.name: module for node, module in zip(model.graph.node, modules, strict=True) if module}


def _modules(graph: onnx.GraphProto) -> list[str]:
    """Name the module that each node comes from, in the nodes' order; empty where the exporter left no word of it.

    A layer is named by its weight: the exporter notes the normalisation where it has folded one into the layer.
    """
    weights = {tensor.name for tensor in graph.initializer}
    modules = []
    for node in graph.node:
        weight = node.input[1] if len(node.input) > 1 else ""
        layer = node.op_type in WEIGHTED and weight in weights and weight.startswith("network.")
        path = weight.rpartition(".")[0] if layer else _scope(node)
        modules.append(path.removeprefix("network").removeprefix("."))
    return modules


def _scope(node: onnx.NodeProto) -> str:
    notes = [entry.value for entry in node.metadata_props if entry.key == SCOPES]
    scopes: list[str] = ast.literal_eval(notes[0]) if notes else []
    return scopes[-2] if len(scopes) > 1 else ""


def encode(model: onnx.ModelProto) -> bytes:
    """Serialise a graph, with map fields in a fixed order."""
    return bytes(model.SerializeToString(deterministic=True))


def tidy(model: onnx.ModelProto) -> None:
    """Remove in place what does not compute: documentation, metadata, intermediate shapes, unused opsets and names."""
    graph = model.graph
    if model.functions:
        raise RuntimeError(f"{len(model.functions)} local functions were left in the graph")
    for holder in (model, graph, *graph.node, *graph.input, *graph.output, *graph.initializer):
        holder.ClearField("doc_string")
        holder.ClearField("metadata_props")
    del graph.value_info[:]
    graph.name = "foveola"
    model.producer_name, model.producer_version, model.domain = "foveola", "", ""
    domains = {node.domain for node in graph.node}
    kept = [entry for entry in model.opset_import if entry.domain in domains]
    del model.opset_import[:]
    model.opset_import.extend(kept)
    model.ir_version = onnx.helper.find_min_ir_version_for(kept)
    _number_names(graph)


def _number_names(graph: onnx.GraphProto) -> None:
    """Name nodes `conv_12` and their outputs `conv_12.out`; the exporter's own names count its internal values.

    Weights keep their place in the network as their name; inputs and outputs of the graph keep theirs.
    """
    fixed = {value.name for value in (*graph.input, *graph.output)}
    new: dict[str, str] = {}
    for index, weight in enumerate(graph.initializer):
        place = weight.name.removeprefix("network.")
        new[weight.name] = place if "." in place else f"constant_{index}"
    for index, node in enumerate(graph.node):
        node.name = f"{node.op_type.lower()}_{index}"
        outputs = [name for name in node.output if name and name not in fixed]
        for position, name in enumerate(outputs):
            new[name] = f"{node.name}.out{position or ''}"
    if len(set(new.values()) | fixed) != len(new) + len(fixed):
        raise RuntimeError("two values of the graph would have the same name")
    for weight in graph.initializer:
        weight.name = new[weight.name]
    for node in graph.node:
        for names in (node.input, node.output):
            names[:] = [new.get(name, name) for name in names]


def _rename(graph: onnx.GraphProto, names: Mapping[str, str]) -> None:
    """Give values their final names; the values inside carry a dot or a number and cannot collide with a task's."""
    for node in graph.node:
        for used in (node.input, node.output):
            used[:] = [names.get(name, name) for name in used]
    for value in graph.output:
        value.name = names.get(value.name, value.name)


def _require_opset(model: onnx.ModelProto, opset: int) -> None:
    written = {entry.domain: entry.version for entry in model.opset_import}
    if written != {"": opset}:
        raise RuntimeError(f"opset {opset} was asked for, {written} came out")


def _require_static(model: onnx.ModelProto, spec: InputSpec, tensors: Sequence[str]) -> None:
    """Hold the graph's face against the contract: one input of the given shape, named outputs of fixed shape."""
    graph = model.graph
    shape = [dim.dim_value for dim in graph.input[0].type.tensor_type.shape.dim]
    if [value.name for value in graph.input] != [INPUT] or shape != [1, spec.channels, spec.height, spec.width]:
        raise RuntimeError(f"the graph's input is {[value.name for value in graph.input]} of shape {shape}")
    if [value.name for value in graph.output] != list(tensors):
        raise RuntimeError(f"the graph's outputs are {[value.name for value in graph.output]}, not {list(tensors)}")
    for value in graph.output:
        if not all(dim.HasField("dim_value") for dim in value.type.tensor_type.shape.dim):
            raise FoveolaError("export", f"the shape of output {value.name!r} depends on the image", "make it fixed")


@contextmanager
def quiet() -> Iterator[None]:
    """Keep a library's chatter off stdout, which belongs to `--json`, and its deprecations out of the log."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(), redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
