"""Sensors, machine facts and energy on trees of files like those of real machines."""

from __future__ import annotations

import os
import stat
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from foveola.runtime.benchmark.energy import find_meter, measure_energy, read_nvidia_smi, read_tegrastats
from foveola.runtime.benchmark.machine import OtherWork, read_machine
from foveola.runtime.benchmark.meters import Printed, Rapl, Sampled, integrate, total_rails
from foveola.runtime.benchmark.record import Point
from foveola.runtime.benchmark.sensors import Sensors
from foveola.runtime.benchmark.sustain import POINTS, sustained

Plant = Callable[[dict[str, str]], Path]
ZONE = "sys/class/thermal/thermal_zone"
CPU = "sys/devices/system/cpu/cpu"


@pytest.fixture
def plant(tmp_path: Path) -> Plant:
    """Write files of a machine, by path below its root."""

    def make(files: dict[str, str]) -> Path:
        for name, text in files.items():
            path = tmp_path / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text + "\n")
        return tmp_path

    return make


# --- temperature and clock ---


@pytest.mark.parametrize(
    ("zones", "source", "celsius"),
    [
        ({"acpitz": "27800", "x86_pkg_temp": "61000"}, "x86_pkg_temp", 61.0),
        ({"cpu-thermal": "48500", "gpu-thermal": "47000", "tj-thermal": "49250"}, "tj-thermal", 49.25),
        ({"acpitz": "27800"}, "acpitz", 27.8),
        ({"x86_pkg_temp": "-274000", "soc-thermal": "39000"}, "soc-thermal", 39.0),
    ],
    ids=["pc", "jetson", "board only", "a dead sensor"],
)
def test_the_processors_own_sensor_is_read(plant: Plant, zones: dict[str, str], source: str, celsius: float) -> None:
    pairs = enumerate(zones.items())
    files = {f"{ZONE}{i}/{name}": text for i, (kind, t) in pairs for name, text in (("type", kind), ("temp", t))}

    sensors = Sensors(plant(files))

    assert (sensors.temperature_source, sensors.temperature_c()) == (source, celsius)


def test_a_chip_of_the_processor_serves_where_no_zone_does(plant: Plant) -> None:
    chip = "sys/class/hwmon/hwmon2"

    sensors = Sensors(plant({f"{chip}/name": "k10temp", f"{chip}/temp1_input": "55125"}))

    assert (sensors.temperature_source, sensors.temperature_c()) == ("k10temp", 55.125)


def test_the_clock_is_the_fastest_cores_and_throttling_is_summed(plant: Plant) -> None:
    files = {f"{CPU}{n}/cpufreq/scaling_cur_freq": str(khz) for n, khz in enumerate((800000, 3400000))}
    files |= {f"{CPU}{n}/thermal_throttle/core_throttle_count": "4" for n in range(2)}

    sensors = Sensors(plant(files))

    assert (sensors.clock_source, sensors.clock_mhz(), sensors.throttles()) == ("cpufreq", 3400.0, 8)


def test_a_container_that_shows_nothing_gives_nothing(tmp_path: Path) -> None:
    sensors = Sensors(tmp_path)
    machine = read_machine(tmp_path)

    assert (sensors.temperature_c(), sensors.clock_mhz(), sensors.throttles()) == (None, None, None)
    assert (sensors.temperature_source, sensors.clock_source) == ("", "")
    assert (machine.governor, machine.memory_mib, machine.cpu_quota) == (None, None, None)
    assert OtherWork(tmp_path).share() is None
    assert machine.processor
    assert machine.cores >= 1


def test_a_machine_is_told_by_its_kind_and_never_by_its_number(plant: Plant) -> None:
    root = plant(
        {
            "proc/cpuinfo": "processor\t: 0\nmodel name\t: Intel(R) N100\ncpu MHz\t\t: 700.0\n"
            "flags\t\t: sse4_2 avx2 avx_vnni hypervisor\n\nprocessor\t: 1\nSerial\t\t: 10000000abcd",
            "proc/device-tree/model": "NVIDIA Jetson Orin Nano Developer Kit\0",
            "proc/device-tree/serial-number": "1421022087654",
            "proc/meminfo": "MemTotal:        8388608 kB",
            "sys/fs/cgroup/cpu.max": "150000 100000",
            f"{CPU}0/cpufreq/scaling_governor": "powersave",
        }
    )

    machine = read_machine(root)

    assert (machine.processor, machine.board) == ("Intel(R) N100", "NVIDIA Jetson Orin Nano Developer Kit")
    assert machine.instructions == ("sse4_2", "avx2", "avx_vnni")
    assert (machine.memory_mib, machine.cpu_quota) == (8192.0, 1.5)
    assert (machine.governor, machine.virtual) == ("powersave", True)
    assert not {"10000000abcd", "1421022087654", os.uname().nodename} & set(repr(machine).split("'"))


