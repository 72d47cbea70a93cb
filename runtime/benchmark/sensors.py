"""Temperature, clock and throttling as Linux tells them; nothing readable gives None and an empty source.

- Temperature: `thermal_zone*/temp` or `hwmon*/temp*_input`, both in thousandths of a degree Celsius
  (kernel documentation, `sysfs-class-thermal` and `hwmon/sysfs-interface`).
- Clock: `cpufreq/scaling_cur_freq` in kHz, the fastest core's; else `cpu MHz` of `/proc/cpuinfo`, which a virtual
  machine mostly holds constant.
- Throttling: the counters of `thermal_throttle/core_throttle_count` (x86), summed over cores.
"""

from __future__ import annotations

from pathlib import Path

from .machine import SYSTEM_ROOT, read_number, read_text

# The processor's own sensor is wanted; beginnings of the names of zones and chips, the best first. `tj` is a Jetson's
# hottest junction; `acpitz` sits somewhere on the board and comes after everything else.
_PREFERRED = ("x86_pkg_temp", "tj", "cpu", "coretemp", "k10temp", "soc", "bigcore", "gpu")
_LAST = "acpitz"
_PLAUSIBLE_C = (-40.0, 150.0)


class Sensors:
    """The sensors of one machine, found once.

    Args:
        root: root of the file system; another one in tests.
    """

    def __init__(self, root: Path = SYSTEM_ROOT) -> None:
        self._root = root
        self._temperature, self.temperature_source = _find_temperature(root)
        self._clocks = sorted((root / "sys/devices/system/cpu").glob("cpu[0-9]*/cpufreq/scaling_cur_freq"))
        self._clocks = [path for path in self._clocks if read_number(path)]
        self.clock_source = "cpufreq" if self._clocks else "cpuinfo" if self._cpuinfo_mhz() else ""
        self._throttles = sorted(
            (root / "sys/devices/system/cpu").glob("cpu[0-9]*/thermal_throttle/core_throttle_count")
        )

    def temperature_c(self) -> float | None:
        """Read the processor's temperature in degrees Celsius."""
        return _celsius(self._temperature) if self._temperature else None

    def clock_mhz(self) -> float | None:
        """Read the clock of the fastest core in MHz."""
        if not self._clocks:
            return self._cpuinfo_mhz()
        return max((read_number(path) or 0) for path in self._clocks) / 1e3 or None

    def throttles(self) -> int | None:
        """Count how often a core has throttled since the machine was started."""
        counts = [count for path in self._throttles if (count := read_number(path)) is not None]
        return sum(counts) if counts else None

    def _cpuinfo_mhz(self) -> float | None:
        try:
            lines = (self._root / "proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
        except OSError:
            return None
        clocks = [float(line.partition(":")[2]) for line in lines if line.startswith("cpu MHz")]
        return max(clocks, default=None)


def _find_temperature(root: Path) -> tuple[Path | None, str]:
    """Choose the sensor nearest to the processor among those that answer."""
    zones = (root / "sys/class/thermal").glob("thermal_zone*")
    found = [(read_text(zone / "type").lower(), zone / "temp") for zone in zones]
    for chip in (root / "sys/class/hwmon").glob("hwmon*"):
        found += [(read_text(chip / "name").lower(), path) for path in chip.glob("temp*_input")]
    answering = [(name, path) for name, path in found if _celsius(path) is not None]
    if not answering:
        return None, ""
    name, path = min(answering, key=lambda one: (_rank(one[0]), str(one[1])))
    return path, name


def _rank(name: str) -> int:
    if name.startswith(_LAST):
        return len(_PREFERRED) + 1
    ranks = [rank for rank, beginning in enumerate(_PREFERRED) if name.startswith(beginning)]
    return ranks[0] if ranks else len(_PREFERRED)


def _celsius(path: Path) -> float | None:
    number = read_number(path)
    if number is None or not _PLAUSIBLE_C[0] < number / 1e3 < _PLAUSIBLE_C[1]:
        return None  # an absent sensor often reads as -273 or 255 degrees
    return number / 1e3
