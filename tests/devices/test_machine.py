"""The machine as made-up trees of /proc and /sys tell it; nothing of the real machine is asked."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import msgspec
import pytest

from foveola.devices.doctor import at_hand, differences, nearest, warnings_for, why_not_at_hand
from foveola.devices.machine import Machine, Unit, Zone, ask_tool, examine
from foveola.devices.machine_nvidia import find_gpus
from foveola.devices.profile import load_profile, profile_ids

PROFILES = [load_profile(name) for name in profile_ids()]

N100 = """processor\t: 0
model name\t: Intel(R) N100
flags\t\t: fpu sse4_2 avx2 avx_vnni

processor\t: 1
model name\t: Intel(R) N100
flags\t\t: fpu sse4_2 avx2 avx_vnni
"""
ORIN = "".join(
    f"processor\t: {core}\nBogoMIPS\t: 62.50\nFeatures\t: fp asimd asimddp\nCPU part\t: 0xd42\n\n" for core in range(6)
)
MEMORY = "MemTotal:        8024008 kB\nMemFree:         100 kB\nMemAvailable:    4012004 kB\n"


def tree(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


def mini_pc(root: Path, **more: str) -> Path:
    cpu = "sys/devices/system/cpu/cpu0"
    return tree(
        root,
        {
            "proc/cpuinfo": N100,
            "proc/meminfo": MEMORY,
            "sys/class/dmi/id/sys_vendor": "ACME\n",
            "sys/class/dmi/id/product_name": "NUC\n",
            f"{cpu}/cpufreq/cpuinfo_max_freq": "3400000\n",
            f"{cpu}/cpufreq/scaling_governor": "powersave\n",
            f"{cpu}/thermal_throttle/core_throttle_count": "7\n",
            "sys/class/thermal/thermal_zone0/type": "x86_pkg_temp\n",
            "sys/class/thermal/thermal_zone0/temp": "91000\n",
            "sys/class/thermal/thermal_zone1/type": "acpitz\n",
            "sys/class/thermal/thermal_zone1/temp": "-263200\n",
            "sys/class/drm/renderD128/device/vendor": "0x8086\n",
            **more,
        },
    )


def jetson(root: Path, **more: str) -> Path:
    return tree(
        root,
        {
            "proc/cpuinfo": ORIN,
            "proc/meminfo": MEMORY,
            "proc/device-tree/model": "NVIDIA Jetson Orin Nano Engineering Reference Developer Kit Super\0",
            "proc/device-tree/compatible": "nvidia,p3768-0000+p3767-0005-super\0nvidia,p3767-0005\0nvidia,tegra234\0",
            "etc/nv_tegra_release": "# R36 (release), REVISION: 4.3, GCID: 38968081, BOARD: generic, EABI: aarch64\n",
            "etc/nvpmodel.conf": "< POWER_MODEL ID=0 NAME=15W >\n< POWER_MODEL ID=2 NAME=MAXN_SUPER >\n",
            "var/lib/nvpmodel/status": "pmode:0002 fmode:fanNull\n",
            **more,
        },
    )


def rules(machine: Machine, device: str) -> set[str]:
    return {finding.rule for finding in warnings_for(machine, load_profile(device))}


def test_a_mini_pc_tells_processor_memory_heat_and_clock(tmp_path: Path) -> None:
    machine = examine(mini_pc(tmp_path), system="linux")

    assert (machine.architecture, machine.model, machine.board) == ("x86_64", "Intel(R) N100", "ACME NUC")
    assert machine.instructions == ("sse4_2", "avx2", "avx_vnni")
    assert machine.int8_dot
    assert machine.cores == 2
    assert (machine.memory_gib, machine.memory_available_gib) == pytest.approx((7.652, 3.826), abs=1e-3)
    assert (machine.clock_max_ghz, machine.governor, machine.throttled) == (3.4, "powersave", 7)
    assert machine.temperatures == (Zone(name="x86_pkg_temp", celsius=91.0),)
    assert machine.accelerators == (Unit(kind="gpu", name="Intel GPU"),)


def test_a_jetson_tells_jetpack_power_mode_and_its_gpu(tmp_path: Path) -> None:
    machine = examine(jetson(tmp_path), system="linux")

    assert (machine.architecture, machine.cores, machine.int8_dot) == ("aarch64", 6, True)
    assert machine.instructions == ("neon", "asimddp")
    assert (machine.l4t, machine.jetpack, machine.power_mode) == ("36.4.3", "6.2", "MAXN_SUPER")
    assert [gpu.compute_capability for gpu in machine.gpus] == ["8.7"]
    assert not machine.has("dla")


def test_a_jetson_with_a_dla_and_an_installed_jetpack_tells_both(tmp_path: Path) -> None:
    folder = "proc/device-tree/bus@0/host1x@13e00000"
    status = "Package: other\nVersion: 1\n\nPackage: nvidia-jetpack\nStatus: install ok\nVersion: 7.2+b12\n\n"
    more = {f"{folder}/nvdla0@15880000/status": "okay\0", f"{folder}/nvdla1@158c0000/status": "disabled\0"}

    machine = examine(jetson(tmp_path, **more, **{"var/lib/dpkg/status": status}), system="linux")

    assert machine.has("dla")
    assert machine.jetpack == "7.2"


def test_an_npu_is_known_by_its_driver(tmp_path: Path) -> None:
    root = mini_pc(tmp_path)
    driver = root / "sys/bus/pci/drivers/intel_vpu"
    driver.mkdir(parents=True)
    device = root / "sys/class/accel/accel0/device"
    device.mkdir(parents=True)
    (device / "driver").symlink_to(driver)

    assert Unit(kind="npu", name="Intel NPU") in examine(root, system="linux").accelerators


def test_cores_that_differ_count_with_what_all_of_them_have(tmp_path: Path) -> None:
    text = N100.replace("avx2 avx_vnni", "avx2 avx512f", 1)

    machine = examine(tree(tmp_path, {"proc/cpuinfo": text}), system="linux")

    assert machine.instructions == ("sse4_2", "avx2")


def test_a_containers_limit_counts_and_a_missing_one_does_not(tmp_path: Path) -> None:
    limit = "sys/fs/cgroup/memory.max"
    free = examine(mini_pc(tmp_path / "a", **{limit: "max\n"}), system="linux")
    contained = examine(mini_pc(tmp_path / "b", **{limit: f"{2 * 2**30}\n", ".dockerenv": ""}), system="linux")

    assert free.memory_gib == pytest.approx(7.652, abs=1e-3)
    assert (contained.memory_gib, contained.memory_available_gib) == (2.0, 2.0)
    assert contained.virtual == "container"


def test_an_empty_tree_and_another_system_give_what_they_can(tmp_path: Path) -> None:
    empty, mac = examine(tmp_path, system="linux"), examine(tmp_path, system="darwin")

    assert empty.instructions is None
    assert (empty.model, empty.governor, empty.temperatures, empty.throttled) == ("", "", (), None)
    assert (mac.system, mac.instructions) == ("darwin", None)
    assert "unknown" in rules(mac, "generic-x86")


def test_nvidia_smi_is_read_and_its_gaps_are_left_empty() -> None:
    asked: list[Sequence[str]] = []

    def ask(command: Sequence[str]) -> str:
        asked.append(command)
        return "NVIDIA RTX A2000, 8.6, 570.86, 12288\nOrin (nvgpu), [N/A], 540.4.0, [N/A]\nsomething else\n"

    first, second = find_gpus(ask)

    assert asked[0][0] == "nvidia-smi"
    assert (first.name, first.compute_capability, first.driver, first.memory_gib) == (
        "NVIDIA RTX A2000",
        "8.6",
        "570.86",
        12,
    )
    assert (second.compute_capability, second.memory_gib) == ("", None)


def test_a_tool_that_is_absent_or_fails_says_nothing() -> None:
    assert ask_tool(["no-such-tool-anywhere"]) == ""
    assert ask_tool(["false"]) == ""


def test_this_machine_is_examined_without_a_fault_and_without_its_name() -> None:
    import platform

    machine = examine()

    assert machine.cores >= 1
    said = json.loads(msgspec.json.encode(machine))
    assert "python" in said
    assert len(platform.node()) < 4 or platform.node() not in json.dumps(said)


@pytest.mark.parametrize(
    ("model", "board", "mode", "expected"),
    [
        ("Intel(R) N100", "ACME NUC", "", "intel-n100"),
        ("Intel(R) Processor N97", "", "", "intel-n97"),
        ("Intel(R) Core(TM) Ultra 7 155H", "", "", "intel-core-ultra-155h"),
        ("Intel(R) Core(TM) Ultra 7 258V", "", "", "intel-core-ultra-258v"),
        ("Intel(R) N1000", "", "", "x86-avx2-legacy"),
        ("Intel(R) Core(TM) i5-8250U CPU @ 1.60GHz", "", "", "x86-avx2-legacy"),
    ],
)
def test_a_processor_that_names_itself_is_that_device(model: str, board: str, mode: str, expected: str) -> None:
    machine = Machine(
        system="linux", architecture="x86_64", model=model, board=board, power_mode=mode, cores=4, memory_gib=8,
        instructions=("sse4_2", "avx2"),
    )  # fmt: skip

    near = nearest(machine, PROFILES)

    assert near is not None
    assert near.id == expected


@pytest.mark.parametrize(
    ("board", "mode", "expected"),
    [
        ("Raspberry Pi 5 Model B Rev 1.0", "", "rpi5-8gb"),
        ("NVIDIA Jetson Orin Nano Developer Kit", "15W", "jetson-orin-nano-8gb"),
        ("NVIDIA Jetson Orin Nano Developer Kit", "MAXN_SUPER", "jetson-orin-nano-8gb-super"),
        ("NVIDIA Jetson Orin Nano Engineering Reference Developer Kit Super", "", "jetson-orin-nano-8gb-super"),
        ("NVIDIA Jetson AGX Orin Developer Kit", "", "jetson-agx-orin-64gb"),
        ("NXP i.MX8MPlus EVK board (fsl,imx8mp-evk fsl,imx8mp)", "", "imx8m-plus"),
        ("Radxa ROCK 5B (radxa,rock-5b rockchip,rk3588)", "", "rk3588"),
        ("ZynqMP SM-K26 Rev1", "", "kria-k26"),
    ],
)
def test_a_board_that_names_itself_is_that_device(board: str, mode: str, expected: str) -> None:
    machine = Machine(system="linux", architecture="aarch64", board=board, power_mode=mode, cores=4)

    near = nearest(machine, PROFILES)

    assert near is not None
    assert near.id == expected


def test_a_board_of_last_years_model_is_not_taken_for_the_new_one() -> None:
    machine = Machine(system="linux", architecture="aarch64", board="Raspberry Pi 4 Model B Rev 1.5", cores=4)

    near = nearest(machine, PROFILES)

    assert near is not None
    assert "raspberry pi 5" not in " ".join(near.reasons)
    assert not at_hand(machine, load_profile("rpi5-8gb"))


def test_an_architecture_without_a_profile_has_no_nearest() -> None:
    assert nearest(Machine(system="linux", architecture="riscv64"), PROFILES) is None


SERVER = Machine(
    system="linux", architecture="x86_64", model="Xeon", cores=2, memory_gib=4,
    instructions=("sse4_2", "avx2", "avx512f", "avx512_vnni"),
    engines={"onnxruntime": "1.31.1", "openvino": "2026.4.1"},
)  # fmt: skip


def test_measurements_count_where_bytes_are_summed_alike_and_the_accelerators_are_there() -> None:
    assert at_hand(SERVER, load_profile("generic-x86"))
    assert why_not_at_hand(SERVER, load_profile("x86-avx2-legacy")) == (
        "a dot product of bytes here, unlike the profile",
    )
    assert "no GPU here" in why_not_at_hand(SERVER, load_profile("generic-cuda"))
    assert why_not_at_hand(SERVER, load_profile("intel-n100")) == ("this machine does not name itself n100",)
    assert why_not_at_hand(SERVER, load_profile("rpi5-8gb")) == ("this is x86_64, the profile aarch64",)


def test_a_gpu_of_another_generation_does_not_count(tmp_path: Path) -> None:
    machine = examine(jetson(tmp_path), system="linux")
    gpus = (msgspec.structs.replace(machine.gpus[0], compute_capability="7.2"),)

    assert at_hand(machine, load_profile("jetson-orin-nano-8gb-super"))
    other = why_not_at_hand(msgspec.structs.replace(machine, gpus=gpus), load_profile("jetson-orin-nano-8gb-super"))
    assert other == ("compute capability 7.2 here, 8.7 in the profile",)


def test_a_machine_like_its_profile_gets_no_warning_and_no_difference() -> None:
    assert warnings_for(SERVER, load_profile("generic-x86")) == ()
    assert differences(SERVER, load_profile("generic-x86")) == ()


def test_a_hot_throttled_mini_pc_in_powersave_is_warned_of(tmp_path: Path) -> None:
    machine = examine(mini_pc(tmp_path), system="linux")

    assert rules(machine, "intel-n100") == {"governor", "hot", "throttled", "cores", "engine-missing"}


@pytest.mark.parametrize(
    ("changes", "device", "rule"),
    [
        ({"instructions": ("sse4_2", "avx2")}, "generic-x86", "saturation"),
        ({}, "x86-avx2-legacy", "saturation-hidden"),
        ({"architecture": "aarch64", "instructions": ("neon",)}, "rpi5-8gb", "dot-product"),
        ({"instructions": ("sse4_2", "avx2", "avx512f", "avx512_vnni", "amx_bf16")}, "generic-x86", "bfloat16"),
        ({"virtual": "virtual machine"}, "generic-x86", "virtual"),
        ({"cores": 1}, "generic-x86", "cores"),
        ({"memory_available_gib": 0.25}, "generic-x86", "memory"),
        ({"instructions": None}, "generic-x86", "unknown"),
        ({"engines": {"openvino": "2026.4.1"}}, "generic-x86", "engine-missing"),
        ({"engines": {"tensorrt": "11.4.1"}}, "jetson-orin-nx-16gb", "engine-version"),
        ({"engines": {"tensorrt": "11.4.1"}, "jetpack": "6.2"}, "jetson-orin-nx-16gb", "jetpack"),
        ({"engines": {"tensorrt": "11.4.1"}, "l4t": "36.5"}, "jetson-orin-nx-16gb", "jetpack"),
        ({}, "jetson-orin-nx-16gb", "dla-absent"),
        ({"power_mode": "15W"}, "jetson-orin-nx-16gb", "power-mode"),
        ({"governor": "powersave"}, "generic-x86", "governor"),
        ({"throttled": 3}, "generic-x86", "throttled"),
        ({"temperatures": (Zone(name="cpu", celsius=80.0),)}, "generic-x86", "hot"),
    ],
)
def test_what_changes_numbers_or_speed_is_warned_of(changes: dict[str, object], device: str, rule: str) -> None:
    before, after = rules(SERVER, device), rules(msgspec.structs.replace(SERVER, **changes), device)

    assert rule in after
    assert rule not in before or not changes


def test_tensorrt_eleven_on_a_new_jetpack_is_not_warned_of() -> None:
    machine = msgspec.structs.replace(SERVER, engines={"tensorrt": "11.4.1"}, jetpack="7.2")

    assert not {"jetpack", "engine-version"} & rules(machine, "jetson-agx-orin-64gb")
