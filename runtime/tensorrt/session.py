"""An engine that was built on this machine, found, checked and run. Nothing here builds: that takes minutes.

Laws:
- An engine is loaded only when its record names this kit, this GPU's compute capability, this release of TensorRT and
  its own sha256; anything else is one line that says what it was built for and what is here.
- An engine is native code and nobody signs it. Neither its folder nor one above may be writable by everybody, unless
  nobody but us and root could have put there what is in it.
- Inputs and outputs are float32 of fixed shape; memory on the GPU is taken once, when the session opens.
"""

from __future__ import annotations

import hashlib
import os
import stat
import weakref
from collections.abc import Mapping, Sequence
from importlib import import_module
from itertools import pairwise
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..engine import Tensor, as_input
from ..errors import FoveolaError
from ..manifest import EngineOptions, InputType, TensorRtOptions
from .cuda import Gpu, driver_version, jetpack_release
from .plan import (
    ENGINE,
    MAX_RECORD_BYTES,
    RECORD,
    BuildPlan,
    EngineRecord,
    Kit,
    Target,
    decode_record,
    engine_folder,
    engines_folder,
    read_kit,
)

BUILD = "run `foveola build-engine BUNDLE` on this machine; it takes minutes and is never done in a request"
MAX_ENGINE_BYTES = 2 * 1024**3


class TensorRtSession:
    """A built engine, ready to run. Several threads may call `run`; they take turns.

    Args:
        options: of the manifest.
        members: of the bundle, which somebody vouches for.
        engines: folder of the bundle's engines; None: the one that `FOVEOLA_ENGINES` names.

    Raises:
        FoveolaError: no engine, one of another graph, GPU or release, or one that was changed after it was built.
        MissingPartError: CUDA's Python bindings are not installed.
    """

    def __init__(self, options: EngineOptions, members: Mapping[str, bytes], engines: Path | None = None) -> None:
        assert isinstance(options, TensorRtOptions)
        kit = read_kit(options, members)
        trt = import_module("tensorrt")  # no stubs on a machine without it
        gpu = Gpu()
        target = this_target(trt, gpu)
        folder = find_engine(engines_folder(None, engines), kit, target)
        self.record: EngineRecord = read_record(folder)
        data = read_engine(folder, self.record)
        self._log = logger(trt)
        self._runtime = trt.Runtime(self._log)
        self._engine = self._runtime.deserialize_cuda_engine(data)
        if self._engine is None:
            raise FoveolaError(str(folder), f"TensorRT does not load it ({self._log.reason})", BUILD)
        _check_face(trt, self._engine, kit.plan, folder)
        self._context = self._engine.create_execution_context()
        if self._context is None:
            fault = f"TensorRT cannot make it ready ({self._log.reason})"
            raise FoveolaError(str(folder), fault, "free memory on the GPU")
        self._bind(gpu, kit.plan)
        self.input_shape: tuple[int | str, ...] = kit.plan.input.shape
        self.input_type: InputType = "float32"  # TensorRT knows no 16-bit integer
        self.outputs: tuple[str, ...] = tuple(output.name for output in kit.plan.outputs)

    def _bind(self, gpu: Gpu, plan: BuildPlan) -> None:
        """Take memory for every tensor and tell the engine where it is."""
        self._gpu, self._lock = gpu, Lock()
        tensors = (plan.input, *plan.outputs)
        self._host = {tensor.name: np.zeros(tensor.shape, np.float32) for tensor in tensors}
        self._device: dict[str, int] = {}
        self._finalizer = weakref.finalize(self, _release, gpu, self._device)
        for tensor in tensors:
            self._device[tensor.name] = gpu.allocate(self._host[tensor.name].nbytes)
            self._context.set_tensor_address(tensor.name, self._device[tensor.name])
        self._input = plan.input.name

    def run(self, tensor: Tensor) -> dict[str, NDArray[np.float32]]:
        """Run the engine on one input (1, C, H, W), float32 in 0..1 or a detector's words."""
        assert tensor.shape == self._host[self._input].shape, tensor.shape
        with self._lock:
            np.copyto(self._host[self._input], as_input(tensor, "float32"))
            self._gpu.upload(self._device[self._input], self._host[self._input])
            if not self._context.execute_async_v3(self._gpu.stream):
                raise FoveolaError(
                    "tensorrt", f"the engine failed ({self._log.reason})", "restart; see the driver's log"
                )
            for name in self.outputs:
                self._gpu.download(self._host[name], self._device[name])
            self._gpu.wait()
            return {name: self._host[name].copy() for name in self.outputs}


def _release(gpu: Gpu, addresses: Mapping[str, int]) -> None:
    for address in addresses.values():
        gpu.free(address)


def this_target(trt: Any, gpu: Gpu) -> Target:
    """Describe this machine as an engine sees it."""
    return Target(
        tensorrt=str(trt.__version__),
        gpu=gpu.name,
        compute_capability=gpu.compute_capability,
        driver=driver_version(),
        cuda=gpu.cuda,
        jetpack=jetpack_release(),
    )


