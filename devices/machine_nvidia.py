"""NVIDIA's GPUs and Jetson modules: what `nvidia-smi` and the module's own files tell; neither is required."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec

from .machine_linux import read_text

QUERY = ("nvidia-smi", "--query-gpu=name,compute_cap,driver_version,memory.total", "--format=csv,noheader,nounits")
# Jetson Linux to JetPack, by NVIDIA's archive of JetPack (developer.nvidia.com/embedded/jetpack-archive).
JETPACKS = {"36.3": "6.0", "36.4": "6.1", "36.4.3": "6.2", "36.4.4": "6.2.1", "38.2": "7.0", "38.2.1": "7.0"}
SOCS = {"tegra234": "8.7", "tegra194": "7.2"}  # compute capability of the GPU inside (Orin, Xavier)
_MODE = re.compile(r"^\s*<\s*POWER_MODEL\s+ID=(\d+)\s+NAME=(\S+)\s*>", re.MULTILINE)


class Gpu(msgspec.Struct, frozen=True, kw_only=True):
    """A GPU of NVIDIA."""

    name: str
    compute_capability: str = ""
    driver: str = ""
    memory_gib: float | None = None


class Jetson(msgspec.Struct, frozen=True, kw_only=True):
    """What a Jetson module says of itself; empty on other machines."""

    l4t: str = ""
    jetpack: str = ""
    power_mode: str = ""
    gpus: tuple[Gpu, ...] = ()
    dla: bool = False


def find_gpus(ask: Callable[[Sequence[str]], str]) -> tuple[Gpu, ...]:
    """Ask `nvidia-smi`; none where it is not there or has no answer."""
    rows = [[cell.strip() for cell in line.split(",")] for line in ask(QUERY).splitlines()]
    return tuple(_gpu(row) for row in rows if len(row) == 4)


def _gpu(row: list[str]) -> Gpu:
    name, capability, driver, memory = (re.sub(r"^\[.*\]$", "", cell) for cell in row)  # "[N/A]" on Jetson
    return Gpu(
        name=name,
        compute_capability=capability if re.fullmatch(r"\d+\.\d", capability) else "",
        driver=driver,
        memory_gib=int(memory) / 1024 if memory.isdigit() else None,
    )


def read_jetson(root: Path) -> Jetson:
    """Read a Jetson's release, JetPack, power mode, GPU and DLA."""
    l4t = _l4t(read_text(root / "etc/nv_tegra_release"))
    compatible = read_text(root / "proc/device-tree/compatible")
    capability = next((value for soc, value in SOCS.items() if soc in compatible), "")
    if not l4t and not capability:
        return Jetson()
    return Jetson(
        l4t=l4t,
        jetpack=_package_version(root, "nvidia-jetpack") or JETPACKS.get(l4t, ""),
        power_mode=_power_mode(root),
        gpus=(Gpu(name="NVIDIA Tegra", compute_capability=capability),) if capability else (),
        dla=_has_dla(root),
    )


def _l4t(text: str) -> str:
    """`# R36 (release), REVISION: 4.3, GCID: ...` -> `36.4.3`."""
    found = re.search(r"R(\d+)\s*\(release\),\s*REVISION:\s*([\d.]+)", text)
    return f"{found[1]}.{found[2]}".removesuffix(".0") if found else ""


def _package_version(root: Path, package: str) -> str:
    """Read a Debian package's version without its build."""
    pattern = rf"^Package: {re.escape(package)}\n(?:[^\n]+\n)*?Version: ([\d.]+)"
    try:
        text = (root / "var/lib/dpkg/status").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
    found = re.search(pattern, text, re.MULTILINE)
    return found[1] if found else ""


def _power_mode(root: Path) -> str:
    """Name the mode that `nvpmodel` has set, by the number in its status and the names in its table."""
    number = re.search(r"pmode:(\d+)", read_text(root / "var/lib/nvpmodel/status"))
    names = {int(key): name for key, name in _MODE.findall(read_text(root / "etc/nvpmodel.conf"))}
    return names.get(int(number[1]), "") if number else ""


def _has_dla(root: Path) -> bool:
    """Look for an NVDLA in the device tree that is not switched off."""
    folders = [*root.glob("proc/device-tree/host1x*/nvdla*"), *root.glob("proc/device-tree/*/host1x*/nvdla*")]
    return any(read_text(folder / "status") in ("", "okay", "ok") for folder in folders)
