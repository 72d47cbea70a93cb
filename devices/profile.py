"""What a device can do, typed: one YAML file a device, and where each of its facts comes from.

- Every number, every set of instructions and every list of operators has a source, named by its dotted path
  (`accelerators.gpu.peak_tops.int8`); one without is refused. Settings (`export`, `engines`) are decisions and have
  none.
- What is only general knowledge is marked `known` and must be confirmed from the vendor's document before a product
  relies on it; `load_profile(..., strict=True)` refuses it.

    profile = load_profile("intel-n100")
    profile.budget.latency_ms, profile.provenance["memory.bandwidth_gb_s"].source
"""

from __future__ import annotations

from collections.abc import Sequence
from difflib import get_close_matches
from pathlib import Path

import msgspec

from ..runtime.errors import FoveolaError
from ..runtime.manifest import (
    Budget,
    EngineName,
    EngineOptions,
    OnnxRuntimeOptions,
    OpenVinoOptions,
    TensorRtOptions,
)
from .contradictions import contradictions
from .facts import covered, facts
from .parts import Accelerator as Accelerator
from .parts import Cpu as Cpu
from .parts import Derate as Derate
from .parts import Engine as Engine
from .parts import Export as Export
from .parts import Memory as Memory
from .parts import PowerMode as PowerMode
from .parts import Provenance as Provenance
from .parts import VendorEngine as VendorEngine
from .reading import MAX_BYTES, read_struct

FOLDER = Path(__file__).parent
UNVERIFIED = ("known",)  # sources that a strict reader refuses
# Fields that change no artefact and no choice between artefacts; a step's identity leaves them out.
WORDS = ("title", "notes", "provenance", "known_as", "vendor_engines")


class Profile(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A device, or a class of devices that answer alike.

    Args:
        id: its name in recipes, and the file's.
        title: what people call it.
        known_as: phrases by which the device names itself (processor, board, power mode), any of them; `a & b` needs
            both. Empty for a class of devices.
        cpu: the processor.
        memory: main memory.
        accelerators: what computes beside the processor.
        power_modes: by the vendor's name.
        power_mode: the one for which the accelerators' peaks hold; empty: there is but one.
        derate: what share of the peaks is reached.
        export: how a network is written for it.
        engines: those for which Foveola writes, the preferred first.
        vendor_engines: others that work there.
        budget: what a network may cost.
        provenance: where each fact comes from, by its dotted path.
        notes: what else one must know.
    """

    id: str
    title: str
    known_as: tuple[str, ...] = ()
    cpu: Cpu
    memory: Memory
    accelerators: tuple[Accelerator, ...] = ()
    power_modes: dict[str, PowerMode] = {}
    power_mode: str = ""
    derate: Derate = Derate()
    export: Export = Export()
    engines: tuple[Engine, ...]
    vendor_engines: tuple[VendorEngine, ...] = ()
    budget: Budget
    provenance: dict[str, Provenance]
    notes: tuple[str, ...] = ()

    def faults(self) -> list[str]:
        """Tell all that contradicts itself or has no source, as short sentences."""
        return contradictions(self)

    def unverified(self) -> tuple[str, ...]:
        """Give the dotted paths of the facts that are only general knowledge."""
        sources = {name: covered(name, self.provenance) for name in facts(self)}
        return tuple(name for name, source in sources.items() if source and source.source in UNVERIFIED)

    def accelerator(self, name: str) -> Accelerator | None:
        """Find an accelerator by its name or its kind."""
        return next((one for one in self.accelerators if name in (one.name, one.kind)), None)

    def engine(self, name: EngineName) -> Engine | None:
        """Find an engine."""
        return next((one for one in self.engines if one.engine == name), None)


def load_profile(name: str, folder: Path = FOLDER, *, strict: bool = False) -> Profile:
    """Read and check a profile.

    Args:
        name: id of a shipped profile, or the path of a YAML file.
        folder: where shipped profiles lie.
        strict: refuse facts that are only general knowledge.

    Raises:
        FoveolaError: no such profile, not YAML, or fields that are wrong, contradict each other or have no source; all
            of one stage at once.
    """
    path = _find(name, folder)
    try:
        with path.open("rb") as file:
            data = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise FoveolaError(f"device {name!r}", f"cannot be read: {error.strerror}", "give a YAML file") from None
    profile = read_struct(data, Profile, path.name, "see devices/generic-x86.yaml")
    faults = profile.faults()
    if profile.id != path.stem:
        faults.append(f"id {profile.id!r} is not the file's name")
    if faults:
        raise FoveolaError(path.name, ", ".join(faults), "correct the profile")
    if strict and (names := profile.unverified()):
        word = "are" if len(names) > 1 else "is"
        raise FoveolaError(
            path.name,
            f"{', '.join(names)} {word} only general knowledge",
            "confirm from the vendor's document and write the source down",
        )
    return profile


def _find(name: str, folder: Path) -> Path:
    """Give the file of a profile; an id is one of those that lie in the folder and never a way out of it."""
    if name.endswith((".yaml", ".yml")):
        return Path(name)
    known = profile_ids(folder)
    if name not in known:
        near = get_close_matches(name, known, 1)
        mend = f"did you mean {near[0]!r}?" if near else "known are " + ", ".join(known)
        raise FoveolaError(f"device {name!r}", "there is no such profile", mend)
    return folder / f"{name}.yaml"


def profile_ids(folder: Path = FOLDER) -> tuple[str, ...]:
    """Ids of the shipped profiles, sorted."""
    return tuple(sorted(path.stem for path in folder.glob("*.yaml")))


def engine_options(profile: Profile) -> tuple[EngineOptions, ...]:
    """Give the engines as a bundle's manifest records them, in the profile's order of preference."""
    return tuple(_options(one) for one in profile.engines)


def _options(one: Engine) -> EngineOptions:
    first = one.precisions[0]
    if one.engine == "onnxruntime":
        return OnnxRuntimeOptions(arithmetic=first, threads=one.threads, spinning=one.spinning, pinned=one.pinned)
    if one.engine == "openvino":
        return OpenVinoOptions(arithmetic=first, threads=one.threads, pinned=one.pinned, plugin=one.plugin)
    return TensorRtOptions(arithmetic=first)


def options_for(profile: Profile, engines: Sequence[EngineName]) -> list[EngineOptions]:
    """Give the options of some of the device's engines, in the order asked for.

    Raises:
        FoveolaError: the device does not have one of them.
    """
    offered = {one.engine: options for one, options in zip(profile.engines, engine_options(profile), strict=True)}
    unfit = [one for one in engines if one not in offered]
    if unfit:
        raise FoveolaError(f"device {profile.id}", f"has no {', '.join(unfit)}", f"its engines: {', '.join(offered)}")
    return [offered[one] for one in engines]
