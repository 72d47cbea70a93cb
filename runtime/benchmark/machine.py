"""What kind of machine this is: read from the system's files, never the machine's own name or number.

Every reader takes the root of the file system, so that a test can show it another machine; what is not there is None,
empty or left out, as in most containers.

    read_machine().processor
"""

from __future__ import annotations

import os
import platform
import re
from pathlib import Path

from .record import MachineFacts

# Sets of instructions that decide how integers and half floats are computed; the names are those of Linux.
INSTRUCTIONS = (
    "sse4_2",
    "avx2",
    "avx_vnni",
    "avx512f",
    "avx512_vnni",
    "amx_int8",
    "avx512_bf16",
    "amx_bf16",
    "asimddp",
    "i8mm",
    "bf16",
    "sve",
)
SYSTEM_ROOT = Path("/")


def read_machine(root: Path = SYSTEM_ROOT) -> MachineFacts:
    """Read the facts that speed depends on.

    Args:
        root: root of the file system; another one in tests.
    """
    cpuinfo = _cpuinfo(root)
    flags = (cpuinfo.get("flags") or cpuinfo.get("Features") or "").split()
    return MachineFacts(
        processor=cpuinfo.get("model name") or platform.processor() or platform.machine(),
        board=read_text(root / "proc/device-tree/model"),
        architecture=platform.machine(),
        system=f"{platform.system()} {_release()}",
        python=platform.python_version(),
        cores=usable_cores(),
        cpu_quota=_cpu_quota(root),
        memory_mib=_memory_mib(root),
        instructions=tuple(name for name in INSTRUCTIONS if name in flags),
        governor=read_text(root / "sys/devices/system/cpu/cpu0/cpufreq/scaling_governor") or None,
        power_mode=read_text(root / "var/lib/nvpmodel/status") or None,
        virtual="hypervisor" in flags,
    )


class OtherWork:
    """Watch how much of the machine's time others take, from when this is made.

    Args:
        root: root of the file system; another one in tests.
    """

    def __init__(self, root: Path = SYSTEM_ROOT) -> None:
        self._root = root
        self._before, self._own_before = _cpu_seconds(root), _own_seconds()

    def share(self) -> float | None:
        """Give the share of all cores' time that other processes and the hypervisor's other guests took since."""
        after = _cpu_seconds(self._root)
        if self._before is None or after is None or after[1] <= self._before[1]:
            return None
        busy, total = (late - early for early, late in zip(self._before, after, strict=True))
        return min(1.0, max(0.0, (busy - (_own_seconds() - self._own_before)) / total))


def usable_cores() -> int:
    """Count the cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def read_text(path: Path) -> str:
    """Give a small system file's text without line ends and NUL; empty where it cannot be read."""
    try:
        with path.open("rb") as file:
            return file.read(4096).decode("utf-8", "replace").strip("\0 \n")
    except OSError:
        return ""


def read_number(path: Path) -> int | None:
    """Give a small system file's integer; None where there is none."""
    text = read_text(path)
    return int(text) if text.lstrip("-").isascii() and text.lstrip("-").isdigit() else None


def _cpu_seconds(root: Path) -> tuple[float, float] | None:
    """Give seconds of all cores that were busy, and all seconds, since the start (proc(5), `/proc/stat`)."""
    words = read_text(root / "proc/stat").split("\n")[0].split()
    if len(words) < 9 or words[0] != "cpu" or not hasattr(os, "sysconf"):  # Windows has no such call
        return None
    ticks = [int(word) / os.sysconf("SC_CLK_TCK") for word in words[1:9]]
    user, nice, system, idle, waiting, interrupts, soft, stolen = ticks
    busy = user + nice + system + interrupts + soft + stolen
    return busy, busy + idle + waiting


def _own_seconds() -> float:
    """Give seconds that this process and the ended ones it started have computed."""
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system


def _release() -> str:
    """Give the numbers of the kernel's release; what a builder wrote behind them may be anybody's name."""
    found = re.match(r"[0-9.]+", platform.release())
    return found.group().rstrip(".") if found else ""


def _cpuinfo(root: Path) -> dict[str, str]:
    """Fields of the first processor; some boards add their serial number at the end, which nobody asks for here."""
    try:
        text = (root / "proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return {}
    pairs = (line.partition(":") for line in text.split("\n\n")[0].splitlines())
    return {key.strip(): value.strip() for key, _, value in pairs}


def _memory_mib(root: Path) -> float | None:
    lines = read_text(root / "proc/meminfo").splitlines()
    words = next((line.split() for line in lines if line.startswith("MemTotal:")), [])
    return float(words[1]) / 2**10 if len(words) == 3 else None


def _cpu_quota(root: Path) -> float | None:
    """Read a container's share of time (cgroup v2 `cpu.max`, v1 `cpu.cfs_quota_us`)."""
    words = read_text(root / "sys/fs/cgroup/cpu.max").split()
    if len(words) == 2 and words[0] != "max":
        return int(words[0]) / int(words[1])
    quota = read_number(root / "sys/fs/cgroup/cpu/cpu.cfs_quota_us")
    period = read_number(root / "sys/fs/cgroup/cpu/cpu.cfs_period_us")
    return quota / period if quota and period and quota > 0 else None
