"""The engines: a validated graph from the bundle's bytes, opened with the manifest's settings and no others.

Laws:
- An engine is imported in the one function that opens it; importing this file loads none.
- Every setting that changes answers or times comes from the manifest or stands here as a constant; an engine's own
  default counts for nothing, and nothing is read from or written to a cache.
- What an engine says of its own settings after it has opened is held against the manifest; a session that runs
  otherwise is refused.
- The input is named `image`: (1, channels, height, width), float32 in 0..1 or uint16 in 0..65535.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from threading import Lock
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from .errors import FoveolaError, MissingPartError
from .manifest import EngineName, EngineOptions, InputType, OnnxRuntimeOptions, OpenVinoOptions, TensorRtOptions
from .offline import forbid_telemetry

INPUT = "image"
Tensor = NDArray[np.float32] | NDArray[np.uint16]
WORDS = 65535  # the uint16 that stands for 1.0
INSTALL: dict[EngineName, str] = {
    "onnxruntime": "pip install foveola",
    "openvino": "pip install 'foveola[openvino]'",
    "tensorrt": "pip install 'foveola[tensorrt]', or take the one that JetPack brings",
}
_NAMES: dict[type[EngineOptions], EngineName] = {
    OnnxRuntimeOptions: "onnxruntime",
    OpenVinoOptions: "openvino",
    TensorRtOptions: "tensorrt",
}


class Session(Protocol):
    """A graph that is ready to run. Several threads may call `run`."""

    @property
    def input_shape(self) -> tuple[int | str, ...]:
        """Shape of the input `image`; a name or -1 where the graph leaves an axis open."""
        ...

    @property
    def input_type(self) -> InputType:
        """Type of the input `image`."""
        ...

    @property
    def outputs(self) -> tuple[str, ...]:
        """Names of the graph's outputs."""
        ...

    def run(self, tensor: Tensor) -> dict[str, NDArray[np.float32]]:
        """Run the graph on one input (1, C, H, W), contiguous; the arrays returned are the caller's own.

        float32 in 0..1 and uint16 in 0..65535 are both taken and turned into the graph's type (see `as_input`).
        """
        ...


def as_input(tensor: Tensor, wanted: InputType) -> Tensor:
    """Turn an input into the graph's type: 0..1 as float32 is 0..65535 as uint16, rounded to the nearest.

    Words that become floats and words again are the same words.
    """
    if tensor.dtype == wanted:
        return tensor
    if wanted == "uint16":
        words: NDArray[np.uint16] = np.rint(tensor.astype(np.float64).clip(0, 1) * WORDS).astype(np.uint16)
        return words
    shares: NDArray[np.float32] = tensor.astype(np.float32)
    shares /= WORDS
    return shares


def engine_of(options: EngineOptions) -> EngineName:
    """Name the engine of some options."""
    return _NAMES[type(options)]


def is_installed(engine: EngineName) -> bool:
    """Tell whether an engine is there, without importing it."""
    return find_spec(engine) is not None


def runs_anywhere(options: EngineOptions) -> bool:
    """Whether the engine is installed and needs nothing that only the device has (a GPU, an engine built there)."""
    here = isinstance(options, OnnxRuntimeOptions) or (isinstance(options, OpenVinoOptions) and options.plugin == "CPU")
    return here and is_installed(engine_of(options))


def open_session(options: EngineOptions, members: Mapping[str, bytes], engines: Path | None = None) -> Session:
    """Open the graph that the options name, out of a bundle's members.

    Args:
        options: of the manifest.
        members: of the bundle.
        engines: folder of the engines that TensorRT has built for the bundle; the other engines have none.

    Raises:
        MissingPartError: the engine is not installed.
        FoveolaError: the engine refuses the graph.
    """
    engine = engine_of(options)
    if not is_installed(engine):
        raise MissingPartError(engine, "is not installed", INSTALL[engine])
    return ENGINES[engine](options, members, engines)


