"""A stand-in for TensorRT and CUDA: it has the names of one release and no others, and computes with ONNX Runtime.

What a release has taken away is not there, so that to use it is an AttributeError, as on a real machine. An "engine" is
the graph behind a line that names the GPU and the release; another machine does not load it. Memory on the "GPU" is
memory of the process, at its address, so that copies and addresses are real.
"""

from __future__ import annotations

import ctypes
import enum
import itertools
import sys
from collections.abc import Callable
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import msgspec
import numpy as np
import onnx
import pytest
from numpy.typing import NDArray

from foveola.export.signing import sign_members
from foveola.export.tensorrt.kit import write_kit
from foveola.runtime.bundle import read_unverified, write_bundle
from foveola.runtime.manifest import Manifest, TensorRtOptions, encode_manifest
from foveola.runtime.predict import Predictor
from foveola.runtime.selftest import make_golden


class Here(SimpleNamespace):
    """The machine that is played: change a field and the next call sees it."""

    tensorrt: str
    gpu: str
    capability: tuple[int, int]
    gpus: int
    builds: list[dict[str, Any]]
    faults: dict[str, str]
    shift: float
    allocated: dict[int, Any]


def numbers(name: str, members: dict[str, int]) -> Any:
    """Make an enumeration, as pybind11 does: names and numbers."""
    return enum.IntEnum(name, members)


def fake_cuda(here: Here) -> ModuleType:
    module = ModuleType("cuda.bindings.runtime")
    error = numbers("cudaError_t", {"cudaSuccess": 0, "cudaErrorMemoryAllocation": 2, "cudaErrorNoDevice": 100})
    kinds = numbers("cudaMemcpyKind", {"cudaMemcpyHostToDevice": 1, "cudaMemcpyDeviceToHost": 2})
    good = error.cudaSuccess

    def malloc(size: int) -> tuple[Any, int]:
        if "memory" in here.faults:
            return error.cudaErrorMemoryAllocation, 0
        buffer = ctypes.create_string_buffer(size)
        here.allocated[ctypes.addressof(buffer)] = buffer
        return good, ctypes.addressof(buffer)

    def copy(target: int, source: int, size: int, kind: Any, stream: Any) -> tuple[Any]:
        device = target if kind == kinds.cudaMemcpyHostToDevice else source
        assert size == len(here.allocated[device])
        ctypes.memmove(target, source, size)
        return (good,)

    def count() -> tuple[Any, int]:
        return (good, here.gpus) if here.gpus else (error.cudaErrorNoDevice, 0)

    def properties(index: int) -> tuple[Any, Any]:
        major, minor = here.capability
        return good, SimpleNamespace(name=here.gpu.encode() + b"\0\0", major=major, minor=minor)

    functions: dict[str, Callable[..., Any]] = {
        "cudaGetDeviceCount": count,
        "cudaGetDeviceProperties": properties,
        "cudaSetDevice": lambda index: (good,),
        "cudaDriverGetVersion": lambda: (good, 12060),
        "cudaStreamCreate": lambda: (good, 77),
        "cudaStreamSynchronize": lambda stream: (good,),
        "cudaMalloc": malloc,
        "cudaFree": lambda address: (here.allocated.pop(address) and good,),
        "cudaMemcpyAsync": copy,
    }
    module.__dict__.update(functions, cudaMemcpyKind=kinds)
    return module


class Strict:
    """An object of C++: it takes no attribute that its class does not have."""

    __slots__ = ("__dict__",)
    fields: frozenset[str] = frozenset()

    def __setattr__(self, name: str, value: object) -> None:
        if name not in self.fields:
            raise AttributeError(name)
        super().__setattr__(name, value)


def session_of(graph: bytes) -> Any:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL  # see `reference_options`
    return onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])


