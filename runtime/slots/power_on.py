"""Power-on: the bundle to answer with, opened, vouched for and tested; a new one that fails is left by itself.

bundle = power_on(Path("/var/lib/foveola"), key=Path("/etc/foveola/maker.pub"))
predictor = Predictor(bundle, ...)
...                             # the first answers
mark_good(root, bundle.digest)
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from ..bundle import Bundle, open_bundle
from ..errors import FoveolaError, MissingPartError, NotVouchedError
from ..tested import demand_self_test
from .active import Reason, fail_trial, start_trial
from .install import pinned_key
from .state import State, bundle_path, read_state, record_path

Say = Callable[[str], None]


def power_on(root: Path, *, key: Path | None = None, say: Say = lambda line: None, audit: Path | None = None) -> Bundle:
    """Open the active bundle for a process that begins, and have it pass its self-test on what is here now.

    A bundle on trial has this start counted. Where it fails here, or was started too often without ever being marked
    good, the other slot becomes active again and its bundle is opened.

    Args:
        root: the device's folder.
        key: as for `install`.
        say: takes a line on every return and every self-test.
        audit: folder of the audit log that is told of a return.

    Raises:
        NotVouchedError: nobody vouches for the bundle, or no key is named.
        FoveolaError: nothing is active, or the active bundle fails its self-test and there is nothing to return to.
        MissingPartError: the slot's engine is not installed; a trial goes on, since the bundle is not at fault.
    """
    pinned, before = pinned_key(key, root), read_state(root)
    path = start_trial(root, audit=audit)
    if path != _active_path(root, before):
        say(f"returned: {_why_left(read_state(root))}")
    try:
        bundle = _opened(root, pinned)
    except FoveolaError as error:
        if isinstance(error, NotVouchedError) and not _key_is_right(root, pinned):
            raise  # the other slot would not open either
        if not leave_trial(root, error, "bundle", say, audit):
            raise
        bundle = _opened(root, pinned)
    try:
        _demand_test(root, bundle, say)
    except FoveolaError as error:
        if not leave_trial(root, error, "selftest", say, audit):
            raise
        bundle = _opened(root, pinned)
        _demand_test(root, bundle, say)
    return bundle


def leave_trial(root: Path, error: FoveolaError, why: Reason, say: Say, audit: Path | None) -> bool:
    """End a trial whose bundle does not open or does not pass its self-test; whether there was one to return from.

    A part that is not installed is no fault of the bundle.
    """
    if isinstance(error, MissingPartError) or fail_trial(root, str(error), why=why, audit=audit) is None:
        return False
    say(f"returned: {error}")
    return True


def _opened(root: Path, key: Path) -> Bundle:
    """Open what is active now.

    Raises:
        FoveolaError: see `power_on`.
    """
    state = read_state(root)
    name, slot = state.active, state.slot(state.active)
    assert name is not None, "start_trial has looked"
    assert slot is not None
    path = bundle_path(root, name)
    bundle = open_bundle(path, key=key)
    if bundle.digest != slot.digest:
        raise NotVouchedError(str(path), "is not the bundle that was installed", "install it again")
    return bundle


def _demand_test(root: Path, bundle: Bundle, say: Say) -> None:
    """Have what is active pass its self-test.

    Raises:
        FoveolaError: see `power_on`.
    """
    state = read_state(root)
    slot = state.slot(state.active)
    assert state.active is not None
    assert slot is not None
    demand_self_test(bundle, record=record_path(root, state.active), engine=slot.engine, say=say)


def _key_is_right(root: Path, key: Path) -> bool:
    """Whether the key vouches for the slot to return to: then the active bundle is at fault, not the key."""
    fallback = read_state(root).fallback
    if fallback is None:
        return False
    try:
        open_bundle(bundle_path(root, fallback), key=key)
    except FoveolaError:
        return False
    return True


def _active_path(root: Path, state: State) -> Path | None:
    return None if state.active is None else bundle_path(root, state.active)


def _why_left(state: State) -> str:
    slot = state.slot(state.spare)
    return slot.reason if slot is not None else ""
