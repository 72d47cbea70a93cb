"""The doctor says which profile this machine is, and what here changes numbers or speed.

machine = examine()
near = nearest(machine, [load_profile(name) for name in profile_ids()])
for finding in warnings_for(machine, load_profile(near.id)):
    print(finding)
"""

from __future__ import annotations

import re
from collections.abc import Sequence

import msgspec

from .machine import Machine as Machine
from .machine import examine as examine
from .parts import INT8_DOT, Accelerator, Instruction, Kind
from .profile import Profile
from .symptoms import warnings_for as warnings_for

# Instruction sets that decide how fast integers and floats are; two machines that agree in them rank variants alike.
DECISIVE: tuple[Instruction, ...] = ("avx2", "avx512f", "avx_vnni", "avx512_vnni", "amx_int8", "asimddp", "i8mm")
NAMED, DOT, WIDTH, UNIT, SIZE = 100.0, 20.0, 3.0, 5.0, 1.0  # points: the device names itself; all else is likeness
_SPACE = re.compile(r"\(r\)|\(tm\)|_")  # Intel(R), MAXN_SUPER


class Nearest(msgspec.Struct, frozen=True, kw_only=True):
    """The profile that is most like a machine."""

    id: str
    reasons: tuple[str, ...]
    differences: tuple[str, ...]


def nearest(machine: Machine, profiles: Sequence[Profile]) -> Nearest | None:
    """Find the profile that is most like a machine; None where no profile has its architecture.

    A machine that names itself as a profile's `known_as` says is that device; otherwise classes of devices are compared
    by the instruction sets, then the accelerators, then cores and memory. Equal likeness goes to the first id.

    Args:
        machine: as `examine` gives it.
        profiles: those to choose from.
    """
    able = [one for one in profiles if one.cpu.architecture == machine.architecture]
    able = [one for one in able if not one.known_as or _named(machine, one)] or able
    if not able:
        return None
    best = min(able, key=lambda one: (-_likeness(machine, one), one.id))
    return Nearest(id=best.id, reasons=_reasons(machine, best), differences=differences(machine, best))


def at_hand(machine: Machine, profile: Profile) -> bool:
    """Tell whether measurements on this machine count for a profile; `why_not_at_hand` says why not."""
    return not why_not_at_hand(machine, profile)


def why_not_at_hand(machine: Machine, profile: Profile) -> tuple[str, ...]:
    """Say what keeps measurements here from counting for a profile; empty: they count.

    The architecture, the way in which bytes are summed, the kind of vectors and every accelerator that the profile's
    engines use must be the same. A profile of one device counts on that device only.
    """
    reasons = []
    if machine.architecture != profile.cpu.architecture:
        return (f"this is {machine.architecture}, the profile {profile.cpu.architecture}",)
    if profile.known_as and not _named(machine, profile):
        reasons.append(f"this machine does not name itself {' or '.join(profile.known_as)}")
    if machine.instructions is None:
        reasons.append("this machine's instruction sets are not known")
    else:
        reasons += _ways(machine.instructions, profile)
    return tuple(reasons + [reason for unit in _used(profile) if (reason := _lacks(machine, unit))])


def _ways(here: Sequence[Instruction], profile: Profile) -> list[str]:
    """Say in what two processors compute otherwise, however fast they are."""
    there, found = profile.cpu.instructions, []
    if profile.cpu.int8_dot != bool(INT8_DOT & set(here)):
        found.append(f"{'no dot' if profile.cpu.int8_dot else 'a dot'} product of bytes here, unlike the profile")
    if ("avx2" in here) != ("avx2" in there):
        found.append(f"{'avx2' if 'avx2' in here else 'no avx2'} here, unlike the profile")
    return found


def differences(machine: Machine, profile: Profile) -> tuple[str, ...]:
    """Say in what a machine differs from a profile, in short sentences."""
    found = []
    if machine.instructions is not None:
        found += _instruction_differences(machine.instructions, profile.cpu.instructions)
    if machine.cores != profile.cpu.cores:
        found.append(f"{machine.cores} cores here, {profile.cpu.cores} in the profile")
    if machine.memory_gib is not None and not 0.8 <= machine.memory_gib / profile.memory.gib <= 1.25:
        found.append(f"{machine.memory_gib:.1f} GiB of memory here, {profile.memory.gib:g} in the profile")
    found += [reason for unit in profile.accelerators if (reason := _lacks(machine, unit))]
    mode = profile.power_mode
    if machine.power_mode and mode and machine.power_mode != mode:
        found.append(f"power mode {machine.power_mode} here, the profile's peaks are of {mode}")
    return tuple(found)