def test_the_time_that_others_take_is_told_and_ones_own_is_not(plant: Plant, monkeypatch: pytest.MonkeyPatch) -> None:
    second = os.sysconf("SC_CLK_TCK")
    own = iter((10.0, 13.0))
    monkeypatch.setattr("foveola.runtime.benchmark.machine._own_seconds", lambda: next(own))
    root = plant({"proc/stat": "cpu  100 0 100 1000 0 0 0 0 0 0\ncpu0 1 2"})
    others = OtherWork(root)

    # Of 20 seconds of all cores 8 were busy: 5 + 1 computed, 2 stolen by another guest; 3 were this process's own.
    plant({"proc/stat": f"cpu  {100 + 5 * second} 0 {100 + second} {1000 + 12 * second} 0 0 0 {2 * second} 0 0\n"})

    assert others.share() == pytest.approx((8 - 3) / 20)


# --- sustained ---


def test_a_sustained_run_is_a_bounded_series_with_its_heat(plant: Plant) -> None:
    root = plant({f"{ZONE}0/type": "x86_pkg_temp", f"{ZONE}0/temp": "50000", f"{CPU}0/cpufreq/scaling_cur_freq": "1"})
    count = f"{CPU}0/thermal_throttle/core_throttle_count"
    plant({count: "3"})
    calls = 0

    def call() -> None:
        nonlocal calls
        calls += 1
        if calls == 20:  # it grows hot, throttles and slows down
            plant({f"{ZONE}0/temp": "91000", count: "5", f"{CPU}0/cpufreq/scaling_cur_freq": "800000"})
        time.sleep(0.005 if calls < 20 else 0.02)

    seen = sustained(call, 0.9, Sensors(root))

    assert 0.9 <= seen.seconds < 20
    assert seen.runs == calls == sum(point.runs for point in seen.points)
    assert 1 < len(seen.points) <= POINTS
    assert (seen.hottest_c, seen.throttled, seen.temperature_source) == (91.0, 2, "x86_pkg_temp")
    assert seen.last_ms > seen.first_ms >= 5
    assert seen.images_per_s == pytest.approx(seen.runs / seen.seconds)


def test_a_call_that_outlasts_the_run_is_one_point(tmp_path: Path) -> None:
    seen = sustained(lambda: time.sleep(0.02), 0.0, Sensors(tmp_path))

    assert (seen.runs, len(seen.points), seen.hottest_c, seen.throttled) == (1, 1, None, None)
    assert isinstance(seen.points[0], Point)


def test_a_long_run_says_how_it_goes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("foveola.runtime.benchmark.sustain.SAY_EVERY_S", 0.0)
    said: list[str] = []

    sustained(lambda: None, 0.01, Sensors(tmp_path), said.append)

    assert said
    assert said[0].startswith("sustained 0 of 0 s: ")


# --- energy ---


def rapl(zone: str, name: str, microjoules: int, full: int = 262143328850) -> dict[str, str]:
    folder = f"sys/class/powercap/{zone}"
    files = {"name": name, "energy_uj": str(microjoules), "max_energy_range_uj": str(full)}
    return {f"{folder}/{file}": text for file, text in files.items()}


def test_packages_and_memory_count_and_their_parts_do_not_count_twice(plant: Plant) -> None:
    zones = {"intel-rapl:0": "package-0", "intel-rapl:0:0": "core", "intel-rapl:0:1": "dram", "intel-rapl:1": "psys"}
    for zone, name in zones.items():
        plant(rapl(zone, name, 1_000_000))
    plant(rapl("intel-rapl-mmio:0", "package-0", 1_000_000))
    meter, reason = find_meter(plant({}))
    assert meter is not None

    meter.start()
    for zone, name in zones.items():
        plant(rapl(zone, name, 4_000_000))
    joules = meter.stop()

    assert (joules, reason) == (6.0, "")
    assert meter.rails == ("package-0", "dram")


def test_a_counter_that_was_full_meanwhile_is_understood(plant: Plant) -> None:
    root = plant(rapl("intel-rapl:0", "package-0", 900, full=1000))
    meter = Rapl((root / "sys/class/powercap/intel-rapl:0",))

    meter.start()
    plant(rapl("intel-rapl:0", "package-0", 150, full=1000))

    assert meter.stop() == pytest.approx(250e-6)


def test_counters_for_root_alone_are_told_so(plant: Plant, monkeypatch: pytest.MonkeyPatch) -> None:
    root = plant(rapl("intel-rapl:0", "package-0", 1))
    (root / "sys/class/powercap/intel-rapl:0/energy_uj").unlink()  # for root, rights would not stop the test

    meter, reason = find_meter(root)

    assert meter is None
    assert reason == "RAPL is there, but its counters are readable by root only"


def test_a_machine_that_tells_nothing_has_no_meter_and_a_word_why(tmp_path: Path) -> None:
    meter, reason = find_meter(tmp_path)

    assert meter is None
    assert reason.startswith("this machine tells nothing")


