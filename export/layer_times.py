"""How long each layer of a graph takes in an engine on this machine, by the engine's own profile.

- Engines fuse layers: a kernel's time goes to the layer that it is named for, or to the one whose activation or
  addition it is named for; what was fused into it has no time of its own.
- A conversion between integers and float that has a kernel of its own goes to the operation that asks for it.
- What an engine does beside the network (changes of layout) is told apart.
- The engine is warm; every layer's time is the mean of the middle half of its runs, since a profile counts whole
  microseconds. The whole answer is timed without a profile.

    times = layer_times(path, OnnxRuntimeOptions(arithmetic="int8"), tensor)
    times.layers["conv_12"], times.own_ms, times.whole_ms
"""

from __future__ import annotations

import json
import re
import tempfile
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import GraphProto, NodeProto

from ..runtime.engine import INPUT, open_session
from ..runtime.errors import FoveolaError
from ..runtime.manifest import EngineName, EngineOptions, OnnxRuntimeOptions, OpenVinoOptions
from ..runtime.measure import latency
from ..runtime.offline import forbid_telemetry
from .openvino_ir import read_model
from .placement import LAYERS, RECTIFIERS

RUNS = 25
WARM = 5
QUANTISERS = frozenset({"QuantizeLinear", "DequantizeLinear"})
LAYOUTS = frozenset({"ReorderInput", "ReorderOutput", "Reorder"})
FREE = RECTIFIERS | {"Cast", "Flatten", "Identity", "Reshape"}
LEAST_MS = 0.0005  # half of a tick of OpenVINO's clock, which tells whole microseconds
OWN_KERNEL = (
    *("Convolution", "GroupConvolution", "ConvolutionBackpropData", "GroupConvolutionBackpropData", "Deconvolution"),
    *("FullyConnected", "MatMul"),
)
# What ONNX Runtime and OpenVINO add to the names of what they have made of a node or its tensor.
_ADDED = re.compile(r"(_token_\d+|_nchwc|/WithoutBiases|/fq_\w+|\.quantize|\.dequantize|\.quantized|\.dequantized)$")

Times = dict[str, list[float]]


class LayerTimes(msgspec.Struct, frozen=True, kw_only=True):
    """The times of one graph in one engine, milliseconds.

    Args:
        engine: that ran it.
        version: of the engine.
        threads: that it had.
        runs: profiled answers.
        layers: time of each node that has a kernel of its own, by its name in the graph.
        own_ms: the engine's own work between them.
        whole_ms: median of an answer, without a profile.
    """

    engine: EngineName
    version: str
    threads: int
    runs: int
    layers: dict[str, float]
    own_ms: float
    whole_ms: float


def layer_times(graph: Path, options: EngineOptions, tensor: NDArray[np.float32], *, runs: int = RUNS) -> LayerTimes:
    """Time every layer of a graph on this machine's processor.

    Args:
        graph: float or QDQ ONNX graph.
        options: engine and threads; the graph's name in them counts for nothing.
        tensor: one input (1, C, H, W).
        runs: answers that are profiled, and as many that are timed without a profile.

    Raises:
        FoveolaError: the engine has no profile by layers, or refuses the graph.
    """
    profile = _PROFILES.get(type(options))
    if profile is None:
        raise FoveolaError(type(options).__name__, "tells no times of layers here", "take onnxruntime or openvino")
    engine, version, kernels, whole = profile(graph, options, tensor, runs)
    model = onnx.load(graph, load_external_data=False)
    layers, own = _attributed(kernels, model.graph)
    threads = options.threads if isinstance(options, OnnxRuntimeOptions | OpenVinoOptions) else 1
    return LayerTimes(
        engine=engine, version=version, threads=threads, runs=runs, layers=layers, own_ms=own, whole_ms=whole
    )


class _Kernel(msgspec.Struct, frozen=True):
    """One kernel that the engine runs: all names by which it may be known, and its time."""

    names: tuple[str, ...]
    operator: str
    ms: float


