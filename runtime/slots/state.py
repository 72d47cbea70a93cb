"""What a device's root folder holds: two slots, which of them is active, and the highest version that lived there.

    DIR/
        state.json              this file's `State`, with its sha256 against a worn flash cell; replaced in one step
        a/bundle.foveola        a slot's bundle
        a/selftest.json         on which machine and engine it passed its self-test (`runtime/tested.py`)
        b/...                   the other slot
        lock                    held by whoever changes something

Laws:
- The slot of a record holds exactly that bundle, whole: the record goes before its file is exchanged and comes after.
- A slot's life: `ready` (installed and tested) -> `trial` (active, not known to live) -> `good` (it lived) or `failed`.
- `floor` only rises: nothing older is installed where a newer version has lived.
- `decode_state(encode_state(s)) == s`.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Annotated, Literal

import msgspec

from ..durable import write_file
from ..errors import FoveolaError
from ..manifest import EngineName, Sha256
from ..versions import release

FORMAT = 1
STATE, BUNDLE, TESTED = "state.json", "bundle.foveola", "selftest.json"
MAX_STATE_BYTES = 64 * 1024
MOST_VERSION = 100  # letters of a version; a number of thousands of digits is none
MOST_WORDS = 1000  # letters of a reason
TRIES = 3  # starts of a new bundle that may end before it was said to live

SlotName = Literal["a", "b"]
Life = Literal["ready", "trial", "good", "failed"]


class Slot(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The record of one slot.

    Args:
        version: of the bundle, from its manifest.
        digest: of the bundle.
        engine: on which it passed its self-test.
        life: how far it has come.
        starts: of a trial: how often a process has begun with it.
        reason: of a failure: why it was left.
    """

    version: Annotated[str, msgspec.Meta(max_length=MOST_VERSION)]
    digest: Sha256
    engine: EngineName
    life: Life
    starts: Annotated[int, msgspec.Meta(ge=0)] = 0
    reason: str = ""


class State(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The whole of it.

    Args:
        format: of the file.
        name: of the product: every bundle here has this name in its manifest; empty while nothing was installed.
        active: the slot in use; None until one is activated.
        floor: the highest version that was ever good here.
        a: record of the first slot; None where it is empty.
        b: of the second.
    """

    format: Literal[1] = 1
    name: str = ""
    active: SlotName | None = None
    floor: Annotated[str, msgspec.Meta(max_length=MOST_VERSION)] = ""
    a: Slot | None = None
    b: Slot | None = None

    def slot(self, name: SlotName | None) -> Slot | None:
        """Give a slot's record; None for an empty slot and for no slot."""
        return {"a": self.a, "b": self.b, None: None}[name]

    @property
    def spare(self) -> SlotName:
        """The slot that is not active: where the next bundle goes, and where a return leads."""
        return "b" if self.active == "a" else "a"

    @property
    def on_trial(self) -> bool:
        """Whether the active bundle is still to prove that it lives."""
        slot = self.slot(self.active)
        return slot is not None and slot.life == "trial"

    @property
    def fallback(self) -> SlotName | None:
        """The slot to return to: the other one, where its bundle has lived; None where there is none."""
        slot = self.slot(self.spare)
        return self.spare if self.active is not None and slot is not None and slot.life == "good" else None

    def with_slot(self, name: SlotName, slot: Slot | None) -> State:
        """Exchange one slot's record."""
        return msgspec.structs.replace(self, a=slot) if name == "a" else msgspec.structs.replace(self, b=slot)


class _Sealed(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    sha256: Sha256  # of the state's canonical JSON
    state: State


def activated(state: State) -> State:
    """Make the other slot active: one that lived before lives, a new one is on trial."""
    slot = state.slot(state.spare)
    assert slot is not None, "the caller has looked"
    life: Life = "good" if slot.life == "good" else "trial"
    tried = msgspec.structs.replace(slot, life=life, starts=0, reason="")
    left = _left(state, f"left for {slot.version}")
    return msgspec.structs.replace(left.with_slot(state.spare, tried), active=state.spare)


def returned(state: State, reason: str) -> State:
    """Go back to the other slot; the one that is left keeps the reason, unless it had lived."""
    assert state.fallback is not None, "the caller has looked"
    return msgspec.structs.replace(_left(state, reason), active=state.fallback)


def _left(state: State, reason: str) -> State:
    """A trial that is left has failed."""
    slot = state.slot(state.active)
    if state.active is None or slot is None or slot.life != "trial":
        return state
    return state.with_slot(state.active, msgspec.structs.replace(slot, life="failed", reason=reason[:MOST_WORDS]))


def lived(state: State) -> State:
    """The active bundle lives: no return is needed any more, and nothing older is installed from now on."""
    slot = state.slot(state.active)
    assert slot is not None, "the caller has looked"
    assert state.active is not None
    good = msgspec.structs.replace(slot, life="good", starts=0)
    floor = slot.version if numbers(slot.version) > numbers(state.floor) else state.floor
    return msgspec.structs.replace(state.with_slot(state.active, good), floor=floor)


def numbers(version: str) -> tuple[int, ...]:
    """Give a version's release numbers in a form that compares: without zeros at the end (`1.0` is `1`)."""
    found = release(version) if len(version) <= MOST_VERSION else ()
    while found and found[-1] == 0:
        found = found[:-1]
    return found


def bundle_path(root: Path, name: SlotName) -> Path:
    """Name the bundle's file of a slot."""
    return root / name / BUNDLE


def record_path(root: Path, name: SlotName) -> Path:
    """Name the file that says where a slot's bundle passed its self-test."""
    return root / name / TESTED


def encode_state(state: State) -> bytes:
    """Canonical JSON: keys sorted, two spaces, one newline at the end."""
    sealed = _Sealed(sha256=_digest(state), state=state)
    return msgspec.json.format(msgspec.json.encode(sealed, order="sorted"), indent=2) + b"\n"


def decode_state(data: bytes, place: str = STATE) -> State:
    """Bytes to a checked state.

    Raises:
        FoveolaError: not JSON, a field unknown or missing, a checksum that does not fit, or slots that contradict.
    """
    mend = "see docs/update.md, `When state.json is lost`"
    try:
        sealed = msgspec.json.decode(data, type=_Sealed)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise FoveolaError(place, f"cannot be read ({error})", mend) from None
    if _digest(sealed.state) != sealed.sha256:
        raise FoveolaError(place, "its checksum does not fit", mend)
    if sealed.state.active is not None and sealed.state.slot(sealed.state.active) is None:
        raise FoveolaError(place, f"slot {sealed.state.active} is active and empty", mend)
    return sealed.state


def read_state(root: Path) -> State:
    """Read a root folder's state; of an empty or absent folder it is the empty state.

    Raises:
        FoveolaError: the file cannot be read.
    """
    path = root / STATE
    try:
        with path.open("rb") as file:
            data = file.read(MAX_STATE_BYTES + 1)
    except FileNotFoundError:
        return State()
    except OSError as error:
        raise FoveolaError(str(path), f"cannot be read: {error.strerror}", "check the path and its rights") from None
    if len(data) > MAX_STATE_BYTES:
        raise FoveolaError(str(path), f"has more than {MAX_STATE_BYTES} bytes", "give the folder of `install --root`")
    return decode_state(data, str(path))


def write_state(root: Path, state: State) -> None:
    """Replace the state in one step.

    Raises:
        FoveolaError: it cannot be written; the old one stays.
    """
    write_file(root / STATE, encode_state(state))


def _digest(state: State) -> str:
    return hashlib.sha256(msgspec.json.encode(state, order="sorted")).hexdigest()
