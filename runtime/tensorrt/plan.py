"""The build kit's plan, the record of a built engine, and where engines lie.

A bundle carries `tensorrt.onnx`, in which every precision is typed, and `tensorrt.json`, the plan. Together they are
the kit; its digest names it. An engine is built from it on the target and is good for one kit, one kind of GPU and one
release of TensorRT, so its folder is named after the three:

    chest.foveola
    chest.foveola.engines/0b6f03cd52c1-sm87-trt10.3.0/
        engine.plan     what TensorRT loads; native code, so only its own builder should be able to write here
        engine.json     the record: digests, versions, times, the self-test
        timing.cache    the measurements that the build chose by

Readers and writers stand side by side: `decode_plan(encode_plan(p)) == p`, and the same for the record.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, TypeVar

import msgspec

from ..digest import sha256_hex
from ..errors import FoveolaError
from ..manifest import Arithmetic, Sha256, TensorRtOptions

FORMAT = 1
RELEASES = ">=10.3,<12"  # what the kit is made for, whatever the device
ENGINE, RECORD, TIMING = "engine.plan", "engine.json", "timing.cache"
ENGINES_VARIABLE = "FOVEOLA_ENGINES"  # environment variable: folder of the engines, where it is not beside the bundle
MAX_RECORD_BYTES = 1024 * 1024

Count = Annotated[int, msgspec.Meta(ge=0)]
Length = Annotated[int, msgspec.Meta(gt=0, le=65536)]
Shape = Annotated[tuple[Length, ...], msgspec.Meta(min_length=1, max_length=8)]


class PlanTensor(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """An input or output of the graph: float32 and of fixed shape."""

    name: str
    shape: Shape


class BuildPlan(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """How an engine is built, whatever the release of TensorRT.

    Args:
        format: of this file.
        graph_sha256: of `tensorrt.onnx`; another graph is not built.
        arithmetic: of the layers, as it is typed in the graph.
        opset: of the graph.
        input: the graph's input `image`.
        outputs: the graph's outputs, in order.
        checked: lines of TensorRT releases in whose static check the graph had no fault.
        releases: of TensorRT that may build it: the device's, a specifier of PEP 440.
        tf32: rounding float32 products to 10 bits is never allowed.
        optimization_level: how long TensorRT searches, 0 to 5.
        workspace_mib: scratch memory that a layer may take, in MiB.
        int8_layers: layers with integer weights.
        float32_nodes: nodes that compute in float32 although the rest is float16.
    """

    format: int
    graph_sha256: Sha256
    arithmetic: Arithmetic
    opset: Count
    input: PlanTensor
    outputs: Annotated[tuple[PlanTensor, ...], msgspec.Meta(min_length=1, max_length=256)]
    checked: tuple[str, ...]
    releases: Annotated[str, msgspec.Meta(max_length=256)] = RELEASES
    tf32: bool = False
    optimization_level: Annotated[int, msgspec.Meta(ge=0, le=5)] = 3
    workspace_mib: Annotated[int, msgspec.Meta(gt=0, le=65536)] = 1024
    int8_layers: Count = 0
    float32_nodes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Refuse TF32; a `Literal[False]` would say so too, but msgspec below 0.20 does not know it.

        Raises:
            ValueError: it is asked for.
        """
        if self.tf32:
            raise ValueError("tf32 is never allowed")