def ina3221(rails: dict[str, tuple[int, int]], chip: str = "sys/class/hwmon/hwmon1") -> dict[str, str]:
    files = {f"{chip}/name": "ina3221"}
    for channel, (label, (millivolts, milliamperes)) in enumerate(rails.items(), 1):
        files |= {
            f"{chip}/in{channel}_label": label,
            f"{chip}/in{channel}_input": str(millivolts),
            f"{chip}/curr{channel}_input": str(milliamperes),
        }
    return files


def test_the_input_rail_of_a_jetson_is_the_whole(plant: Plant) -> None:
    root = plant(ina3221({"VDD_IN": (5000, 1200), "VDD_CPU_GPU_CV": (5000, 400), "VDD_SOC": (5000, 300)}))
    meter, _ = find_meter(root)
    assert meter is not None

    energy = measure_energy(lambda: time.sleep(0.01), meter, seconds=0.12, settle_s=0)

    assert energy is not None
    assert energy.rails == ("VDD_IN",)
    assert energy.idle_watts == pytest.approx(6.0, rel=0.25)  # 5 V times 1.2 A; the ends of a short window are blunt
    assert energy.joules_per_image == pytest.approx(6.0 * energy.seconds / energy.images, rel=0.25)
    assert 1 <= energy.images <= 13


def test_without_an_input_rail_all_rails_are_added_and_named(plant: Plant) -> None:
    plant(ina3221({"VDD_GPU_SOC": (5000, 1000), "VDD_CPU_CV": (5000, 200), "NC": (0, 0)}))
    root = plant({"sys/class/hwmon/hwmon3/name": "ina260_u14", "sys/class/hwmon/hwmon3/power1_input": "2500000"})

    meter, _ = find_meter(root)

    assert isinstance(meter, Sampled)
    assert meter.rails == ("VDD_GPU_SOC", "VDD_CPU_CV", "ina260_u14")
    assert meter._watts() == pytest.approx(5 + 1 + 2.5)


@pytest.mark.parametrize(
    ("line", "rails"),
    [
        (
            "11-21-2026 10:00:00 RAM 2048/7620MB (lfb 4x4MB) CPU [3%@729,off] GR3D_FREQ 0% cpu@46.2C "
            "VDD_IN 4980mW/4970mW VDD_CPU_GPU_CV 720mW/715mW VDD_SOC 1440mW/1442mW",
            {"VDD_IN": 4.98, "VDD_CPU_GPU_CV": 0.72, "VDD_SOC": 1.44},
        ),
        ("RAM 903/3964MB (lfb 2x4MB) POM_5V_IN 2154/2154 POM_5V_GPU 41/41", {"POM_5V_IN": 2.154, "POM_5V_GPU": 0.041}),
        ("RAM 903/3964MB SWAP 0/1982MB", {}),
    ],
    ids=["JetPack 5 and later", "JetPack 4", "no rails"],
)
def test_tegrastats_is_read(line: str, rails: dict[str, float]) -> None:
    assert read_tegrastats(line) == rails


def test_the_input_rail_wins_and_a_card_that_does_not_tell_is_silent() -> None:
    assert total_rails({"POM_5V_IN": 2.0, "POM_5V_GPU": 1.0}) == {"POM_5V_IN": 2.0}
    assert total_rails({"A": 2.0, "B": 1.0}) == {"A": 2.0, "B": 1.0}
    assert read_nvidia_smi(" 71.32\n") == {"card": 71.32}
    assert read_nvidia_smi("[N/A]\n") == {}


def test_a_program_that_prints_watts_is_a_meter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = tmp_path / "bin" / "tegrastats"
    program.parent.mkdir()
    code = (
        "import time\nwhile True:\n    print('VDD_IN 8000mW/8000mW VDD_SOC 1mW/1mW', flush=True)\n    time.sleep(.01)\n"
    )
    program.write_text(f"#!{sys.executable}\n{code}")
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", str(program.parent))
    meter, _ = find_meter(tmp_path)
    assert isinstance(meter, Printed)

    meter.start()
    start = time.perf_counter()
    while len(meter._samples) < 20 and time.perf_counter() - start < 30:
        time.sleep(0.01)
    joules = meter.stop()
    took = meter._samples[-1][0] - meter._samples[0][0]

    assert joules == pytest.approx(8 * took)
    assert meter.rails == ("VDD_IN",)


def test_a_program_that_says_nothing_gives_no_energy() -> None:
    meter = Printed("silent", (sys.executable, "-c", "import time; time.sleep(9)"), read_tegrastats)

    assert measure_energy(lambda: time.sleep(0.01), meter, seconds=0.02, settle_s=0) is None


def test_power_is_integrated_by_the_trapezium_rule() -> None:
    assert integrate([(0.0, 2.0), (1.0, 4.0), (3.0, 0.0)]) == 3.0 + 4.0
    assert integrate([(0.0, 2.0)]) is None