class _OnnxRuntime:
    def __init__(self, options: EngineOptions, members: Mapping[str, bytes]) -> None:
        forbid_telemetry()
        import onnxruntime

        state = import_module("onnxruntime.capi.onnxruntime_pybind11_state")  # no stubs, and no better home
        assert isinstance(options, OnnxRuntimeOptions)
        refusals = tuple(getattr(state, name) for name in _ORT_REFUSALS if hasattr(state, name))
        try:
            session: Any = onnxruntime.InferenceSession(
                members[options.graph], _ort_options(onnxruntime, options), providers=["CPUExecutionProvider"]
            )
        except (*refusals, RuntimeError, ValueError) as error:
            raise _refused(options.graph, "onnxruntime", onnxruntime.__version__, error) from None
        # The Python face would otherwise start anew with other settings after an error.
        session.disable_fallback()
        session._model_bytes = None  # kept for that start anew alone
        self._session = session
        self.input_shape: tuple[int | str, ...] = _only_input(
            {x.name: x.shape for x in session.get_inputs()}, options.graph
        )
        self.outputs: tuple[str, ...] = tuple(output.name for output in session.get_outputs())
        self._names = list(self.outputs)
        self.input_type: InputType = _input_type(_ORT_TYPES, session.get_inputs()[0].type, options.graph)
        _require("onnxruntime", _ort_wanted(onnxruntime, options), _ort_found(session))

    def run(self, tensor: Tensor) -> dict[str, NDArray[np.float32]]:
        # Tried and not better: io_binding saves less than 0.01 ms with outputs of this size.
        fed = {INPUT: as_input(tensor, self.input_type)}
        return dict(zip(self.outputs, self._session.run(self._names, fed), strict=True))


_ORT_REFUSALS = ("Fail", "InvalidArgument", "InvalidGraph", "InvalidProtobuf", "NotImplemented", "RuntimeException")
_ORT_TYPES: dict[str, InputType] = {"tensor(float)": "float32", "tensor(uint16)": "uint16"}
_ORT_LEVELS = {"disable": "DISABLE_ALL", "basic": "ENABLE_BASIC", "extended": "ENABLE_EXTENDED", "all": "ENABLE_ALL"}
_SPINNING, _AFFINITIES = "session.intra_op.allow_spinning", "session.intra_op_thread_affinities"


def _ort_wanted(onnxruntime: Any, options: OnnxRuntimeOptions) -> dict[str, object]:
    level = getattr(onnxruntime.GraphOptimizationLevel, f"ORT_{_ORT_LEVELS[options.graph_optimization]}")
    return {
        "graph_optimization_level": level,
        "intra_op_num_threads": options.threads,
        "inter_op_num_threads": 1,
        "execution_mode": onnxruntime.ExecutionMode.ORT_SEQUENTIAL,
        _SPINNING: "1" if options.spinning else "0",
        _AFFINITIES: _affinities(options),
        "providers": ["CPUExecutionProvider"],
    }


def _ort_options(onnxruntime: Any, options: OnnxRuntimeOptions) -> Any:
    chosen = onnxruntime.SessionOptions()
    wanted = _ort_wanted(onnxruntime, options)
    for name in ("graph_optimization_level", "intra_op_num_threads", "inter_op_num_threads", "execution_mode"):
        setattr(chosen, name, wanted[name])
    chosen.log_severity_level = 3  # errors
    chosen.add_session_config_entry(_SPINNING, wanted[_SPINNING])
    if wanted[_AFFINITIES]:
        chosen.add_session_config_entry(_AFFINITIES, wanted[_AFFINITIES])
    return chosen


def _affinities(options: OnnxRuntimeOptions) -> str:
    """One core for each thread of the pool but the calling one, which stays where the system puts it.

    Cores count from 1 here; there are no more of them than the machine has.
    """
    threads = min(options.threads, os.cpu_count() or 1)
    return (
        ";".join(str(core) for core in range(2, threads + 1)) if options.pinned and threads == options.threads else ""
    )


def _ort_found(session: Any) -> dict[str, object]:
    """Read back under which settings a session runs."""
    chosen = session.get_session_options()
    names = ("graph_optimization_level", "intra_op_num_threads", "inter_op_num_threads", "execution_mode")
    return {
        **{name: getattr(chosen, name) for name in names},
        _SPINNING: chosen.get_session_config_entry(_SPINNING),
        _AFFINITIES: _entry(chosen, _AFFINITIES),
        "providers": list(session.get_providers()),
    }


def _entry(chosen: Any, name: str) -> str:
    """A setting of a session; empty where it was not set, which ONNX Runtime tells by an error."""
    try:
        return str(chosen.get_session_config_entry(name))
    except RuntimeError:
        return ""


