"""What on a machine changes numbers or speed, held against a profile: one function a symptom.

Every finding is a warning: the machine is as it is. The rule's name is stable and may be tested for.
"""

from __future__ import annotations

from collections.abc import Callable

from ..runtime.versions import allows, release
from .finding import Finding
from .machine import Machine
from .parts import Engine
from .profile import Profile

HOT_CELSIUS = 80.0  # from here on most devices begin to slow down; a choice
MIB_PER_GIB = 1024


def warnings_for(machine: Machine, profile: Profile) -> tuple[Finding, ...]:
    """Tell what on this machine changes numbers or speed of a bundle made for a profile.

    Args:
        machine: as `examine` gives it.
        profile: the device that the bundle is made for.
    """
    return tuple(finding for symptom in SYMPTOMS for finding in symptom(machine, profile))


def _warn(rule: str, place: str, fault: str, mend: str = "") -> list[Finding]:
    return [Finding(rule=rule, severity="warning", place=place, fault=fault, mend=mend)]


def _saturation(machine: Machine, profile: Profile) -> list[Finding]:
    """Without VNNI pairs of products saturate at 16 bits (ONNX Runtime, "Quantize ONNX models")."""
    if machine.architecture != "x86_64" or machine.int8_dot is not False:
        return []
    if profile.export.weight_bits == 7:
        return []
    fault = "no VNNI here: int8 graphs with 8-bit weights may overflow and answer otherwise"
    return _warn("saturation", "processor", fault, "make the bundle for a profile with weight_bits 7")


def _hidden_saturation(machine: Machine, profile: Profile) -> list[Finding]:
    if not profile.cpu.saturates or not machine.int8_dot:
        return []
    fault = f"this processor cannot show the overflow that {profile.id} may have"
    return _warn("saturation-hidden", "processor", fault, "run the self-test on the device")


def _dot_product(machine: Machine, profile: Profile) -> list[Finding]:
    if machine.architecture != "aarch64" or machine.int8_dot is not False:
        return []
    return _warn("dot-product", "processor", "no dot product of bytes here: int8 brings little", "measure float32 too")


def _bfloat16(machine: Machine, profile: Profile) -> list[Finding]:
    """OpenVINO's CPU plugin computes in bf16 where the processor can (OpenVINO, CPU device)."""
    wide = {"avx512_bf16", "amx_bf16"} & set(machine.instructions or ())
    if not wide or profile.engine("openvino") is None:
        return []
    fault = f"{' and '.join(sorted(wide))} here: OpenVINO would compute float layers in bf16 by itself"
    return _warn("bfloat16", "processor", fault, "Foveola always sets the hint; set it in other programs too")


def _governor(machine: Machine, profile: Profile) -> list[Finding]:
    if machine.governor != "powersave":
        return []
    fault = "governor powersave: the first answer after a pause may be slow"
    return _warn("governor", "clock", fault, "measure after a pause too, or set the governor to performance")


def _heat(machine: Machine, profile: Profile) -> list[Finding]:
    found = []
    if (zone := machine.hottest) and zone.celsius >= HOT_CELSIUS:
        found += _warn("hot", "temperature", f"{zone.name} is at {zone.celsius:.0f} °C", "let it cool before measuring")
    if machine.throttled:
        fault = f"the processor was slowed for heat {machine.throttled} times since it started"
        found += _warn("throttled", "temperature", fault, "look after the cooling")
    return found


def _virtual(machine: Machine, profile: Profile) -> list[Finding]:
    if not machine.virtual:
        return []
    fault = f"this is a {machine.virtual}: times vary with its neighbours, and heat and clock may not be seen"
    return _warn("virtual", "machine", fault, "take figures for a report from the device itself")


def _size(machine: Machine, profile: Profile) -> list[Finding]:
    found = []
    threads = max(one.threads for one in profile.engines)
    if machine.cores < threads:
        fault = f"{machine.cores} cores here, and the profile's engines use {threads} threads"
        found += _warn("cores", "processor", fault, "times here are too long")
    available = machine.memory_available_gib
    if available is not None and available * MIB_PER_GIB < profile.budget.memory_mib:
        free, budget = available * MIB_PER_GIB, profile.budget.memory_mib
        found += _warn("memory", "memory", f"{free:.0f} MiB are free, and the budget is {budget:g}", "free some")
    return found


def _unknown(machine: Machine, profile: Profile) -> list[Finding]:
    if machine.instructions is not None:
        return []
    fault = f"instruction sets cannot be read on {machine.system}, so overflow of int8 cannot be ruled out"
    return _warn("unknown", "processor", fault, "run the self-test")


def _engines(machine: Machine, profile: Profile) -> list[Finding]:
    return [finding for one in profile.engines for finding in _engine(machine, profile, one)]


def _engine(machine: Machine, profile: Profile, one: Engine) -> list[Finding]:
    version = machine.engines.get(one.engine)
    if version is None:
        return _warn(
            "engine-missing", one.engine, "is not installed here", "bundles that prefer it take the next engine"
        )
    if not allows(one.versions, version):
        return _warn("engine-version", one.engine, f"{version} is here, and {profile.id} takes {one.versions}")
    return []


def _jetpack(machine: Machine, profile: Profile) -> list[Finding]:
    """JetPack 6 stays on TensorRT 10; TensorRT 11 needs JetPack 7 (NVIDIA, migration to TensorRT 11)."""
    tensorrt = release(machine.engines.get("tensorrt", ""))
    # Jetson Linux 36 is JetPack 6.
    old = machine.jetpack.startswith("6") or (not machine.jetpack and machine.l4t.startswith("36."))
    if not tensorrt or tensorrt[0] < 11 or not old:
        return []
    fault = (
        f"TensorRT {machine.engines['tensorrt']} on JetPack {machine.jetpack or '6'}, which must stay on TensorRT 10"
    )
    return _warn("jetpack", "tensorrt", fault, "take the TensorRT that JetPack brings")


def _accelerators(machine: Machine, profile: Profile) -> list[Finding]:
    found = []
    for unit in profile.accelerators:
        if machine.has(unit.kind):
            continue
        fault = f"the profile's {unit.kind.upper()} is not seen here"
        found += _warn(
            f"{unit.kind}-absent", unit.name, fault, "see that its driver is loaded, or take another profile"
        )
    return found


def _power_mode(machine: Machine, profile: Profile) -> list[Finding]:
    mode = profile.power_mode
    if not machine.power_mode or not mode or machine.power_mode == mode:
        return []
    fault = f"power mode {machine.power_mode}, and the profile's peaks are of {mode}"
    return _warn("power-mode", "power", fault, "set it with nvpmodel, or take the profile of this mode")


SYMPTOMS: tuple[Callable[[Machine, Profile], list[Finding]], ...] = (
    _saturation, _hidden_saturation, _dot_product, _bfloat16, _governor, _heat, _virtual, _size, _unknown, _engines,
    _jetpack, _accelerators, _power_mode,
)  # fmt: skip
