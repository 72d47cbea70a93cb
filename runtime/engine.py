"""The engines: a validated graph from the bundle's bytes, opened with the manifest's settings and no others.

Laws:
- An engine is imported in the one function that opens it; importing this file loads none.
- Every setting that changes answers or times comes from the manifest or stands here as a constant; an engine's own
  default counts for nothing, and nothing is read from or written to a cache.
- The input is named `image`: float32 (1, channels, height, width).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from importlib.util import find_spec
from threading import Lock
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from .errors import FoveolaError, MissingPartError
from .manifest import EngineName, EngineOptions, OnnxRuntimeOptions, OpenVinoOptions
from .offline import forbid_telemetry

INPUT = "image"
INSTALL: dict[EngineName, str] = {"onnxruntime": "pip install foveola", "openvino": "pip install 'foveola[openvino]'"}


class Session(Protocol):
    """A graph that is ready to run. Several threads may call `run`."""

    @property
    def input_shape(self) -> tuple[int | str, ...]:
        """Shape of the input `image`; a name or -1 where the graph leaves an axis open."""
        ...

    @property
    def outputs(self) -> tuple[str, ...]:
        """Names of the graph's outputs."""
        ...

    def run(self, tensor: NDArray[np.float32]) -> dict[str, NDArray[np.float32]]:
        """Run the graph on one input (1, C, H, W), contiguous; the arrays returned are the caller's own."""
        ...


def engine_of(options: EngineOptions) -> EngineName:
    """Name the engine of some options."""
    return "onnxruntime" if isinstance(options, OnnxRuntimeOptions) else "openvino"


def is_installed(engine: EngineName) -> bool:
    """Tell whether an engine is there, without importing it."""
    return find_spec(engine) is not None


def open_session(options: EngineOptions, members: Mapping[str, bytes]) -> Session:
    """Open the graph that the options name, out of a bundle's members.

    Raises:
        MissingPartError: the engine is not installed.
        FoveolaError: the engine refuses the graph.
    """
    engine = engine_of(options)
    if not is_installed(engine):
        raise MissingPartError(engine, "is not installed", INSTALL[engine])
    return ENGINES[engine](options, members)


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
        self._session = session
        self.input_shape: tuple[int | str, ...] = _only_input(
            {x.name: x.shape for x in session.get_inputs()}, options.graph
        )
        self.outputs: tuple[str, ...] = tuple(output.name for output in session.get_outputs())
        self._names = list(self.outputs)

    def run(self, tensor: NDArray[np.float32]) -> dict[str, NDArray[np.float32]]:
        # Tried and not better: io_binding saves less than 0.01 ms with outputs of this size.
        return dict(zip(self.outputs, self._session.run(self._names, {INPUT: tensor}), strict=True))


_ORT_REFUSALS = ("Fail", "InvalidArgument", "InvalidGraph", "InvalidProtobuf", "NotImplemented", "RuntimeException")


def _ort_options(onnxruntime: Any, options: OnnxRuntimeOptions) -> Any:
    level = onnxruntime.GraphOptimizationLevel
    levels = {
        "disable": level.ORT_DISABLE_ALL,
        "basic": level.ORT_ENABLE_BASIC,
        "extended": level.ORT_ENABLE_EXTENDED,
        "all": level.ORT_ENABLE_ALL,
    }
    chosen = onnxruntime.SessionOptions()
    chosen.graph_optimization_level = levels[options.graph_optimization]
    chosen.intra_op_num_threads = options.threads
    chosen.inter_op_num_threads = 1
    chosen.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
    chosen.log_severity_level = 3  # errors
    chosen.add_session_config_entry("session.intra_op.allow_spinning", "1" if options.spinning else "0")
    return chosen


class _OpenVino:
    def __init__(self, options: EngineOptions, members: Mapping[str, bytes]) -> None:
        forbid_telemetry()
        import openvino

        assert isinstance(options, OpenVinoOptions)
        settings = {
            "INFERENCE_PRECISION_HINT": options.inference_precision,
            "INFERENCE_NUM_THREADS": options.threads,
            "NUM_STREAMS": 1,
            "PERFORMANCE_HINT": "LATENCY",
            "CACHE_DIR": "",
        }
        try:
            core = openvino.Core()
            model = core.read_model(members[options.graph], members[options.weights])
            compiled = core.compile_model(model, "CPU", settings)
            # A graph with open axes has no `shape` and is refused here.
            inputs = {x.any_name: tuple(x.shape) for x in compiled.inputs}
        except RuntimeError as error:
            raise _refused(options.graph, "openvino", openvino.__version__, error) from None
        self.input_shape: tuple[int | str, ...] = _only_input(inputs, options.graph)
        # An old plugin may drop a hint without a word.
        assert compiled.get_property("INFERENCE_PRECISION_HINT").to_string() == options.inference_precision
        self._lock = Lock()
        self._request = compiled.create_infer_request()
        self._input = np.zeros(inputs[INPUT], np.float32)
        # Bound once: the engine reads where `run` writes, and nothing is allocated for a call.
        self._bound = openvino.Tensor(self._input, shared_memory=True)
        self._request.set_input_tensor(self._bound)
        self.outputs: tuple[str, ...] = tuple(output.any_name for output in compiled.outputs)

    def run(self, tensor: NDArray[np.float32]) -> dict[str, NDArray[np.float32]]:
        assert tensor.shape == self._input.shape, tensor.shape
        with self._lock:
            np.copyto(self._input, tensor)
            # `infer()` would build a dictionary of its own with another copy.
            self._request.start_async()
            self._request.wait()
            return {name: self._request.get_output_tensor(index).data.copy() for index, name in enumerate(self.outputs)}


ENGINES: dict[EngineName, Callable[[EngineOptions, Mapping[str, bytes]], Session]] = {
    "onnxruntime": _OnnxRuntime,
    "openvino": _OpenVino,
}


def _only_input(shapes: Mapping[str, Sequence[int | str]], member: str) -> tuple[int | str, ...]:
    if list(shapes) != [INPUT]:
        raise FoveolaError(member, f"its inputs are {', '.join(shapes) or 'none'}, not {INPUT}", "make the bundle anew")
    return tuple(shapes[INPUT])


def _refused(member: str, engine: str, version: str, error: BaseException) -> FoveolaError:
    reason = " ".join(str(error).split())[:300]
    return FoveolaError(member, f"{engine} {version} does not open it ({reason})", "update the engine or the bundle")
