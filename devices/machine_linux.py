"""What Linux tells in /proc and /sys; every function takes the root and gives nothing where there is nothing.

Sources: the kernel's documents `filesystems/proc.rst`, `admin-guide/pm/cpufreq.rst`, `driver-api/thermal/sysfs-api.rst`
and `ABI/testing/sysfs-devices-system-cpu`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import get_args

import msgspec

from .parts import Instruction, Kind

KIB_PER_GIB = 2**20
MAX_TEXT = 1_000_000  # bytes of any one file
# What the kernel calls other than we do.
ALIASES = {"asimd": "neon"}
NPU_DRIVERS = {"intel_vpu": "Intel NPU", "rknpu": "Rockchip NPU", "rocket": "Rockchip NPU", "amdxdna": "AMD NPU"}
INTEL = "0x8086"
_RELEASED = re.compile(r"\s+")


class CpuFacts(msgspec.Struct, frozen=True, kw_only=True):
    """What /proc/cpuinfo says."""

    architecture: str = ""
    model: str = ""
    cores: int = 1
    instructions: tuple[Instruction, ...] | None = None
    hypervisor: bool = False


def read_text(path: Path) -> str:
    """Read a small text file; empty when it is not there or may not be read."""
    try:
        with path.open("rb") as stream:
            return stream.read(MAX_TEXT).decode("utf-8", "replace").replace("\0", " ").strip()
    except OSError:
        return ""


def read_number(path: Path) -> float | None:
    """Read a file that holds one number."""
    try:
        return float(read_text(path))
    except ValueError:
        return None


def read_cpu(root: Path) -> CpuFacts:
    """Read /proc/cpuinfo; instructions are those that every core has."""
    text = read_text(root / "proc/cpuinfo")
    rows = [line.partition(":") for line in text.splitlines()]
    fields = [(key.strip().lower(), value.strip()) for key, colon, value in rows if colon]
    flags = [set(value.split()) for key, value in fields if key in ("flags", "features")]
    if not flags:
        return CpuFacts()
    shared = {ALIASES.get(flag, flag) for flag in set.intersection(*flags)}
    arm = any(key == "features" for key, _ in fields)
    known: tuple[Instruction, ...] = get_args(Instruction)
    return CpuFacts(
        architecture="aarch64" if arm else "x86_64",
        model=next((value for key, value in fields if key == "model name"), ""),
        cores=len(flags),
        instructions=tuple(name for name in known if name in shared and (arm or name != "bf16")),
        hypervisor="hypervisor" in shared,
    )


def read_memory(root: Path) -> tuple[float | None, float | None]:
    """Read main memory and what of it is free to use, in GiB; a container's limit counts where it is lower."""
    rows = dict(re.findall(r"^(\w+):\s+(\d+) kB", read_text(root / "proc/meminfo"), re.MULTILINE))
    total, free = (int(rows[key]) / KIB_PER_GIB if key in rows else None for key in ("MemTotal", "MemAvailable"))
    limit = read_number(root / "sys/fs/cgroup/memory.max")  # "max" where there is none
    if limit is not None and (total is None or limit / 2**30 < total):
        total = limit / 2**30
        free = None if free is None else min(free, total)
    return total, free


def read_board(root: Path) -> str:
    """Name the board by the device tree, or by the firmware's tables."""
    board = read_text(root / "proc/device-tree/model")
    compatible = read_text(root / "proc/device-tree/compatible")
    if board:
        return _RELEASED.sub(" ", f"{board} ({compatible})" if compatible else board)
    folder = root / "sys/class/dmi/id"
    return " ".join(filter(None, (read_text(folder / name) for name in ("sys_vendor", "product_name"))))


def read_max_clock(root: Path) -> float | None:
    """Read the highest clock of any core in GHz."""
    files = _cpus(root, "cpufreq/cpuinfo_max_freq")
    return max((kilohertz / 1e6 for file in files if (kilohertz := read_number(file))), default=None)


def read_governor(root: Path) -> str:
    """Read how the clock is governed, `powersave` where any core says so."""
    names = sorted({name for file in _cpus(root, "cpufreq/scaling_governor") if (name := read_text(file))})
    return "powersave" if "powersave" in names else ", ".join(names)


def read_temperatures(root: Path) -> Iterator[tuple[str, float]]:
    """Give each thermal zone with its °C; zones that are switched off give none."""
    for zone in sorted(root.glob("sys/class/thermal/thermal_zone*")):
        value = read_number(zone / "temp")
        if value is not None and 0 < value < 200_000:  # millidegrees; some drivers give nonsense when asleep
            yield read_text(zone / "type") or zone.name, value / 1000


def read_throttled(root: Path) -> int | None:
    """Count how often the processor was slowed for heat since the machine started; None where it does not count."""
    files = [
        *_cpus(root, "thermal_throttle/core_throttle_count"),
        *_cpus(root, "thermal_throttle/package_throttle_count"),
    ]
    counts = [int(number) for file in files if (number := read_number(file)) is not None]
    return max(counts) if counts else None


def read_virtual(root: Path, hypervisor: bool) -> str:
    """Name what stands between us and the machine."""
    if (root / ".dockerenv").exists() or (root / "run/.containerenv").exists():
        return "container"
    return (read_text(root / "sys/hypervisor/type") or "virtual machine") if hypervisor else ""


def find_accelerators(root: Path) -> Iterator[tuple[Kind, str]]:
    """Give the GPUs of Intel and the NPUs whose drivers are loaded, once each."""
    found: dict[tuple[Kind, str], None] = {}
    for device in sorted(root.glob("sys/class/drm/renderD*/device")):
        if read_text(device / "vendor") == INTEL:
            found["gpu", "Intel GPU"] = None
    for device in sorted(root.glob("sys/class/accel/accel*/device")):
        driver = (device / "driver").resolve().name
        found["npu", NPU_DRIVERS.get(driver, driver)] = None
    for file, kind, name in FILES:
        if (root / file).exists():
            found[kind, name] = None
    yield from found


# Drivers that show themselves by a file of their own.
FILES: tuple[tuple[str, Kind, str], ...] = (
    ("dev/galcore", "npu", "Vivante"),
    ("sys/bus/platform/drivers/RKNPU", "npu", "Rockchip NPU"),
    ("dev/dpu", "dpu", "AMD DPU"),
)


def _cpus(root: Path, file: str) -> list[Path]:
    return sorted(root.glob(f"sys/devices/system/cpu/cpu[0-9]*/{file}"))
