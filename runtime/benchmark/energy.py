"""Joules per image, where the machine tells what it draws.

The first of these that can be read counts:

1. a power monitor on the board: hwmon chips `ina*` (Jetson's INA3221 rails; a carrier's INA226, INA260): volts times
   amperes, or its own `power1_input`, sampled and integrated;
2. `tegrastats`, which prints the same rails, where the files are not readable;
3. Intel's and AMD's energy counters (RAPL) in `/sys/class/powercap`: packages and DRAM. Since CVE-2020-8694 only root
   may read them;
4. `nvidia-smi` for a graphics card: the card alone.

    meter, reason = find_meter()
"""

from __future__ import annotations

import contextlib
import re
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import msgspec

from .machine import SYSTEM_ROOT, read_number, read_text
from .meters import Meter, Printed, Rapl, Sampled, total_rails
from .record import Energy

SETTLE_S = 1.0  # after work, before the idle power is read: engines' threads wait busily for a while
_TEGRASTATS = re.compile(r"\b((?:VDD|VIN|POM|CV|SYS|VDDQ)[A-Z0-9_]*) (\d+)(?:mW)?/\d+(?:mW)?")


def find_meter(root: Path = SYSTEM_ROOT, *, gpu: bool = False) -> tuple[Meter | None, str]:
    """Find what tells the energy of this machine, or a word why nothing does.

    Args:
        root: root of the file system; another one in tests.
        gpu: the engine runs on a graphics card, whose own meter counts then.
    """
    if rails := _monitor_rails(root):
        chosen = total_rails(rails)
        return Sampled("power monitor (hwmon)", tuple(chosen), lambda: _sum_watts(tuple(chosen.values()))), ""
    if program := shutil.which("tegrastats"):
        return Printed("tegrastats", (program, "--interval", "100"), read_tegrastats), ""
    if gpu and (program := shutil.which("nvidia-smi")):
        query = ("-i", "0", "--query-gpu=power.draw", "--format=csv,noheader,nounits", "-lms", "100")
        return Printed("nvidia-smi", (program, *query), read_nvidia_smi), ""
    return _find_rapl(root)


def measure_energy(
    call: Callable[[], object], meter: Meter, *, seconds: float, settle_s: float = SETTLE_S
) -> Energy | None:
    """Compare idling with calls without a pause, each for so many seconds; None where the meter stays silent.

    Args:
        call: answers one image.
        meter: from `find_meter`.
        seconds: length of each of the two.
        settle_s: seconds to wait before.
    """
    time.sleep(settle_s)
    idle, idle_s, _ = _metered(meter, lambda: time.sleep(seconds), 0.0)
    busy, busy_s, images = _metered(meter, call, seconds)
    if idle is None or busy is None:
        return None
    return Energy(
        source=meter.source,
        rails=meter.rails,
        idle_watts=idle / idle_s,
        busy_watts=busy / busy_s,
        seconds=busy_s,
        images=images,
        joules_per_image=busy / images,
        joules_per_image_above_idle=(busy - idle / idle_s * busy_s) / images,
    )


def read_tegrastats(line: str) -> dict[str, float]:
    """Give the rails of a line of `tegrastats` in watts: `VDD_IN 4980mW/4970mW`, now and on average."""
    return {name: int(milliwatts) / 1e3 for name, milliwatts in _TEGRASTATS.findall(line)}


def read_nvidia_smi(line: str) -> dict[str, float]:
    """Give the card's power in watts; a card that does not tell prints `[N/A]`."""
    with contextlib.suppress(ValueError):
        return {"card": float(line)}
    return {}


class _Rail(msgspec.Struct, frozen=True):
    """Files whose numbers, multiplied and divided by `per_watt`, are watts."""

    files: tuple[Path, ...]
    per_watt: float

    def watts(self) -> float | None:
        product = 1.0
        for path in self.files:
            number = read_number(path)
            if number is None:
                return None
            product *= number
        return product / self.per_watt


def _monitor_rails(root: Path) -> dict[str, _Rail]:
    """Find the rails of the board's monitors that answer (kernel documentation, `hwmon/ina3221`, `hwmon/ina2xx`)."""
    rails: dict[str, _Rail] = {}
    for chip in sorted((root / "sys/class/hwmon").glob("hwmon*")):
        if not read_text(chip / "name").startswith("ina"):
            continue
        for current in sorted(chip.glob("curr[1-3]_input")):
            channel = current.name[4]
            label = read_text(chip / f"in{channel}_label") or f"{read_text(chip / 'name')} {channel}"
            # The sum of shunt voltages stands among the labels too, and an unused channel is called NC.
            if label.upper() != "NC":
                rails[label] = _Rail((chip / f"in{channel}_input", current), 1e6)  # mV times mA
        if (chip / "power1_input").exists():  # in microwatts, computed by the chip
            rails = {name: rail for name, rail in rails.items() if rail.files[0].parent != chip}
            rails[read_text(chip / "label") or read_text(chip / "name")] = _Rail((chip / "power1_input",), 1e6)
    return {name: rail for name, rail in rails.items() if rail.watts() is not None}


def _sum_watts(rails: tuple[_Rail, ...]) -> float | None:
    total = 0.0
    for rail in rails:
        watts = rail.watts()
        if watts is None:
            return None
        total += watts
    return total


def _find_rapl(root: Path) -> tuple[Meter | None, str]:
    """Packages and the DRAM beside them; cores and graphics are parts of a package, `psys` contains it."""
    zones = sorted((root / "sys/class/powercap").glob("intel-rapl:*"))
    wanted = tuple(zone for zone in zones if read_text(zone / "name").startswith(("package", "dram")))
    if not wanted:
        return None, "this machine tells nothing (no power monitor, no tegrastats, no RAPL)"
    if any(read_number(zone / "energy_uj") is None for zone in wanted):
        return None, "RAPL is there, but its counters are readable by root only"
    return Rapl(wanted), ""


def _metered(meter: Meter, call: Callable[[], object], seconds: float) -> tuple[float | None, float, int]:
    """Give joules, seconds and calls; at least one call is made."""
    count = 0
    meter.start()
    start = time.perf_counter()
    try:
        while not count or time.perf_counter() - start < seconds:
            call()
            count += 1
    finally:
        took = time.perf_counter() - start
        joules = meter.stop()
    return joules, took, count
