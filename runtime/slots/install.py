"""A new bundle into the other slot, the switch to it, and the way back; the active slot's bundle is never touched.

The order of an install, each step outlasting a power cut before the next begins:

1. the bundle is read once; its signature, name and version are checked;
2. it is written beside the other slot's bundle, read back from there by the same way as everybody, and put to its
   self-test: until now both slots are as they were;
3. the other slot's record goes, the files are renamed, the new record comes.

A switch is one replacement of `state.json`. Before it the slot's bundle is opened with the key again, and has to have
passed its self-test on what is here now.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from contextlib import AbstractContextManager, suppress
from pathlib import Path

import msgspec

from ..bundle import KEY_VARIABLE, Bundle, bundle_bytes, open_bundle
from ..durable import make_folder, move_file, remove_file, write_new
from ..errors import FoveolaError, NotVouchedError
from ..fingerprint import Fingerprint, fingerprint
from ..manifest import TensorRtOptions
from ..predict import choose_engine
from ..selftest import SelfTest, self_test
from ..tensorrt.plan import engines_folder
from ..tested import demand_self_test, keep_record, require_passed
from .lock import locked
from .state import (
    Slot,
    SlotName,
    State,
    activated,
    bundle_path,
    numbers,
    read_state,
    record_path,
    returned,
    write_state,
)

STAGED = "bundle.foveola.staged"  # beside a slot's bundle while it is tested
SPARE_BYTES = 256 * 1024  # of room beyond the bundle: records, and what a file system takes for itself
Say = Callable[[str], None]


class Installed(msgspec.Struct, frozen=True, kw_only=True):
    """What an install left behind; `test` is None where the very same bundle was active already."""

    slot: SlotName
    record: Slot
    test: SelfTest | None


def install(
    source: Path, root: Path, *, key: Path | None = None, engine: str | None = None, say: Say = lambda line: None
) -> Installed:
    """Put a bundle into the slot that is not active, tested; nothing is switched.

    Args:
        source: the bundle's file.
        root: the device's folder; made where it is not there.
        key: public key; else the file that `FOVEOLA_KEY` names. A key beside the bundle is not taken.
        engine: as for `Predictor`; the slot's bundle is tested and run on it.
        say: takes lines of progress.

    Raises:
        NotVouchedError: no signature, no key, or the signature does not hold.
        FoveolaError: another product, not newer than what has lived here, the active one is still on trial, no room,
            or the self-test fails. Both slots are then as they were.
    """
    pinned = pinned_key(key, source)
    bundle = open_bundle(source, key=pinned)
    make_folder(root)
    with locked(root):
        state = read_state(root)
        active = state.slot(state.active)
        if state.active is not None and active is not None and active.digest == bundle.digest:
            say(f"{bundle.manifest.name} {bundle.manifest.version} is active already")
            return Installed(slot=state.active, record=active, test=None)
        require_admissible(root, state, bundle)
        return _put(root, state, bundle, pinned, engine, say)


def activate(root: Path, *, key: Path | None = None, say: Say = lambda line: None) -> State:
    """Switch to the other slot; a bundle that never lived here is on trial from now on.

    Args:
        root: the device's folder.
        key: as for `install`.
        say: takes lines of progress.

    Raises:
        NotVouchedError: as for `install`.
        FoveolaError: nothing is ready there, or it fails its self-test. The active slot is then as it was.
    """
    pinned = pinned_key(key, root)
    with _changing(root):
        state = read_state(root)
        slot, active = state.slot(state.spare), state.slot(state.active)
        newer = slot is not None and active is not None and numbers(slot.version) > numbers(active.version)
        if slot is None or not (slot.life == "ready" or (slot.life == "good" and newer)):
            raise FoveolaError(str(root), _nothing_ready(slot), "install a bundle, or run `foveola rollback`")
        _require_slot(root, state, slot, pinned, say)
        if slot.life == "ready":
            _require_newer(root, state, slot.version)
        switched = activated(state)
        write_state(root, switched)
    return switched


def rollback(root: Path, *, key: Path | None = None, say: Say = lambda line: None) -> State:
    """Return to the other slot, whose older bundle has lived here.

    Args:
        root: the device's folder.
        key: as for `install`.
        say: takes lines of progress.

    Raises:
        NotVouchedError: as for `install`.
        FoveolaError: there is nothing to return to, or it fails its self-test. The active slot is then as it was.
    """
    pinned = pinned_key(key, root)
    with _changing(root):
        state = read_state(root)
        slot, active = state.slot(state.fallback), state.slot(state.active)
        if slot is None or active is None:
            fault = f"the other slot {state.spare} holds nothing that has lived here"
            raise FoveolaError(str(root), fault, "install a bundle with a higher version")
        if numbers(slot.version) > numbers(active.version):
            fault = f"the other slot {state.spare} holds {slot.version}, which is newer"
            raise FoveolaError(str(root), fault, "run `foveola activate`")
        _require_slot(root, state, slot, pinned, say)
        back = returned(state, "rolled back by hand")
        write_state(root, back)
    return back


def pinned_key(key: Path | None, place: Path) -> Path:
    """Give the key that a device trusts; a file beside a bundle that somebody delivers vouches for nothing.

    Raises:
        NotVouchedError: no key is named.
    """
    named = key or (Path(os.environ[KEY_VARIABLE]) if os.environ.get(KEY_VARIABLE) else None)
    if named is None:
        mend = f"give --key, or name its file in {KEY_VARIABLE}; one beside the bundle is not taken"
        raise NotVouchedError(str(place), "no key to check a signature with", mend)
    return named


def require_admissible(root: Path, state: State, bundle: Bundle) -> None:
    """Refuse a bundle that must not enter: another product, not newer, or one that would cost the last good one.

    Raises:
        FoveolaError: it must not.
    """
    name, other = bundle.manifest.name, state.slot(state.spare)
    if not name:
        raise FoveolaError("manifest.json", "the bundle has no name, so it is no product's", "export it with a name")
    if state.name and name != state.name:
        raise FoveolaError(str(root), f"holds {state.name}, not {name}", "give another folder for another product")
    if not numbers(bundle.manifest.version):
        fault = f"version {bundle.manifest.version[:20]!r} is no number above 0, so nothing tells whether it is newer"
        raise FoveolaError(name, fault, "export it with a version such as 1.2.0")
    if state.on_trial and state.fallback is not None:
        fault = "the active bundle is on trial, and the other slot is the way back"
        raise FoveolaError(str(root), fault, "wait until it was marked good, or run `foveola rollback`")
    if other is None or other.digest != bundle.digest:  # what is there already may be tested anew
        _require_newer(root, state, bundle.manifest.version)


def _require_newer(root: Path, state: State, version: str) -> None:
    if numbers(version) <= numbers(state.floor):
        fault = f"version {version} is not newer than {state.floor}, which has lived here"
        raise FoveolaError(str(root), fault, "ship what it should bring with a higher version")


def _put(root: Path, state: State, bundle: Bundle, key: Path, engine: str | None, say: Say) -> Installed:
    """Steps 2 and 3 of an install."""
    slot, data = state.spare, bundle_bytes(bundle.members)
    folder = root / slot
    make_folder(folder)
    _require_room(folder, len(data) + SPARE_BYTES)
    staged = folder / STAGED
    write_new(staged, data)
    manifest = bundle.manifest
    emptied = msgspec.structs.replace(state.with_slot(slot, None), name=manifest.name)
    try:
        test, now = _test_staged(staged, bundle_path(root, slot), bundle, key, engine, say)
        write_state(root, emptied)
        move_file(staged, bundle_path(root, slot))
    except BaseException:
        with suppress(OSError):  # the first error is the one to tell
            remove_file(staged)
        raise
    keep_record(record_path(root, slot), test, now)
    record = Slot(version=manifest.version, digest=bundle.digest, engine=now.engine, life="ready")
    write_state(root, emptied.with_slot(slot, record))
    return Installed(slot=slot, record=record, test=test)


def _test_staged(
    staged: Path, final: Path, bundle: Bundle, key: Path, engine: str | None, say: Say
) -> tuple[SelfTest, Fingerprint]:
    """Open what was written, as everybody does, and put it to its self-test."""
    written = open_bundle(staged, key=key)
    if written.digest != bundle.digest:
        raise NotVouchedError(str(staged), "is not what was written", "the disk or another process changes files")
    options = choose_engine(written.manifest, engine)
    # Engines that TensorRT has built lie beside the bundle's final name; each has a folder of its own kit.
    named = msgspec.structs.replace(written, path=final)
    if isinstance(options, TensorRtOptions):
        from ..tensorrt.build import build_engine

        build_engine(named, progress=say)
    say("self-test in the new slot")
    now = fingerprint(named, options)
    outcome = self_test(named, now.engine, engines_folder(final))
    require_passed(named, outcome)
    return outcome, now


def _require_room(folder: Path, size: int) -> None:
    free = shutil.disk_usage(folder).free
    if free < size:
        raise FoveolaError(str(folder), f"has room for {free} bytes, {size} are wanted", "make room")


def _require_slot(root: Path, state: State, slot: Slot, key: Path, say: Say) -> None:
    """Make sure that the other slot's bundle is the one on record, vouched for, and passes its self-test here now."""
    path = bundle_path(root, state.spare)
    bundle = open_bundle(path, key=key)
    if bundle.digest != slot.digest:
        raise NotVouchedError(str(path), "is not the bundle that was installed", "install it again")
    demand_self_test(bundle, record=record_path(root, state.spare), engine=slot.engine, say=say)


def _changing(root: Path) -> AbstractContextManager[None]:
    if not root.is_dir():
        raise FoveolaError(str(root), "is no folder", "run `foveola install BUNDLE --root DIR` first")
    return locked(root)


def _nothing_ready(slot: Slot | None) -> str:
    if slot is None:
        return "nothing is installed in the other slot"
    if slot.life == "good":
        return f"the other slot holds {slot.version}, which is not newer"
    return f"the other slot's {slot.version} has failed ({slot.reason})"