_Profiled = tuple[EngineName, str, list[_Kernel], float]


def _onnxruntime(graph: Path, options: EngineOptions, tensor: NDArray[np.float32], runs: int) -> _Profiled:
    forbid_telemetry()
    import onnxruntime

    assert isinstance(options, OnnxRuntimeOptions)
    plain = open_session(options, {options.graph: graph.read_bytes()})  # refuses what cannot be opened
    whole = latency(lambda: plain.run(tensor), runs=runs, warmup=WARM).median_ms
    chosen = onnxruntime.SessionOptions()
    chosen.intra_op_num_threads, chosen.inter_op_num_threads, chosen.log_severity_level = options.threads, 1, 3
    chosen.add_session_config_entry("session.intra_op.allow_spinning", "1" if options.spinning else "0")
    with tempfile.TemporaryDirectory() as scratch:
        chosen.enable_profiling, chosen.profile_file_prefix = True, f"{scratch}/profile"
        session: Any = onnxruntime.InferenceSession(graph.read_bytes(), chosen, providers=["CPUExecutionProvider"])
        for _ in range(WARM + runs):
            session.run(None, {INPUT: tensor})
        events = json.loads(Path(session.end_profiling()).read_text(encoding="utf-8"))
    found: Times = defaultdict(list)
    operators: dict[str, str] = {}
    for event in events:
        if event.get("cat") == "Node" and event["name"].endswith("_kernel_time"):
            # Nodes that the engine has made may have no name; their number tells them apart.
            key = f"{event['name'].removesuffix('_kernel_time')}\n{event['args'].get('node_index', '')}"
            found[key].append(event["dur"] / 1e3)
            operators[key] = event["args"].get("op_name", "")
    kernels = [_Kernel((key.partition("\n")[0],), operators[key], _middle(ms[WARM:])) for key, ms in found.items()]
    return "onnxruntime", onnxruntime.__version__, kernels, whole


def _openvino(graph: Path, options: EngineOptions, tensor: NDArray[np.float32], runs: int) -> _Profiled:
    assert isinstance(options, OpenVinoOptions)
    model = read_model(graph)
    import openvino

    settings: dict[str, object] = {
        "INFERENCE_PRECISION_HINT": options.inference_precision,
        "PERFORMANCE_HINT": "LATENCY",
        "NUM_STREAMS": 1,
        "INFERENCE_NUM_THREADS": options.threads,
        "CACHE_DIR": "",
    }
    core = openvino.Core()
    try:
        plain = core.compile_model(model, "CPU", settings).create_infer_request()
        compiled = core.compile_model(model, "CPU", {**settings, "PERF_COUNT": True})
    except RuntimeError as error:
        reason = " ".join(str(error).split())[:300]
        raise FoveolaError(graph.name, f"openvino does not open it ({reason})", "check the graph") from None
    whole = latency(lambda: plain.infer({INPUT: tensor}), runs=runs, warmup=WARM).median_ms
    made_of = {op.get_friendly_name(): _layers_named(op) for op in compiled.get_runtime_model().get_ops()}
    request, found = compiled.create_infer_request(), defaultdict[str, list[float]](list)
    operators: dict[str, str] = {}
    for number in range(WARM + runs):
        request.infer({INPUT: tensor})
        for kernel in request.get_profiling_info() if number >= WARM else ():
            # What took no whole tick is told as not run, as is what was fused; a layer's own kernel always runs.
            least = LEAST_MS if kernel.node_type in OWN_KERNEL else 0.0
            found[kernel.node_name].append(max(kernel.real_time.total_seconds() * 1e3, least))
            operators[kernel.node_name] = kernel.node_type
    kernels = [
        _Kernel((name, *made_of.get(name, ())), operators[name], _middle(ms)) for name, ms in found.items() if any(ms)
    ]
    return "openvino", metadata.version("openvino"), kernels, whole


def _layers_named(operation: Any) -> tuple[str, ...]:
    """The names of the layers that OpenVINO has fused into an operation."""
    info = operation.get_rt_info()
    return tuple(info["originalLayersNames"].astype(str).split(",")) if "originalLayersNames" in info else ()