class Target(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A machine as an engine sees it; nothing in it names one particular machine."""

    tensorrt: str  # full release, as `10.3.0`
    gpu: str  # its name, for people
    compute_capability: str  # `8.7`
    driver: str = ""  # of the NVIDIA kernel module
    cuda: str = ""  # newest CUDA that the driver serves, as `12.6`
    jetpack: str = ""  # release of Jetson's system (`L4T R36.4.3`); empty elsewhere

    @property
    def tag(self) -> str:
        """What an engine is bound to, as a folder's name has it: `sm87-trt10.3.0`."""
        release = re.sub(r"[^\w.]+", "_", self.tensorrt)
        return f"sm{self.compute_capability.replace('.', '')}-trt{release}"

    def __str__(self) -> str:
        return f"{self.gpu} (compute capability {self.compute_capability}) and TensorRT {self.tensorrt}"


class Tested(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The self-test on the built engine; an engine that fails it is not kept."""

    images: int
    flips: int
    relative: float  # largest relative root mean square over the outputs


class EngineRecord(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What was built, from what, on what. Two builds of one kit may differ, so the engine is named by its digest."""

    format: int
    bundle: str  # name and version, for people
    bundle_digest: Sha256
    graph_sha256: Sha256
    plan_sha256: Sha256
    target: Target
    engine_sha256: Sha256
    engine_bytes: Count
    timing_sha256: Sha256
    timing_reused: bool  # an older build's measurements were there at the start
    build_seconds: float
    tested: Tested


class Kit(msgspec.Struct, frozen=True, kw_only=True):
    """The build kit of a bundle, read and checked."""

    graph: bytes
    plan: BuildPlan
    graph_sha256: str
    plan_sha256: str

    @property
    def digest(self) -> str:
        """Name the kit: the sha256 of its two digests, as `sha256sum` would print them."""
        lines = f"{self.plan_sha256}  tensorrt.json\n{self.graph_sha256}  tensorrt.onnx\n"
        return sha256_hex(lines.encode())


def encode_plan(plan: BuildPlan) -> bytes:
    """Canonical JSON: keys sorted, two spaces, one newline at the end."""
    return _encode(plan)


def decode_plan(data: bytes, place: str = "tensorrt.json") -> BuildPlan:
    """Bytes to a checked plan.

    Raises:
        FoveolaError: no plan, or one of another format.
    """
    return _decode(data, BuildPlan, place, "make the bundle anew")


def encode_record(record: EngineRecord) -> bytes:
    """Canonical JSON, as for the plan."""
    return _encode(record)


def decode_record(data: bytes, place: str = RECORD) -> EngineRecord:
    """Bytes to a checked record.

    Raises:
        FoveolaError: no record, or one of another format.
    """
    return _decode(data, EngineRecord, place, "build the engine anew with `foveola build-engine --force`")


def read_kit(options: TensorRtOptions, members: Mapping[str, bytes]) -> Kit:
    """Take the build kit out of a bundle's members.

    Raises:
        FoveolaError: the plan is none, or was made for another graph or arithmetic.
    """
    graph, plan_bytes = members[options.graph], members[options.plan]
    plan = decode_plan(plan_bytes, options.plan)
    digest = sha256_hex(graph)
    faults = []
    if plan.graph_sha256 != digest:
        faults.append(f"is the plan of graph {plan.graph_sha256[:12]}, not of {digest[:12]}")
    if plan.arithmetic != options.arithmetic:
        faults.append(f"is the plan of a {plan.arithmetic} graph, the manifest says {options.arithmetic}")
    if faults:
        raise FoveolaError(options.plan, ", ".join(faults), "make the bundle anew")
    return Kit(graph=graph, plan=plan, graph_sha256=digest, plan_sha256=sha256_hex(plan_bytes))


def engines_folder(bundle: Path | None, given: Path | None = None) -> Path | None:
    """Tell where a bundle's engines lie.

    Args:
        bundle: the bundle's file, where it has one.
        given: named by the user.

    Returns:
        What was given; else the folder that the environment variable `FOVEOLA_ENGINES` names; else `NAME.engines`
        beside the bundle; None for a bundle that is no file.
    """
    if given is not None:
        return given
    named = os.environ.get(ENGINES_VARIABLE)
    if named:
        return Path(named)
    return bundle.with_name(bundle.name + ".engines") if bundle is not None else None


def engine_folder(engines: Path, kit: Kit, target: Target) -> Path:
    """Name the folder of the one engine that is good for this kit on this target."""
    return engines / f"{kit.digest[:12]}-{target.tag}"


Decoded = TypeVar("Decoded", BuildPlan, EngineRecord)


def _encode(value: BuildPlan | EngineRecord) -> bytes:
    return msgspec.json.format(msgspec.json.encode(value, order="sorted"), indent=2) + b"\n"


def _decode(data: bytes, kind: type[Decoded], place: str, mend: str) -> Decoded:
    try:
        value = msgspec.json.decode(data, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise FoveolaError(place, f"cannot be read ({error})", mend) from None
    if value.format != FORMAT:
        raise FoveolaError(place, f"format {value.format} is unknown", f"this runtime reads format {FORMAT}")
    return value