def fake_tensorrt(here: Here) -> ModuleType:
    """Make the module of the release that is played when it is imported."""
    major = int(here.tensorrt.split(".")[0])
    module = ModuleType("tensorrt")
    severity = numbers("Severity", {"INTERNAL_ERROR": 0, "ERROR": 1, "WARNING": 2, "INFO": 3, "VERBOSE": 4})
    removed_in_11 = {} if major >= 11 else {"FP16": 3, "INT8": 4, "BF16": 5, "OBEY_PRECISION_CONSTRAINTS": 6}
    flag = numbers("BuilderFlag", {"TF32": 0, "DEBUG": 1, "REFIT": 2, **removed_in_11})
    creation = numbers("NetworkDefinitionCreationFlag", {} if major >= 11 else {"STRONGLY_TYPED": 1})
    mode = numbers("TensorIOMode", {"NONE": 0, "INPUT": 1, "OUTPUT": 2})
    kind = numbers("DataType", {"FLOAT": 0, "HALF": 1, "INT8": 2})
    pool = numbers("MemoryPoolType", {"WORKSPACE": 0})

    class Logger:
        Severity = severity

        def __init__(self) -> None:
            self.ready = True  # a subclass that forgets to call this is refused, as by pybind11

        def log(self, level: int, message: str) -> None:
            raise NotImplementedError

    class Monitor:
        def __init__(self) -> None:
            self.ready = True

    class Config(Strict):
        fields = frozenset({"builder_optimization_level", "progress_monitor", "flags", "timings", "pools"})

        def __init__(self) -> None:
            self.flags: set[Any] = {flag.TF32}
            self.timings = b""
            self.pools: dict[Any, int] = {}

        def set_flag(self, one: Any) -> None:
            self.flags.add(flag(one))

        def clear_flag(self, one: Any) -> None:
            self.flags.discard(flag(one))

        def set_memory_pool_limit(self, which: Any, size: int) -> None:
            self.pools[pool(which)] = size

        def create_timing_cache(self, data: bytes) -> bytes:
            return data

        def set_timing_cache(self, cache: bytes, ignore_mismatch: bool) -> bool:
            assert not ignore_mismatch
            fits = not cache or cache.startswith(stamp())
            if fits:
                self.timings = cache or stamp()
            return fits

        def get_timing_cache(self) -> Any:
            return SimpleNamespace(serialize=lambda: memoryview(self.timings + b"+"))

    class Parser:
        def __init__(self, network: Any, log: Any) -> None:
            self.network = network
            self.faults: list[str] = []

        def parse(self, graph: bytes) -> bool:
            onnx.checker.check_model(onnx.load_model_from_string(graph))
            self.network.graph = graph
            self.faults = [here.faults["parse"]] if "parse" in here.faults else []
            return not self.faults

        @property
        def num_errors(self) -> int:
            return len(self.faults)

        def get_error(self, index: int) -> Any:
            return SimpleNamespace(desc=lambda: self.faults[index])

    class Builder:
        def __init__(self, log: Any) -> None:
            assert log.ready
            self.log = log

        def create_network(self, flags: int = 0) -> Any:
            assert flags in ({0} if major >= 11 else {0, 2}), "a flag that this release does not know"
            return SimpleNamespace(graph=b"", typed=major >= 11 or flags == 2)

        def create_builder_config(self) -> Config:
            return Config()

        def build_serialized_network(self, network: Any, config: Any) -> Any:
            here.builds.append(
                {"typed": network.typed, "flags": set(config.flags), "level": config.builder_optimization_level}
            )
            config.progress_monitor.phase_start("Building Engine", None, 3)
            config.progress_monitor.phase_start("Timing", "Building Engine", 5)
            if "build" in here.faults:
                self.log.log(severity.ERROR, here.faults["build"])
                return None
            return memoryview(stamp() + b"\n" + network.graph)

    class Context:
        def __init__(self, engine: Any) -> None:
            self.engine = engine
            self.addresses: dict[str, int] = {}

        def set_tensor_address(self, name: str, address: int) -> bool:
            self.addresses[name] = address
            return True

        def execute_async_v3(self, stream: int) -> bool:
            assert stream == 77
            (image,) = self.engine.session.get_inputs()
            values = np.frombuffer(here.allocated[self.addresses[image.name]], np.float32).reshape(image.shape)
            names = [output.name for output in self.engine.session.get_outputs()]
            for name, answer in zip(names, self.engine.session.run(names, {image.name: values}), strict=True):
                shifted = np.ascontiguousarray(answer + np.float32(here.shift))
                ctypes.memmove(self.addresses[name], shifted.ctypes.data, shifted.nbytes)
            return "run" not in here.faults

    class Engine:
        def __init__(self, graph: bytes) -> None:
            self.session = session_of(graph)
            self.tensors = {x.name: (x, mode.INPUT) for x in self.session.get_inputs()}
            self.tensors |= {x.name: (x, mode.OUTPUT) for x in self.session.get_outputs()}

        @property
        def num_io_tensors(self) -> int:
            return len(self.tensors)

        def get_tensor_name(self, index: int) -> str:
            return str(list(self.tensors)[index])

        def get_tensor_mode(self, name: str) -> Any:
            return self.tensors[name][1]

        def get_tensor_shape(self, name: str) -> list[int]:
            return list(self.tensors[name][0].shape)

        def get_tensor_dtype(self, name: str) -> Any:
            return {"tensor(float)": kind.FLOAT, "tensor(float16)": kind.HALF}[self.tensors[name][0].type]

        def create_execution_context(self) -> Context:
            return Context(self)

    class Runtime:
        def __init__(self, log: Any) -> None:
            assert log.ready
            self.log = log

        def deserialize_cuda_engine(self, data: bytes) -> Engine | None:
            head, _, graph = data.partition(b"\n")
            if head != stamp():
                self.log.log(severity.ERROR, "The engine plan file is generated on an incompatible device")
                return None
            return Engine(graph)

    def stamp() -> bytes:
        return f"plan {here.capability} {here.tensorrt}".encode()

    module.__dict__.update(
        __version__=here.tensorrt,
        __spec__=ModuleSpec("tensorrt", None),
        ILogger=Logger,
        IProgressMonitor=Monitor,
        BuilderFlag=flag,
        NetworkDefinitionCreationFlag=creation,
        MemoryPoolType=pool,
        TensorIOMode=mode,
        DataType=kind,
        Builder=Builder,
        OnnxParser=Parser,
        Runtime=Runtime,
    )
    return module