def _instruction_differences(here: Sequence[Instruction], there: Sequence[Instruction]) -> list[str]:
    missing = [name for name in DECISIVE if name in there and name not in here]
    more = [name for name in DECISIVE if name in here and name not in there]
    # One way of multiplying bytes does for another of the same width.
    if "avx_vnni" in more and "avx512_vnni" in here and "avx512_vnni" in there:
        more.remove("avx_vnni")
    found = [f"no {', '.join(missing)} here"] if missing else []
    return found + ([f"{', '.join(more)} here, not in the profile"] if more else [])


def _lacks(machine: Machine, unit: Accelerator) -> str:
    """Say that an accelerator is not here, or is another one."""
    if not machine.has(unit.kind):
        return f"no {unit.kind.upper()} here"
    capabilities = [gpu.compute_capability for gpu in machine.gpus if gpu.compute_capability]
    if unit.compute_capability and unit.compute_capability not in capabilities:
        here = ", ".join(capabilities) or "unknown"
        return f"compute capability {here} here, {unit.compute_capability} in the profile"
    return ""


def _used(profile: Profile) -> list[Accelerator]:
    """Give the accelerators that the profile's engines run on."""
    kinds = {"gpu" for one in profile.engines if one.engine == "tensorrt"}
    kinds |= {one.plugin.lower() for one in profile.engines if one.engine == "openvino" and one.plugin != "CPU"}
    return [unit for unit in profile.accelerators if unit.kind in kinds]


def _named(machine: Machine, profile: Profile) -> bool:
    """Whether the machine names itself as the profile is known."""
    return any(_score(machine, entry) for entry in profile.known_as)


def _score(machine: Machine, entry: str) -> int:
    """Count the words of an entry when all its phrases are among the machine's names, otherwise 0."""
    said = " ".join(_SPACE.sub(" ", f"{machine.model} {machine.board} {machine.power_mode}".lower()).split())
    phrases = [" ".join(part.split()) for part in entry.lower().split("&")]
    if not all(re.search(rf"(?<!\w){re.escape(phrase)}(?!\w)", said) for phrase in phrases):
        return 0
    return sum(len(phrase.split()) for phrase in phrases)


def _likeness(machine: Machine, profile: Profile) -> float:
    names = max((_score(machine, entry) for entry in profile.known_as), default=0)
    points = NAMED * names
    if machine.instructions is not None:
        points += DOT * (machine.int8_dot == profile.cpu.int8_dot)
        points += WIDTH * sum((name in machine.instructions) == (name in profile.cpu.instructions) for name in DECISIVE)
    kinds = {unit.kind for unit in profile.accelerators}
    here = {unit.kind for unit in machine.accelerators}
    points += UNIT * (len(kinds & here) - len(kinds ^ here))
    points -= SIZE * abs(machine.cores - profile.cpu.cores) / max(machine.cores, profile.cpu.cores)
    if machine.memory_gib:
        ratio = min(machine.memory_gib, profile.memory.gib) / max(machine.memory_gib, profile.memory.gib)
        points -= SIZE * (1 - ratio)
    return points


def _reasons(machine: Machine, profile: Profile) -> tuple[str, ...]:
    reasons = [f"it is {machine.architecture}"]
    if named := next((entry for entry in profile.known_as if _score(machine, entry)), ""):
        reasons.insert(0, f"it names itself {named}")
    if machine.instructions is not None:
        shared = [name for name in DECISIVE if name in machine.instructions and name in profile.cpu.instructions]
        reasons.append(f"it has {', '.join(shared)}" if shared else "it has no wide vectors")
    kinds: list[Kind] = sorted({unit.kind for unit in profile.accelerators})
    reasons += [f"it has a {kind.upper()}" for kind in kinds if machine.has(kind)]
    return tuple(reasons)
