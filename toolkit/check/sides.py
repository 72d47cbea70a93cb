"""What is held against each other: torch, the float graph exported anew, and each artefact of the bundle.

Every side answers to a prepared input, and gives the values of a tensor inside: torch by watching its modules, an
engine by running the graph cut there, opened with the manifest's settings.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import msgspec
import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto

from ...export.bisect import Step
from ...export.cut import CutGraph, open_graph, shapes_of
from ...runtime.bundle import Bundle
from ...runtime.engine import engine_of, open_session
from ...runtime.errors import FoveolaError
from ...runtime.manifest import Arithmetic, EngineOptions, OnnxRuntimeOptions
from ...runtime.predict import Predictor
from .hooks import module_tensors, watch
from .student import Student

Input = NDArray[np.float32]
Raw = dict[str, NDArray[np.float32]]
FLOAT_GRAPH = "float.onnx"


class Side(Protocol):
    """One way to compute the network."""

    @property
    def name(self) -> str:
        """Engine and arithmetic."""
        ...

    @property
    def arithmetic(self) -> Arithmetic:
        """Of its layers."""
        ...

    @property
    def tensors(self) -> frozenset[str]:
        """Those whose values it gives."""
        ...

    @property
    def quantised(self) -> frozenset[str]:
        """Those that it gives behind a quantiser."""
        ...

    @property
    def bare(self) -> frozenset[str]:
        """Those that it gives without one."""
        ...

    def run(self, x: Input) -> Raw:
        """Answer to one input (1, C, H, W), by tensor name."""
        ...

    def values(self, tensor: str, inputs: Sequence[Input], *, bare: bool = False) -> NDArray[Any]:
        """Give a tensor inside for several inputs, in a row along the first axis."""
        ...


class TorchSide:
    """The student in torch."""

    def __init__(self, student: Student, steps: Sequence[Step]) -> None:
        self.name = "torch float32"
        self.arithmetic: Arithmetic = "float32"
        self._student = student
        model = ModelProto.FromString(student.graph)
        self._modules = module_tensors(student.network, steps, model)
        self._seen: dict[bytes, dict[str, NDArray[Any]]] = {}
        probe = np.zeros((1, student.spec.channels, student.spec.height, student.spec.width), np.float32)
        seen, shapes = watch(student.network, self._modules, probe), shapes_of(model)
        self.tensors = self.bare = frozenset(name for name, value in seen.items() if value.shape == shapes.get(name))
        self.quantised = frozenset[str]()

    def run(self, x: Input) -> Raw:
        """See `Side`."""
        return self._student.run(x)

    def values(self, tensor: str, inputs: Sequence[Input], *, bare: bool = False) -> NDArray[Any]:
        """See `Side`."""
        del bare  # torch has no quantisers
        return np.concatenate([self._watched(x)[tensor] for x in inputs])

    def _watched(self, x: Input) -> dict[str, NDArray[Any]]:
        key = x.tobytes()
        if key not in self._seen:
            if len(self._seen) >= 8:
                self._seen.clear()  # all activations of an image are large
            self._seen[key] = watch(self._student.network, self._modules, self._student.fed(x))
        return self._seen[key]


class EngineSide:
    """A graph on an engine, with the manifest's settings."""

    def __init__(self, name: str, options: EngineOptions, run: Callable[[Input], Raw], graph: CutGraph | None) -> None:
        self.name, self.options = name, options
        self.arithmetic: Arithmetic = options.arithmetic
        self._run = run
        self._graph = graph
        self.tensors = graph.tensors if graph else frozenset[str]()
        self.quantised = graph.quantised if graph else frozenset[str]()
        self.bare = graph.bare if graph else frozenset[str]()

    def run(self, x: Input) -> Raw:
        """See `Side`."""
        return self._run(x)

    @property
    def lineage(self) -> tuple[Arithmetic, str]:
        """Sides of equal lineage compute with the same numbers."""
        return self.arithmetic, getattr(self.options, "quantiser", "portable")

    def values(self, tensor: str, inputs: Sequence[Input], *, bare: bool = False) -> NDArray[Any]:
        """See `Side`."""
        assert self._graph is not None, self.name
        session = open_session(self.options, self._graph.cut(tensor, bare=bare))
        return np.concatenate([next(iter(session.run(x).values())) for x in inputs])


def engine_side(bundle: Bundle, options: EngineOptions, engines: Path | None) -> EngineSide:
    """Open one artefact of a bundle.

    Raises:
        MissingPartError: the engine is not installed.
        FoveolaError: it does not open.
    """
    predictor = Predictor(bundle, engine_of(options), engines)
    return EngineSide(describe(options), options, predictor.run, _graph(options, bundle.members))


def float_side(student: Student, bundle: Bundle) -> EngineSide:
    """Open the student's float graph, exported anew, on ONNX Runtime with the bundle's settings for it."""
    like = next((one for one in bundle.manifest.engines if isinstance(one, OnnxRuntimeOptions)), OnnxRuntimeOptions())
    options = msgspec.structs.replace(like, graph=FLOAT_GRAPH, arithmetic="float32")
    members = {FLOAT_GRAPH: student.graph}
    session = open_session(options, members)
    return EngineSide("onnxruntime float32, exported anew", options, session.run, _graph(options, members))


def describe(options: EngineOptions) -> str:
    """Name an artefact: engine, arithmetic, and whose int8 it is where that is not the portable one."""
    whose = getattr(options, "quantiser", "portable")
    return f"{engine_of(options)} {options.arithmetic}" + (f" by {whose}" if whose != "portable" else "")


def _graph(options: EngineOptions, members: Mapping[str, bytes]) -> CutGraph | None:
    try:
        return open_graph(options, members)
    except FoveolaError:
        return None  # TensorRT: compared, not bisected