class _OpenVino:
    def __init__(self, options: EngineOptions, members: Mapping[str, bytes]) -> None:
        forbid_telemetry()
        import openvino

        assert isinstance(options, OpenVinoOptions)
        settings = _ov_settings(options)
        try:
            core = openvino.Core()
            model = core.read_model(members[options.graph], members[options.weights])
            compiled = core.compile_model(model, options.plugin, {**settings, "CACHE_DIR": ""})
            # A graph with open axes has no `shape` and is refused here.
            inputs = {x.any_name: tuple(x.shape) for x in compiled.inputs}
        except RuntimeError as error:
            raise _refused(options.graph, "openvino", openvino.__version__, error) from None
        self.input_shape: tuple[int | str, ...] = _only_input(inputs, options.graph)
        kind = compiled.inputs[0].element_type.to_string()
        self.input_type: InputType = _input_type(_OV_TYPES, kind, options.graph)
        # An old plugin may drop a hint without a word, and an environment may set others.
        _require("openvino", _ov_possible(settings), {name: _ov_found(compiled, name) for name in settings})
        self._lock = Lock()
        self._request = compiled.create_infer_request()
        self._input = np.zeros(inputs[INPUT], self.input_type)
        # Bound once: the engine reads where `run` writes, and nothing is allocated for a call.
        self._bound = openvino.Tensor(self._input, shared_memory=True)
        self._request.set_input_tensor(self._bound)
        self.outputs: tuple[str, ...] = tuple(output.any_name for output in compiled.outputs)

    def run(self, tensor: Tensor) -> dict[str, NDArray[np.float32]]:
        assert tensor.shape == self._input.shape, tensor.shape
        with self._lock:
            np.copyto(self._input, as_input(tensor, self.input_type))
            # `infer()` would build a dictionary of its own with another copy.
            self._request.start_async()
            self._request.wait()
            return {name: self._request.get_output_tensor(index).data.copy() for index, name in enumerate(self.outputs)}


_OV_TYPES: dict[str, InputType] = {"f32": "float32", "u16": "uint16"}


def _ov_settings(options: OpenVinoOptions) -> dict[str, object]:
    """All that changes answers or times; threads are the CPU plugin's alone."""
    shared: dict[str, object] = {
        "INFERENCE_PRECISION_HINT": options.inference_precision,
        "PERFORMANCE_HINT": "LATENCY",
        "NUM_STREAMS": 1,
    }
    if options.plugin != "CPU":
        return shared
    return {**shared, "INFERENCE_NUM_THREADS": options.threads, "ENABLE_CPU_PINNING": options.pinned}


def _ov_possible(settings: Mapping[str, object]) -> dict[str, object]:
    """What the plugin makes of the settings here: it takes no more threads than there are cores."""
    threads = settings.get("INFERENCE_NUM_THREADS")
    if not isinstance(threads, int):
        return dict(settings)
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or threads
    return {**settings, "INFERENCE_NUM_THREADS": min(threads, cores)}


def _ov_found(compiled: Any, name: str) -> object:
    """Read a setting back as the kind of value that it was given as."""
    value = compiled.get_property(name)
    return value.to_string() if name == "INFERENCE_PRECISION_HINT" else value


def _require(engine: str, wanted: Mapping[str, object], found: Mapping[str, object]) -> None:
    """Hold an engine's settings against those of the manifest.

    Raises:
        FoveolaError: one of them is another.
    """
    others = [
        f"{name} is {found[name]}, validated was {value}" for name, value in wanted.items() if found[name] != value
    ]
    if others:
        fault = f"the session runs otherwise than it was validated: {'; '.join(others)}"
        raise FoveolaError(engine, fault, "unset what overrides it, or take the engine's version of the bundle")


def _input_type(types: Mapping[str, InputType], found: str, member: str) -> InputType:
    if found not in types:
        raise FoveolaError(member, f"its input is {found}, neither float32 nor uint16", "make the bundle anew")
    return types[found]


def _tensorrt(options: EngineOptions, members: Mapping[str, bytes], engines: Path | None) -> Session:
    from .tensorrt.session import TensorRtSession

    return TensorRtSession(options, members, engines)


ENGINES: dict[EngineName, Callable[[EngineOptions, Mapping[str, bytes], Path | None], Session]] = {
    "onnxruntime": lambda options, members, _: _OnnxRuntime(options, members),
    "openvino": lambda options, members, _: _OpenVino(options, members),
    "tensorrt": _tensorrt,
}


def _only_input(shapes: Mapping[str, Sequence[int | str]], member: str) -> tuple[int | str, ...]:
    if list(shapes) != [INPUT]:
        raise FoveolaError(member, f"its inputs are {', '.join(shapes) or 'none'}, not {INPUT}", "make the bundle anew")
    return tuple(shapes[INPUT])


def _refused(member: str, engine: str, version: str, error: BaseException) -> FoveolaError:
    reason = " ".join(str(error).split())[:300]
    return FoveolaError(member, f"{engine} {version} does not open it ({reason})", "update the engine or the bundle")
