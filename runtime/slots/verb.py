"""The verbs `install`, `activate`, `rollback` and `slots`: what a device's folder holds, and what of it is in use."""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

import msgspec

from ..errors import ExitCode, FoveolaError, UsageError
from ..tested import read_record
from ..verbs.verb import ROOT_VARIABLE, Answer, to_stderr
from ..watch.audit import Audit
from ..watch.words import Fact, fitting
from .active import active_bundle, fail_trial, mark_good, start_trial
from .install import activate, install, rollback
from .state import TRIES, Slot, SlotName, State, bundle_path, read_state, record_path


def root_of(arguments: argparse.Namespace) -> Path:
    """Give the device's folder: `--root`, else what the environment names.

    Raises:
        UsageError: neither is given.
    """
    named = arguments.root or (Path(os.environ[ROOT_VARIABLE]) if os.environ.get(ROOT_VARIABLE) else None)
    if named is None:
        raise UsageError("--root", "is not given", f"name the device's folder, or set {ROOT_VARIABLE}")
    path: Path = named
    return path


def run_install(arguments: argparse.Namespace) -> Answer:
    """Put a bundle into the slot that is not active."""
    root = root_of(arguments)
    with _told(arguments.audit, "install") as facts:
        done = install(arguments.bundle, root, key=arguments.key, engine=arguments.engine, say=to_stderr)
        facts |= {"slot": done.slot, "version": done.record.version, "digest": done.record.digest}
    record, test = done.record, done.test
    word = "is active already" if test is None else "is ready; run `foveola activate`"
    result = {
        "slot": done.slot,
        "path": str(bundle_path(root, done.slot)),
        "record": msgspec.to_builtins(record),
        "self_test": None if test is None else msgspec.to_builtins(test),
    }
    return ExitCode.DONE, result, [f"slot {done.slot}: {record.version} on {record.engine} {word}"]


def run_activate(arguments: argparse.Namespace) -> Answer:
    """Switch to the other slot."""
    return _switched(arguments, "activate", activate)


def run_rollback(arguments: argparse.Namespace) -> Answer:
    """Return to the other slot."""
    return _switched(arguments, "rollback", rollback)


def run_slots(arguments: argparse.Namespace) -> Answer:
    """Show both slots, after what a process that serves had to tell of the active one."""
    root = root_of(arguments)
    told = [bool(arguments.start), bool(arguments.good), arguments.fail is not None]
    if sum(told) > 1:
        raise UsageError("slots", "several of --start, --good and --fail were given", "give one of them")
    if not root.is_dir():
        raise FoveolaError(str(root), "is no folder", "run `foveola install BUNDLE --root DIR` first")
    if arguments.start:
        start_trial(root, audit=arguments.audit)
    if arguments.good:
        mark_good(root)
    if arguments.audit is not None and not (arguments.start or arguments.fail is not None):
        raise UsageError("--audit", "nothing is done that it could tell of", "give --start or --fail, or leave it out")
    if arguments.fail is not None and fail_trial(root, arguments.fail, audit=arguments.audit) is None:
        fault = "the active bundle is not on trial, or no other has lived here"
        raise FoveolaError(str(root), fault, "run `foveola rollback`, or install another bundle")
    state = read_state(root)
    path = str(active_bundle(root)) if state.active is not None else None
    slots = {name: _plain(root, name, state.slot(name)) for name in ("a", "b")}
    result = {"name": state.name, "active": state.active, "path": path, "floor": state.floor, "slots": slots}
    if arguments.start:  # what a shell wants of it
        return ExitCode.DONE, result, [str(path)]
    head = f"{state.name or 'nothing installed'}, nothing older than {state.floor}" if state.floor else state.name
    return ExitCode.DONE, result, [head or "nothing installed", *(_words(root, state, name) for name in ("a", "b"))]


class _Switch(Protocol):
    def __call__(self, root: Path, *, key: Path | None, say: Callable[[str], None]) -> State: ...


def _switched(arguments: argparse.Namespace, event: str, switch: _Switch) -> Answer:
    root = root_of(arguments)
    with _told(arguments.audit, event) as facts:
        state = switch(root, key=arguments.key, say=to_stderr)
        slot = state.slot(state.active)
        assert state.active is not None
        assert slot is not None
        facts |= {"slot": state.active, "version": slot.version, "digest": slot.digest}
    life = f"on trial: {TRIES} starts to be marked good" if slot.life == "trial" else slot.life
    result: dict[str, Any] = {
        "active": state.active,
        "path": str(bundle_path(root, state.active)),
        "record": msgspec.to_builtins(slot),
    }
    return ExitCode.DONE, result, [f"slot {state.active} is active: {state.name} {slot.version}, {life}"]


@contextmanager
def _told(audit: Path | None, event: str) -> Iterator[dict[str, Fact]]:
    """Write into the audit log what came of it; what is put into the dictionary meanwhile stands in the line."""
    log = None if audit is None else Audit(audit)
    facts: dict[str, Fact] = {}
    try:
        yield facts
    except FoveolaError as error:
        if log is not None:
            log.write(event, {"result": "refused", "code": int(error.exit_code)})
        raise
    if log is not None:
        log.write(event, {**fitting(facts), "result": "ok"})


def _plain(root: Path, name: SlotName, slot: Slot | None) -> dict[str, Any] | None:
    if slot is None:
        return None
    record = read_record(record_path(root, name))
    tested = record is not None and record.fingerprint.bundle == slot.digest
    return {**msgspec.to_builtins(slot), "tested": record.date if record is not None and tested else None}


def _words(root: Path, state: State, name: SlotName) -> str:
    slot = state.slot(name)
    mark = "*" if state.active == name else " "
    if slot is None:
        return f"{mark} {name}  empty"
    plain = _plain(root, name, slot)
    assert plain is not None
    starts = f", started {slot.starts} of {TRIES} times" if slot.life == "trial" else ""
    reason = f" ({slot.reason})" if slot.reason else ""
    tested = f", tested {plain['tested']}" if plain["tested"] else ""
    return f"{mark} {name}  {slot.version}  {slot.life}{reason}{starts}, {slot.engine}{tested}, {slot.digest[:12]}"
