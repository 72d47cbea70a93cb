"""What a device can do, typed: one YAML file a device, and where each of its numbers comes from.

A number without a source is refused: what is only general knowledge is marked so and must be confirmed from the
vendor's document before a product relies on it.

    profile = load_profile("intel-n100")
    profile.budget.latency_ms, profile.provenance["memory.bandwidth_gb_s"].source
"""

from __future__ import annotations

from collections.abc import Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Literal, Union

import msgspec
import yaml

from ..runtime.errors import FoveolaError
from ..runtime.manifest import (
    Arithmetic,
    Budget,
    EngineName,
    EngineOptions,
    OnnxRuntimeOptions,
    OpenVinoOptions,
    TensorRtOptions,
)

FOLDER = Path(__file__).parent

Source = Literal["vendor", "secondary", "derived", "known", "measured", "chosen"]
Positive = Annotated[float, msgspec.Meta(gt=0)]
Count = Annotated[int, msgspec.Meta(gt=0)]
# Sets of instructions that decide how integers are computed; the names are those of Linux (/proc/cpuinfo).
Instruction = Literal["sse4_2", "avx2", "avx_vnni", "avx512f", "avx512_vnni", "neon", "asimddp", "i8mm"]


class Cpu(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The processor: what decides the speed of a small network."""

    architecture: Literal["x86_64", "aarch64"]
    cores: Count
    instructions: tuple[Instruction, ...]
    clock_ghz: Positive | None = None

    @property
    def int8_dot(self) -> bool:
        """Whether one instruction sums products of bytes into 32 bits, without a 16-bit sum that may overflow."""
        return bool({"avx_vnni", "avx512_vnni", "asimddp", "i8mm"} & set(self.instructions))


class Memory(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Main memory."""

    gib: Positive
    bandwidth_gb_s: Positive | None = None


class Export(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """How a network for this device is written."""

    opset: Annotated[int, msgspec.Meta(ge=18, le=21)] = 20
    channel_multiple: Count = 8  # pruning keeps channels in multiples of it
    weight_bits: Literal[7, 8] = 8


class Engine(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One engine and the settings under which a bundle is validated on it."""

    engine: EngineName
    versions: str = ""  # a specifier of PEP 440 (">=1.20,<2"); empty: any
    threads: Count = 1
    precisions: tuple[Arithmetic, ...] = ("int8", "float32")  # the preferred first
    spinning: bool = True  # ONNX Runtime: threads wait busily between layers; quick, but warm
    pinned: bool = False  # each thread stays on one core
    plugin: Literal["CPU", "GPU", "NPU"] = "CPU"  # OpenVINO


class Provenance(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Where a number comes from; `secondary` is another's page, `known` general knowledge, `chosen` our decision."""

    source: Source
    note: str = ""


class Profile(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A device, or a class of devices that answer alike."""

    id: str
    title: str
    cpu: Cpu
    memory: Memory
    export: Export = Export()
    engines: tuple[Engine, ...]
    budget: Budget
    provenance: dict[str, Provenance]
    notes: tuple[str, ...] = ()

    def faults(self) -> list[str]:
        """All that contradicts itself, as short sentences."""
        numbers = set(_numbers(msgspec.to_builtins(self), ("cpu", "memory", "budget")))
        faults = [f"no provenance for {name}" for name in sorted(numbers - self.provenance.keys())]
        faults += [
            f"provenance for {name}, which is no number here" for name in sorted(self.provenance.keys() - numbers)
        ]
        faults += [
            f"{one.engine} has {one.threads} threads on {self.cpu.cores} cores"
            for one in self.engines
            if one.threads > self.cpu.cores
        ]
        if len({one.engine for one in self.engines}) != len(self.engines) or not self.engines:
            faults.append("engines must be named once each, and one at least")
        int8 = any("int8" in one.precisions for one in self.engines)
        if int8 and not self.cpu.int8_dot and self.cpu.architecture == "x86_64" and self.export.weight_bits == 8:
            faults.append("int8 without VNNI overflows with 8-bit weights: set export.weight_bits to 7")
        return faults


def load_profile(name: str, folder: Path = FOLDER) -> Profile:
    """Read and check a profile.

    Args:
        name: id of a shipped profile, or the path of a YAML file.
        folder: where shipped profiles lie.

    Raises:
        FoveolaError: no such profile, not YAML, or a field that is wrong; all contradictions at once.
    """
    path = Path(name) if name.endswith((".yaml", ".yml")) else folder / f"{name}.yaml"
    if not path.is_file():
        near = get_close_matches(name, profile_ids(folder), 1)
        mend = f"did you mean {near[0]!r}?" if near else "known are " + ", ".join(profile_ids(folder))
        raise FoveolaError(f"device {name!r}", "there is no such profile", mend)
    try:
        profile = msgspec.convert(yaml.safe_load(path.read_text(encoding="utf-8")), Profile)
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        reason = " ".join(str(error).split())
        raise FoveolaError(path.name, f"not YAML: {reason}", "see devices/generic-x86.yaml") from None
    except msgspec.ValidationError as error:
        raise FoveolaError(path.name, str(error), "see devices/generic-x86.yaml") from None
    faults = profile.faults()
    if profile.id != path.stem:
        faults.append(f"id {profile.id!r} is not the file's name")
    if faults:
        raise FoveolaError(path.name, ", ".join(faults), "correct the profile")
    return profile


def profile_ids(folder: Path = FOLDER) -> tuple[str, ...]:
    """Ids of the shipped profiles, sorted."""
    return tuple(sorted(path.stem for path in folder.glob("*.yaml")))


def engine_options(profile: Profile) -> tuple[EngineOptions, ...]:
    """Give the engines as a bundle's manifest records them, in the profile's order of preference."""
    options: list[EngineOptions] = []
    for one in profile.engines:
        if one.engine == "onnxruntime":
            options.append(
                OnnxRuntimeOptions(
                    arithmetic=one.precisions[0], threads=one.threads, spinning=one.spinning, pinned=one.pinned
                )
            )
        elif one.engine == "openvino":
            options.append(
                OpenVinoOptions(
                    arithmetic=one.precisions[0], threads=one.threads, pinned=one.pinned, plugin=one.plugin
                )
            )
        else:
            options.append(TensorRtOptions(arithmetic=one.precisions[0]))
    return tuple(options)


def options_for(profile: Profile, engines: Sequence[EngineName]) -> list[EngineOptions]:
    """Give the options of some of the device's engines, in the order asked for.

    Raises:
        FoveolaError: the device does not have one of them.
    """
    offered = {one.engine: options for one, options in zip(profile.engines, engine_options(profile), strict=True)}
    unfit = [one for one in engines if one not in offered]
    if unfit:
        raise FoveolaError(f"device {profile.id}", f"has no {', '.join(unfit)}", f"its engines: {', '.join(offered)}")
    return [offered[one] for one in engines]


Tree = Union[dict[str, "Tree"], list["Tree"], str, int, float, bool, None]  # noqa: UP007


def _numbers(tree: Tree, parts: tuple[str, ...]) -> list[str]:
    """Dotted names of the numbers in some parts of a profile."""
    found: list[str] = []
    for part in parts:
        inner = tree.get(part) if isinstance(tree, dict) else None
        assert isinstance(inner, dict)
        found += [
            f"{part}.{key}"
            for key, value in inner.items()
            if isinstance(value, int | float) and not isinstance(value, bool)
        ]
    return found