@pytest.fixture(params=["10.3.0", "11.4.1"])
def machine(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Here]:
    """Play a machine; called again, it becomes another one."""
    here = Here(builds=[], faults={}, shift=0.0, allocated={}, gpus=1)

    def play(tensorrt: str = request.param, gpu: str = "Orin", capability: tuple[int, int] = (8, 7)) -> Here:
        here.tensorrt, here.gpu, here.capability = tensorrt, gpu, capability
        for name in ("cuda", "cuda.bindings"):
            monkeypatch.setitem(sys.modules, name, ModuleType(name))
        monkeypatch.setitem(sys.modules, "cuda.bindings.runtime", fake_cuda(here))
        monkeypatch.setitem(sys.modules, "tensorrt", fake_tensorrt(here))
        return here

    play()
    return play


@pytest.fixture(scope="session")
def kit_members(
    tmp_path_factory: pytest.TempPathFactory,
    tiny_graph: Callable[..., bytes],
    tiny_manifest: Manifest,
    tiny_members: dict[str, bytes],
    tiny_image: bytes,
) -> Callable[..., dict[str, bytes]]:
    """Members of the tiny bundle with a float16 kit for TensorRT, with other weights on demand; not signed."""
    numbers = itertools.count()

    def make(**changed: tuple[list[float], list[float]]) -> dict[str, bytes]:
        folder = tmp_path_factory.mktemp(f"kit{next(numbers)}")
        (folder / "float.onnx").write_bytes(tiny_graph(**changed))
        images = [np.full((1, 1, 32, 32), 0.5, np.float32)]
        kit = write_kit(folder / "float.onnx", folder, arithmetic="float16", images=images)
        options = TensorRtOptions(arithmetic="float16")
        manifest = msgspec.structs.replace(tiny_manifest, engines=(options, *tiny_manifest.engines))
        members = {**tiny_members, **kit, "manifest.json": encode_manifest(manifest)}
        bundle = write_bundle(folder / "early.foveola", members)
        predictors = [Predictor(bundle, "onnxruntime"), Predictor(bundle, "openvino"), _typed(bundle, kit)]
        return {**members, "golden.npz": make_golden(predictors, [tiny_image])}

    return make


def _typed(bundle: Any, kit: dict[str, bytes]) -> Any:
    """What the host expects of the engine: the typed graph on ONNX Runtime."""
    session = session_of(kit["tensorrt.onnx"])

    def run(tensor: NDArray[np.float32]) -> dict[str, NDArray[np.float32]]:
        names = [output.name for output in session.get_outputs()]
        return dict(zip(names, session.run(names, {"image": tensor}), strict=True))

    return SimpleNamespace(manifest=bundle.manifest, engine="tensorrt", run=run)


@pytest.fixture(scope="session")
def kit_path(
    tmp_path_factory: pytest.TempPathFactory,
    kit_members: Callable[..., dict[str, bytes]],
    tiny_keys: tuple[Path, Path],
) -> Path:
    """The signed bundle with a kit, its public key beside it."""
    path = tmp_path_factory.mktemp("signed") / "tiny.foveola"
    members = kit_members()
    write_bundle(path, {**members, "model.sig": sign_members(members, tiny_keys[0].read_bytes())})
    path.with_suffix(".pub").write_bytes(tiny_keys[1].read_bytes())
    return path


@pytest.fixture
def bundle(kit_path: Path) -> Any:
    return read_unverified(kit_path)