def find_engine(engines: Path | None, kit: Kit, target: Target) -> Path:
    """Give the folder of the engine that is good for this kit here.

    Raises:
        FoveolaError: there is none; where there is one for something else, the error says for what.
    """
    if engines is None:
        raise FoveolaError("tensorrt", "the folder of the built engines is not known", "name it in FOVEOLA_ENGINES")
    folder = engine_folder(engines, kit, target)
    if not (folder / ENGINE).is_file() or not (folder / RECORD).is_file():
        raise FoveolaError(str(engines), _what_is_there(engines, kit, target), BUILD)
    record = read_record(folder)
    if (record.graph_sha256, record.plan_sha256) != (kit.graph_sha256, kit.plan_sha256):
        fault = f"was built from graph {record.graph_sha256[:12]}, the bundle's is {kit.graph_sha256[:12]}"
        raise FoveolaError(str(folder), fault, BUILD)
    if record.target.tag != target.tag:
        raise FoveolaError(str(folder), f"was built for {record.target}; here is {target}", BUILD)
    return folder


def read_record(folder: Path) -> EngineRecord:
    """Read the record of a built engine.

    Raises:
        FoveolaError: it cannot be read.
    """
    path = folder / RECORD
    try:
        with path.open("rb") as file:
            return decode_record(file.read(MAX_RECORD_BYTES), str(path))
    except OSError as error:
        raise FoveolaError(str(path), f"cannot be read: {error.strerror}", BUILD) from None


def read_engine(folder: Path, record: EngineRecord) -> bytes:
    """Read the engine's bytes, exactly those that its record names.

    Raises:
        FoveolaError: others, or everybody may write there.
    """
    path = folder / ENGINE
    try:
        if (place := _exchangeable(path)) is not None:
            fault = "everybody may write there, and an engine is native code"
            raise FoveolaError(str(place), fault, f"chmod o-w, or name another --engines, then {BUILD}")
        size = path.stat().st_size
        data = path.read_bytes() if size == record.engine_bytes <= MAX_ENGINE_BYTES else b""
    except OSError as error:
        raise FoveolaError(str(path), f"cannot be read: {error.strerror}", BUILD) from None
    if hashlib.sha256(data).hexdigest() != record.engine_sha256:
        raise FoveolaError(str(path), f"is not the engine {record.engine_sha256[:12]} that was built and tested", BUILD)
    return data


def _exchangeable(path: Path) -> Path | None:
    """Find the first place on the way to a file where everybody could put another file or folder in its stead.

    In a folder of all with the sticky bit (/tmp) nobody can exchange what is there already, but anybody can have been
    the first to put it there: what lies in it must be ours or root's. Links are judged where they stand and where they
    lead. Windows keeps other rights than these bits, so nothing is found there.
    """
    if not hasattr(os, "geteuid"):
        return None
    ours = {0, os.geteuid()}
    if path.stat().st_mode & stat.S_IWOTH:
        return path
    for chain in (path.absolute(), path.resolve()):
        for inner, outer in pairwise((chain, *chain.parents)):
            mode = outer.stat().st_mode
            kept = mode & stat.S_ISVTX and inner.lstat().st_uid in ours
            if mode & stat.S_IWOTH and not kept:
                return outer
    return None


def logger(trt: Any) -> Any:
    """Make a logger that keeps the last error in `reason` and prints nothing: stdout and stderr are not TensorRT's."""

    class Log(trt.ILogger):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            self.reason = "no reason given"

        def log(self, severity: Any, message: str) -> None:
            if severity in (trt.ILogger.Severity.ERROR, trt.ILogger.Severity.INTERNAL_ERROR):
                self.reason = " ".join(str(message).split())[:300]

    return Log()


def _what_is_there(engines: Path, kit: Kit, target: Target) -> str:
    """Say why no engine fits: none at all, or those that are for something else."""
    others: list[EngineRecord] = []
    for path in sorted(engines.glob(f"*/{RECORD}")) if engines.is_dir() else []:
        try:
            others.append(read_record(path.parent))
        except FoveolaError:  # one that cannot be read fits nobody
            continue
    same_kit = [one for one in others if one.graph_sha256 == kit.graph_sha256 and one.plan_sha256 == kit.plan_sha256]
    if same_kit:
        built = " and ".join(sorted({str(one.target) for one in same_kit}))
        return f"the engine was built for {built}; here is {target}"
    if others:
        graphs = ", ".join(sorted({one.graph_sha256[:12] for one in others}))
        return f"engines are of another graph ({graphs}); the bundle's is {kit.graph_sha256[:12]}"
    return f"no engine has been built for {target}"


def _check_face(trt: Any, engine: Any, plan: BuildPlan, folder: Path) -> None:
    """Hold the engine's inputs and outputs against the plan."""
    names = [engine.get_tensor_name(index) for index in range(engine.num_io_tensors)]
    inputs = [name for name in names if engine.get_tensor_mode(name) == trt.TensorIOMode.INPUT]
    wanted = {tensor.name: tensor.shape for tensor in (plan.input, *plan.outputs)}
    shapes = {name: tuple(engine.get_tensor_shape(name)) for name in names}
    floats = all(engine.get_tensor_dtype(name) == trt.DataType.FLOAT for name in names)
    if inputs != [plan.input.name] or shapes != wanted or not floats:
        raise FoveolaError(str(folder), f"its tensors are {_words(shapes)}, not those of the plan", BUILD)


def _words(shapes: Mapping[str, Sequence[int]]) -> str:
    return ", ".join(f"{name} {'x'.join(map(str, shape))}" for name, shape in shapes.items())