_PROFILES: dict[type, Callable[[Path, EngineOptions, NDArray[np.float32], int], _Profiled]] = {
    OnnxRuntimeOptions: _onnxruntime,
    OpenVinoOptions: _openvino,
}


def _middle(ms: Iterable[float]) -> float:
    """Mean of the middle half: as steady as the median, and finer than the whole microseconds of a profile."""
    times = np.sort(np.fromiter(ms, float))
    quarter = len(times) // 4
    return float(times[quarter : len(times) - quarter].mean())


def _attributed(kernels: Iterable[_Kernel], graph: GraphProto) -> tuple[dict[str, float], float]:
    """Times by node, and the sum of what belongs to none."""
    names = _Names(graph)
    named = [(names.nodes_of(kernel.names), kernel) for kernel in kernels]
    taken = {nodes[0].name for nodes, _ in named if nodes and nodes[0].op_type in LAYERS}
    layers: dict[str, float] = {}
    own = 0.0
    for nodes, kernel in named:
        node = next((one for one in nodes if one.op_type in LAYERS), nodes[0] if nodes else None)
        if node is None or kernel.operator in LAYOUTS:
            own += kernel.ms
            continue
        if node.op_type not in LAYERS and _computes(kernel.operator):
            node = names.layer_before(node, taken) or node  # a kernel named for what was fused into the layer
            taken.add(node.name)
        layers[node.name] = layers.get(node.name, 0.0) + kernel.ms
    return layers, own


def _computes(operator: str) -> bool:
    """Whether a kernel is a convolution or matrix product, by any engine's name for it."""
    return any(word in operator for word in ("Conv", "Gemm", "MatMul", "FullyConnected"))


class _Names:
    """From the names of an engine's kernels to the nodes of the graph."""

    def __init__(self, graph: GraphProto) -> None:
        self.nodes: Mapping[str, NodeProto] = {
            node.name: node for node in graph.node if node.op_type not in QUANTISERS and node.name
        }
        self.makers = {name: node for node in graph.node for name in node.output}
        self.readers: dict[str, list[NodeProto]] = {}
        for node in graph.node:
            for name in node.input:
                self.readers.setdefault(name, []).append(node)

    def nodes_of(self, names: Iterable[str]) -> list[NodeProto]:
        """The nodes that some names mean, in their order; quantisers are none."""
        found: dict[str, NodeProto] = {}
        for name in names:
            node = self._node(name)
            if node is not None:
                found.setdefault(node.name, node)
        return list(found.values())

    def _node(self, name: str) -> NodeProto | None:
        while True:
            if name in self.nodes:
                return self._costly(self.nodes[name])
            if name in self.makers and self.makers[name].op_type not in QUANTISERS:
                return self._costly(self.makers[name])
            if name.endswith(".dequantize"):  # a conversion on its own is paid for by who reads floats there
                return next(iter(self.readers.get(f"{name}d", ())), None)
            shorter = _ADDED.sub("", name)
            if shorter == name:
                return None
            name = shorter

    def _costly(self, node: NodeProto) -> NodeProto:
        """The node itself, or the one before it where it is no work of its own (an activation, a new shape)."""
        while node.op_type in FREE:
            before = next((self.makers[name] for name in node.input if name in self.makers), None)
            while before is not None and before.op_type in QUANTISERS:
                before = self.makers.get(before.input[0])
            if before is None:
                return node
            node = before
        return node

    def layer_before(self, node: NodeProto, taken: set[str]) -> NodeProto | None:
        """The nearest layer on the way back whose kernel has no name of its own."""
        waiting, seen = [node], {node.name}
        while waiting:
            one = waiting.pop(0)
            if one.op_type in LAYERS:
                if one.name not in taken:
                    return one
                continue
            for name in one.input:
                maker = self.makers.get(name)
                if maker is not None and maker.name not in seen:
                    seen.add(maker.name)
                    waiting.append(maker)
        return None
