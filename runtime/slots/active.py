"""Which bundle is in use, and how a service tells whether a new one lives.

A process that serves begins so, and each of the three calls outlasts a power cut:

    path = start_trial(root)        # the bundle to open; a trial's start is counted before anything is opened
    ...                             # open it with the key, demand its self-test, answer
    mark_good(root, digest)         # it lives: from now on it stays

A trial whose process dies before `mark_good` is begun again, `TRIES` times in all; the next `start_trial` returns to
the other slot by itself. Who sees that the new bundle is of no use says so by `fail_trial`, and is told the old one.

A return that nobody asked for stands in the audit log, where one is named: `rollback`, with a word that says why.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import msgspec

from ..errors import FoveolaError
from ..manifest import EngineName
from ..verbs.verb import to_stderr
from .lock import locked
from .state import TRIES, SlotName, State, bundle_path, lived, read_state, returned, write_state

Reason = Literal["starts", "selftest", "bundle", "told"]  # of a return by itself, in the audit log
_WAIT_S = 10.0  # for another process's change, which takes milliseconds while a trial is on


def active_bundle(root: Path) -> Path:
    """Give the path of the bundle in use; nothing is changed.

    Raises:
        FoveolaError: none is active, its file is not there, or the state cannot be read.
    """
    state = read_state(root)
    return bundle_path(root, active_slot(root, state))


def active_slot(root: Path, state: State) -> SlotName:
    """Give the slot in use, whose bundle's file is there.

    Raises:
        FoveolaError: none is active, or its file is not there.
    """
    if state.active is None:
        ready = state.slot(state.spare)
        mend = "run `foveola activate`" if ready is not None else "run `foveola install BUNDLE`, then `activate`"
        raise FoveolaError(str(root), "no slot is active", mend)
    if not bundle_path(root, state.active).is_file():
        fault = f"the bundle of the active slot {state.active} is not there"
        raise FoveolaError(str(root), fault, "run `foveola rollback`, or install it again")
    return state.active


def active_engine(root: Path) -> EngineName:
    """Give the engine on which the bundle in use was tested when it was installed, and on which it is to run.

    Raises:
        FoveolaError: as `active_bundle`.
    """
    state = read_state(root)
    slot = state.slot(active_slot(root, state))
    assert slot is not None, "an active slot has a record"
    return slot.engine


def start_trial(root: Path, *, audit: Path | None = None) -> Path:
    """Tell that a process begins with the active bundle, and get the path of the one to open.

    A bundle that is on trial has this start counted; one that was started `TRIES` times and never marked good is left
    for the other slot, where there is one that lived.

    Args:
        root: the folder.
        audit: folder of the audit log that is told of a return.

    Raises:
        FoveolaError: as `active_bundle`, or the state cannot be written.
    """
    if read_state(root).on_trial:
        with locked(root, _WAIT_S):
            state = read_state(root)
            if state.on_trial:
                write_state(root, begun := _begun(state))
                if begun.active != state.active:
                    note_return(audit, state, begun, "starts")
    return active_bundle(root)


def mark_good(root: Path, digest: str | None = None) -> None:
    """Tell that the active bundle lives; older versions are not installed from now on. Harmless to repeat.

    Args:
        root: the folder.
        digest: of the bundle that the caller runs; where another has become active meanwhile, nothing is marked.

    Raises:
        FoveolaError: none is active, or the state cannot be written.
    """
    active_slot(root, read_state(root))
    if read_state(root).on_trial:
        with locked(root, _WAIT_S):
            state = read_state(root)
            slot = state.slot(state.active)
            if state.on_trial and slot is not None and digest in (None, slot.digest):
                write_state(root, lived(state))


def fail_trial(root: Path, reason: str, *, why: Reason = "told", audit: Path | None = None) -> Path | None:
    """Tell that the active bundle does not work here, by which a trial ends at once.

    Args:
        root: the folder.
        reason: why, one line; it is kept and shown by `foveola slots`.
        why: the same as a word for the audit log.
        audit: its folder.

    Returns:
        The bundle that is active now; None where there is nothing to return to: the bundle is no trial (one that lived
        is left by `foveola rollback` only, never silently), or no other one has lived here.
    """
    with locked(root, _WAIT_S):
        state = read_state(root)
        if not state.on_trial or state.fallback is None:
            return None
        write_state(root, back := returned(state, reason))
        note_return(audit, state, back, why)
    return active_bundle(root)


def note_return(audit: Path | None, before: State, now: State, why: Reason) -> None:
    """Tell the audit log of a return; a log that cannot be written is told on stderr and stops no answer."""
    if audit is None:
        return
    from ..watch.audit import Audit
    from ..watch.words import fitting

    left, slot = before.slot(before.active), now.slot(now.active)
    assert left is not None
    assert slot is not None
    assert now.active is not None
    facts = {"slot": now.active, "version": slot.version, "digest": slot.digest, "before": left.version}
    try:
        Audit(audit).write("rollback", {**fitting(facts), "result": "restored", "reason": why})
    except FoveolaError as error:
        to_stderr(str(error))


def _begun(state: State) -> State:
    """Count a trial's start, or end the trial."""
    name, slot = state.active, state.slot(state.active)
    assert name is not None
    assert slot is not None
    if slot.starts >= TRIES and state.fallback is not None:
        return returned(state, f"started {slot.starts} times and never said to live")
    return state.with_slot(name, msgspec.structs.replace(slot, starts=slot.starts + 1))
