"""The parts of a device profile: processor, memory, accelerators, engines, and how a network is written for them.

Units stand in the names: `gib`, `gb_s` (10^9 bytes a second), `ghz`, `watts`, `gops` and `tops` (10^9 and 10^12
multiplications and additions a second, one of each counted as two; dense, never the doubled figure for sparse weights).
"""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec

from ..runtime.manifest import Arithmetic, EngineName

Source = Literal["vendor", "secondary", "derived", "known", "measured", "chosen"]
Positive = Annotated[float, msgspec.Meta(gt=0, le=1e9)]  # JSON has no infinity
Count = Annotated[int, msgspec.Meta(gt=0)]
Share = Annotated[float, msgspec.Meta(gt=0, le=1)]
# What a unit can multiply; wider than `Arithmetic`, which is what Foveola writes.
Precision = Literal["int4", "int8", "int16", "float8", "bfloat16", "float16", "float32"]
Plugin = Literal["CPU", "GPU", "NPU"]
Kind = Literal["gpu", "npu", "dla", "dpu"]
# Sets of instructions that decide how numbers are computed; the names are those of Linux (/proc/cpuinfo), but `neon`
# stands for `asimd` too.
Instruction = Literal[
    "sse4_2", "avx2", "avx_vnni", "avx512f", "avx512_vnni", "avx512_bf16", "amx_int8", "amx_bf16",
    "neon", "asimddp", "i8mm", "bf16", "sve",
]  # fmt: skip
INT8_DOT: frozenset[Instruction] = frozenset({"avx_vnni", "avx512_vnni", "amx_int8", "asimddp", "i8mm"})


class Cpu(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The processor: what decides the speed of a small network."""

    architecture: Literal["x86_64", "aarch64"]
    cores: Count  # all of them
    performance_cores: Count | None = None  # where the cores differ: the quick ones
    instructions: tuple[Instruction, ...]
    clock_ghz: Positive | None = None
    peak_gops: dict[Precision, Positive] = {}  # of all quick cores together

    @property
    def int8_dot(self) -> bool:
        """Whether one instruction sums products of bytes into 32 bits, without a 16-bit sum that may overflow."""
        return bool(INT8_DOT & set(self.instructions))

    @property
    def saturates(self) -> bool:
        """Whether u8 x s8 products are summed in pairs in 16 bits, where they may saturate (VPMADDUBSW)."""
        return self.architecture == "x86_64" and not self.int8_dot


class Memory(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Main memory."""

    gib: Positive
    bandwidth_gb_s: Positive | None = None


class Accelerator(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A unit beside the processor.

    Args:
        name: how provenance and power modes name it (`gpu`, `npu`).
        kind: what it is.
        architecture: its maker's name for the generation, where two are not alike (`3720`).
        compute_capability: of an NVIDIA GPU.
        precisions: what it computes in.
        peak_tops: dense peak by precision.
        static_shapes: whether every shape must be known before.
        operators: ONNX operators that it has; empty: all, as far as is known.
        activations: those among them that may stand between its layers; empty: all, as far as is known.
        falls_back: whether the vendor's compiler gives other operators to the processor (each one splits the graph).
        engine_versions: versions of TensorRT that drive it, any of these specifiers; empty: all.
    """

    name: Annotated[str, msgspec.Meta(pattern="^[a-z][a-z0-9_]*$")]
    kind: Kind
    architecture: str = ""
    compute_capability: Annotated[str, msgspec.Meta(pattern=r"^[0-9]+\.[0-9]$")] | None = None
    precisions: tuple[Precision, ...]
    peak_tops: dict[Precision, Positive] = {}
    static_shapes: bool = False
    operators: tuple[str, ...] = ()
    activations: tuple[str, ...] = ()
    falls_back: bool = False
    engine_versions: tuple[str, ...] = ()


class PowerMode(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What the device draws in one of its modes, and what its accelerators then reach."""

    watts: Positive | None = None
    peak_tops: dict[str, dict[Precision, Positive]] = {}  # by accelerator


class Derate(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The share of the peaks that others have reached; 1 where nothing is known."""

    compute: Share = 1.0
    bandwidth: Share = 1.0


class VendorEngine(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """An engine that works there and that Foveola does not write for; it takes the portable graph, at most."""

    name: str
    versions: str = ""
    note: str = ""


class Export(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """How a network for this device is written: decisions, which therefore have no provenance."""

    opset: Annotated[int, msgspec.Meta(ge=18, le=21)] = 20  # of ONNX; nothing newer goes onto the device
    channel_multiple: Count = 8  # pruning keeps channels in multiples of it
    weight_bits: Literal[7, 8] = 8
    static_shapes: bool = True
    accelerator: str = ""  # the portable graph must also suit this accelerator, for the vendor's own tools


class Engine(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One engine and the settings under which a bundle is validated on it."""

    engine: EngineName
    versions: str = ""  # a specifier of PEP 440 (">=1.20,<2"); empty: any
    threads: Count = 1
    precisions: tuple[Arithmetic, ...] = ("int8", "float32")  # the preferred first
    spinning: bool = True  # ONNX Runtime: threads wait busily between layers; quick, but warm
    pinned: bool = False  # each thread stays on one core
    plugin: Plugin = "CPU"  # OpenVINO


class Provenance(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Where a fact comes from; `secondary` is another's page, `known` general knowledge, `chosen` our decision."""

    source: Source
    note: str = ""
