"""What this machine is, as far as it tells: processor, memory, accelerators, heat, engines.

- Nothing is required and nothing is changed: what cannot be read is left empty.
- No host name, serial number or address is read: the result may be checked in.
- On Linux files under `root` are read, so that a made-up tree serves as well; elsewhere what the standard library says.

    examine().model, examine().instructions
"""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from importlib import metadata
from pathlib import Path

import msgspec

from . import machine_linux as linux
from .machine_nvidia import Gpu as Gpu
from .machine_nvidia import find_gpus, read_jetson
from .parts import Instruction, Kind

GIB = 2**30
TIMEOUT_S = 10.0  # for a vendor's tool to answer
# Distributions that bring an engine; the first that is installed gives its version.
ENGINES: dict[str, tuple[str, ...]] = {
    "onnxruntime": ("onnxruntime", "onnxruntime-gpu"),
    "openvino": ("openvino",),
    "tensorrt": ("tensorrt", "tensorrt-cu13", "tensorrt-cu12"),
}
ARCHITECTURES = {"amd64": "x86_64", "x64": "x86_64", "arm64": "aarch64"}

Ask = Callable[[Sequence[str]], str]


class Unit(msgspec.Struct, frozen=True, kw_only=True):
    """An accelerator that the system shows."""

    kind: Kind
    name: str


class Zone(msgspec.Struct, frozen=True, kw_only=True):
    """One of the system's thermometers."""

    name: str
    celsius: float


class Machine(msgspec.Struct, frozen=True, kw_only=True):
    """One machine at one moment; empty and None where it does not tell."""

    system: str  # linux, windows, darwin
    architecture: str  # x86_64, aarch64
    model: str = ""  # of the processor
    board: str = ""
    cores: int = 1  # that this process may use
    instructions: tuple[Instruction, ...] | None = None  # None: not known
    clock_max_ghz: float | None = None
    governor: str = ""
    memory_gib: float | None = None
    memory_available_gib: float | None = None
    temperatures: tuple[Zone, ...] = ()
    throttled: int | None = None  # times since start that the processor was slowed for heat
    virtual: str = ""  # hypervisor or container; empty: none is seen
    gpus: tuple[Gpu, ...] = ()  # of NVIDIA
    accelerators: tuple[Unit, ...] = ()
    l4t: str = ""  # Jetson Linux
    jetpack: str = ""
    power_mode: str = ""
    engines: dict[str, str] = {}  # version by name
    python: str = ""

    @property
    def int8_dot(self) -> bool | None:
        """Whether one instruction sums products of bytes into 32 bits; None: not known."""
        from .parts import INT8_DOT

        return None if self.instructions is None else bool(INT8_DOT & set(self.instructions))

    @property
    def hottest(self) -> Zone | None:
        """The warmest thermometer."""
        return max(self.temperatures, key=lambda zone: zone.celsius, default=None)

    def has(self, kind: Kind) -> bool:
        """Tell whether there is an accelerator of a kind."""
        return any(one.kind == kind for one in self.accelerators)


def examine(root: Path = Path("/"), *, ask: Ask | None = None, system: str = sys.platform) -> Machine:
    """Look at this machine, or at a tree of files that stands for one.

    Args:
        root: where /proc, /sys and /etc lie.
        ask: runs a vendor's tool (`nvidia-smi`) and gives its answer, empty when there is none; by default the real one
            where `root` is the real one.
        system: `sys.platform`.
    """
    real = root == Path("/")
    asked: Ask = ask or (ask_tool if real else _silent)
    engines = _engine_versions() if real else {}
    common = Machine(
        system="windows" if system == "win32" else system,
        architecture=_architecture(platform.machine()),
        cores=_usable_cores() if real else 1,
        gpus=find_gpus(asked),
        engines=engines,
        python=platform.python_version(),
    )
    if system != "linux":
        return _elsewhere(common)
    return _linux(common, root, real)


def _linux(common: Machine, root: Path, real: bool) -> Machine:
    cpu, jetson = linux.read_cpu(root), read_jetson(root)
    gpus = common.gpus or jetson.gpus
    units = [Unit(kind="gpu", name=gpu.name) for gpu in gpus]
    units += [Unit(kind=kind, name=name) for kind, name in linux.find_accelerators(root)]
    units += [Unit(kind="dla", name="NVDLA")] if jetson.dla else []
    total, available = linux.read_memory(root)
    return msgspec.structs.replace(
        common,
        architecture=cpu.architecture or common.architecture,
        model=cpu.model,
        board=linux.read_board(root),
        cores=common.cores if real else cpu.cores,
        instructions=cpu.instructions,
        clock_max_ghz=linux.read_max_clock(root),
        governor=linux.read_governor(root),
        memory_gib=total,
        memory_available_gib=available,
        temperatures=tuple(Zone(name=name, celsius=value) for name, value in linux.read_temperatures(root)),
        throttled=linux.read_throttled(root),
        virtual=linux.read_virtual(root, cpu.hypervisor),
        gpus=gpus,
        accelerators=tuple(units),
        l4t=jetson.l4t,
        jetpack=jetson.jetpack,
        power_mode=jetson.power_mode,
    )


def _elsewhere(common: Machine) -> Machine:
    """Windows and macOS: what the standard library knows; instruction sets stay unknown."""
    memory = None
    if "SC_PHYS_PAGES" in getattr(os, "sysconf_names", {}):
        memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / GIB
    return msgspec.structs.replace(
        common,
        model=platform.processor(),
        memory_gib=memory,
        accelerators=tuple(Unit(kind="gpu", name=gpu.name) for gpu in common.gpus),
    )


def ask_tool(command: Sequence[str]) -> str:
    """Run a vendor's tool; empty when it is not there, fails or does not answer in time."""
    program = shutil.which(command[0])
    if program is None:
        return ""
    try:
        done = subprocess.run(
            [program, *command[1:]], capture_output=True, text=True, timeout=TIMEOUT_S, check=False, errors="replace"
        )
    except (OSError, subprocess.SubprocessError):
        return ""
    return done.stdout if done.returncode == 0 else ""


def _silent(_: Sequence[str]) -> str:
    return ""


def _architecture(name: str) -> str:
    return ARCHITECTURES.get(name.lower(), name.lower())


def _usable_cores() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _engine_versions() -> dict[str, str]:
    """Versions by the packages' metadata; nothing is imported."""
    found: dict[str, str] = {}
    for engine, names in ENGINES.items():
        for name in names:
            try:
                found[engine] = metadata.version(name)
                break
            except metadata.PackageNotFoundError:
                continue
    return found
