"""The verb `selftest`: whether a bundle, or the active one of a device's folder, still answers as it did."""

from __future__ import annotations

import argparse
from pathlib import Path

import msgspec

from ..bundle import Bundle, open_bundle
from ..errors import ExitCode, FoveolaError, MissingPartError, UsageError
from ..selftest import SelfTest
from ..slots.active import active_bundle, active_slot, fail_trial
from ..slots.install import pinned_key
from ..slots.state import read_state, record_path
from ..slots.verb import root_of
from ..tested import run_self_test
from .verb import Answer, to_stderr


def selftest(arguments: argparse.Namespace) -> Answer:
    """Run the golden images; refused where an answer moved."""
    if arguments.bundle is None:
        return _of_root(root_of(arguments), arguments)
    if arguments.root is not None:
        raise UsageError("selftest", "a bundle and --root were given", "give one of them")
    if arguments.audit is not None:
        raise UsageError("--audit", "tells of returns to the other slot", "leave it out, or give --root")
    bundle = open_bundle(arguments.bundle, key=arguments.key)
    outcome, reasons = run_self_test(bundle, engine=arguments.engine, record=arguments.record)
    return _answer(bundle, outcome, reasons)


def _of_root(root: Path, arguments: argparse.Namespace) -> Answer:
    """Test the active bundle on its slot's engine and keep the record; a trial that fails ends."""
    for given, name in ((arguments.engine, "--engine"), (arguments.record, "--record")):
        if given is not None:
            raise UsageError(name, "the slot has its own", "leave it out, or give the bundle's file")
    bundle = open_bundle(active_bundle(root), key=pinned_key(arguments.key, root))
    state = read_state(root)
    name = active_slot(root, state)
    slot = state.slot(name)
    assert slot is not None, "an active slot has a record"
    try:
        outcome, reasons = run_self_test(bundle, engine=slot.engine, record=record_path(root, name), say=to_stderr)
    except MissingPartError:
        raise  # the bundle is not at fault
    except FoveolaError as error:
        fail_trial(root, str(error), why="selftest", audit=arguments.audit)
        raise
    if outcome.ok:
        return _answer(bundle, outcome, reasons)
    faults = f"self-test: {', '.join(outcome.faults)}"
    back = fail_trial(root, faults, why="selftest", audit=arguments.audit)
    code, result, lines = _answer(bundle, outcome, reasons)
    returned = [f"returned to the other slot: {back}"] if back is not None else []
    return code, {**result, "returned_to": None if back is None else str(back)}, [*lines, *returned]


def _answer(bundle: Bundle, outcome: SelfTest, reasons: list[str]) -> Answer:
    lines = [f"  {d.tensor:<24} largest {d.largest:.3g}, relative {d.relative:.3g}" for d in outcome.drifts]
    lines += [f"  since the last self-test: {reason}" for reason in reasons]
    lines += [f"  {warning}" for warning in outcome.warnings]
    lines += [f"  {fault}" for fault in outcome.faults]
    limit = "" if outcome.latency_limit_ms is None else f", at most {outcome.latency_limit_ms:.0f}"
    lines.append(f"  the slowest image took {outcome.latency_ms:.1f} ms{limit}")
    word = "holds" if outcome.ok else "FAILED"
    lines.append(f"self-test {word} on {outcome.engine}: {outcome.images} images, {outcome.flips} decisions flipped")
    code = ExitCode.DONE if outcome.ok else ExitCode.REFUSED
    return code, {**msgspec.to_builtins(outcome), "digest": bundle.digest, "changed": reasons}, lines
