"""What a profile says against itself; each rule is one function that gives short sentences."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from ..runtime.versions import specifier_fault
from .facts import covered, facts, known_names

if TYPE_CHECKING:
    from .parts import Accelerator, Engine
    from .profile import Profile

# NVIDIA's support matrix for TensorRT: FP8 begins with Ada Lovelace, compute capability 8.9. Orin has 8.7.
FLOAT8_FROM = (8, 9)


def contradictions(profile: Profile) -> list[str]:
    """Tell all contradictions of a profile."""
    return [fault for rule in RULES for fault in rule(profile)]


def has_float8(compute_capability: str | None) -> bool:
    """Tell whether an NVIDIA GPU computes in FP8; unknown counts as yes."""
    if compute_capability is None:
        return True
    major, minor = compute_capability.split(".")
    return (int(major), int(minor)) >= FLOAT8_FROM


def _sources(profile: Profile) -> list[str]:
    given, names = profile.provenance.keys(), facts(profile)
    missing = [f"no provenance for {name}" for name in sorted(names) if covered(name, profile.provenance) is None]
    allowed = known_names(profile)
    if not profile.cpu.instructions:
        allowed -= {"cpu.instructions"}
    return missing + [f"provenance for {name}, which is no fact here" for name in sorted(given - allowed)]


def _names(profile: Profile) -> list[str]:
    faults = []
    if len({one.engine for one in profile.engines}) != len(profile.engines) or not profile.engines:
        faults.append("engines must be named once each, and one at least")
    if twice := _twice([one.name for one in profile.accelerators]):
        faults.append(f"two accelerators are named {twice}")
    return faults


def _cores(profile: Profile) -> list[str]:
    cpu = profile.cpu
    faults = [
        f"{one.engine} has {one.threads} threads on {cpu.cores} cores"
        for one in profile.engines
        if one.threads > cpu.cores
    ]
    if cpu.performance_cores is not None and cpu.performance_cores > cpu.cores:
        faults.append(f"{cpu.performance_cores} performance cores among {cpu.cores} cores")
    foreign = sorted(set(cpu.instructions) & FOREIGN[cpu.architecture])
    return faults + ([f"{', '.join(foreign)} on {cpu.architecture}"] if foreign else [])


FOREIGN: dict[str, frozenset[str]] = {
    "x86_64": frozenset({"neon", "asimddp", "i8mm", "bf16", "sve"}),
    "aarch64": frozenset(
        {"sse4_2", "avx2", "avx_vnni", "avx512f", "avx512_vnni", "avx512_bf16", "amx_int8", "amx_bf16"}
    ),
}


def _saturation(profile: Profile) -> list[str]:
    int8 = any("int8" in one.precisions for one in profile.engines)
    if int8 and profile.cpu.saturates and profile.export.weight_bits == 8:
        return ["int8 without VNNI overflows with 8-bit weights: set export.weight_bits to 7"]
    return []


def _accelerators(profile: Profile) -> list[str]:
    return [fault for one in profile.accelerators for fault in _accelerator(one)]


def _accelerator(one: Accelerator) -> list[str]:
    faults = []
    if unfit := [str(name) for name in one.peak_tops if name not in one.precisions]:
        faults.append(f"accelerator {one.name} has a peak for {', '.join(unfit)}, in which it does not compute")
    if not one.precisions:
        faults.append(f"accelerator {one.name} computes in nothing")
    if "float8" in one.precisions and not has_float8(one.compute_capability):
        faults.append(f"accelerator {one.name} of compute capability {one.compute_capability} has no float8")
    if one.operators and (lost := [name for name in one.activations if name not in one.operators]):
        faults.append(f"accelerator {one.name} has the activations {', '.join(lost)} but not the operators")
    return faults + [f"accelerator {one.name}: {fault}" for fault in _specifiers(one.engine_versions)]


def _engines(profile: Profile) -> list[str]:
    return [fault for one in profile.engines for fault in _engine(profile, one)]


def _engine(profile: Profile, one: Engine) -> list[str]:
    kinds = {accelerator.kind for accelerator in profile.accelerators}
    faults = [f"{one.engine}: {fault}" for fault in _specifiers([one.versions])]
    if not one.precisions:
        faults.append(f"{one.engine} has no precision")
    if one.engine != "openvino" and one.plugin != "CPU":
        faults.append(f"{one.engine} has no plugin {one.plugin}")
    if one.engine == "openvino" and one.plugin != "CPU" and one.plugin.lower() not in kinds:
        faults.append(f"openvino's plugin {one.plugin} needs an accelerator of kind {one.plugin.lower()}")
    if one.engine == "tensorrt" and "gpu" not in kinds:
        faults.append("tensorrt needs an accelerator of kind gpu")
    return faults


def _power(profile: Profile) -> list[str]:
    faults = []
    if profile.power_mode and profile.power_mode not in profile.power_modes:
        faults.append(f"power_mode {profile.power_mode!r} is none of {', '.join(profile.power_modes) or 'none'}")
    for name, mode in profile.power_modes.items():
        for part, peaks in mode.peak_tops.items():
            unit = next((one for one in profile.accelerators if one.name == part), None)
            if unit is None:
                faults.append(f"power mode {name} has a peak for {part}, which is no accelerator")
            elif unfit := [str(precision) for precision in peaks if precision not in unit.precisions]:
                faults.append(f"power mode {name}: {part} does not compute in {', '.join(unfit)}")
    return faults


def _writing(profile: Profile) -> list[str]:
    wanted = profile.export.accelerator
    if not wanted:
        return []
    unit = next((one for one in profile.accelerators if one.name == wanted), None)
    if unit is None:
        return [f"export.accelerator {wanted!r} is no accelerator here"]
    if unit.static_shapes and not profile.export.static_shapes:
        return [f"accelerator {wanted} takes static shapes only: set export.static_shapes"]
    return []


def _specifiers(specifiers: Sequence[str]) -> list[str]:
    return [fault for one in specifiers if (fault := specifier_fault(one))]


def _twice(names: Sequence[str]) -> str:
    return next((name for name in names if names.count(name) > 1), "")


RULES: tuple[Callable[[Profile], list[str]], ...] = (
    _sources, _names, _cores, _saturation, _accelerators, _engines, _power, _writing,
)  # fmt: skip
