"""The record of a passed self-test, and the demand for a new one where it does not hold here and now.

    outcome = demand_self_test(bundle, record=Path("selftest.json"))  # None: the one on record still holds

Laws:
- Only a test that passed is on record; one that fails removes what was there.
- A record holds for one fingerprint (`fingerprint.py`); whatever has changed since asks for a new test.
- A record that cannot be read is none. It guards against accidents, not against who can write there: such a one can
  exchange the runtime as well.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Annotated

import msgspec

from .bundle import Bundle
from .durable import remove_file, write_file
from .errors import FoveolaError
from .fingerprint import Fingerprint, changes, fingerprint
from .predict import choose_engine
from .selftest import SelfTest, self_test

MAX_RECORD_BYTES = 64 * 1024


class SelfTestRecord(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A self-test that passed: for what, when, and what an answer took."""

    fingerprint: Fingerprint
    date: str  # UTC, ISO 8601
    images: int
    flips: int
    latency_ms: Annotated[float, msgspec.Meta(gt=0)]


def run_self_test(
    bundle: Bundle,
    *,
    engine: str | None = None,
    engines: Path | None = None,
    record: Path | None = None,
    say: Callable[[str], None] | None = None,
) -> tuple[SelfTest, list[str]]:
    """Run the self-test, and keep it on record if it passes.

    Args:
        bundle: from `open_bundle`, so that somebody vouches for it.
        engine: as for `Predictor`.
        engines: as for `Predictor`.
        record: the record's file; None keeps nothing.
        say: is told of a record that cannot be written, which is then no error: the test passed, and without a record
            the next start runs it anew. A full disk is no fault of the bundle.

    Returns:
        The outcome, and why the record that was there did not hold any more; empty where it did.

    Raises:
        FoveolaError: as `self_test`, or, without `say`, the record cannot be written.
    """
    now = fingerprint(bundle, choose_engine(bundle.manifest, engine))
    before = read_record(record) if record is not None else None
    same_machine = before is not None and not _elsewhere(before.fingerprint, now)
    recorded_ms = before.latency_ms if before is not None and same_machine else None
    try:
        outcome = self_test(bundle, now.engine, engines, recorded_ms)
    except FoveolaError:
        _forget(record)
        raise
    if not outcome.ok:
        _forget(record)
    elif record is not None:
        try:
            keep_record(record, outcome, now)
        except FoveolaError as error:
            if say is None:
                raise
            say(str(error))
    return outcome, why_untested(before, now) if record is not None else []


def demand_self_test(
    bundle: Bundle,
    *,
    record: Path,
    engine: str | None = None,
    engines: Path | None = None,
    say: Callable[[str], None] = lambda line: None,
) -> SelfTest | None:
    """Make sure that a bundle has passed its self-test on what is here now, before its first answer.

    Args:
        bundle: from `open_bundle`.
        record: the record's file.
        engine: as for `Predictor`.
        engines: as for `Predictor`.
        say: takes a line on why a test is run, and one where its record cannot be written.

    Returns:
        The outcome of the test that was run; None where the one on record holds.

    Raises:
        FoveolaError: the self-test fails or cannot be run.
    """
    now = fingerprint(bundle, choose_engine(bundle.manifest, engine))
    reasons = why_untested(read_record(record), now)
    if not reasons:
        return None
    say(f"self-test, since {'; '.join(reasons)}")
    outcome, _ = run_self_test(bundle, engine=now.engine, engines=engines, record=record, say=say)
    require_passed(bundle, outcome)
    return outcome


def require_passed(bundle: Bundle, outcome: SelfTest) -> None:
    """Refuse a bundle whose self-test failed.

    Raises:
        FoveolaError: it did.
    """
    if not outcome.ok:
        place = f"self-test of {bundle.manifest.name} {bundle.manifest.version} on {outcome.engine}"
        mend = "do not use it here; send this line to the bundle's maker"
        raise FoveolaError(place, ", ".join((*outcome.faults, *outcome.warnings)), mend)


def why_untested(record: SelfTestRecord | None, now: Fingerprint) -> list[str]:
    """Say why a self-test is needed; empty where the one on record holds."""
    return ["none is on record"] if record is None else changes(record.fingerprint, now)


def read_record(path: Path) -> SelfTestRecord | None:
    """Read a record; None where there is none that this runtime can read."""
    try:
        with path.open("rb") as file:
            data = file.read(MAX_RECORD_BYTES + 1)
        return msgspec.json.decode(data, type=SelfTestRecord)
    except (OSError, msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None


def keep_record(path: Path, outcome: SelfTest, now: Fingerprint) -> None:
    """Write the record of a test that passed in one step, as canonical JSON.

    Raises:
        FoveolaError: it cannot be written.
    """
    assert outcome.ok
    record = SelfTestRecord(
        fingerprint=now,
        date=time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        images=outcome.images,
        flips=outcome.flips,
        latency_ms=outcome.latency_ms,
    )
    write_file(path, msgspec.json.format(msgspec.json.encode(record, order="sorted"), indent=2) + b"\n")


def _elsewhere(before: Fingerprint, now: Fingerprint) -> bool:
    """Whether the time of an answer has reason to be another one: another bundle, engine or processor."""
    parts = ("bundle", "engine", "processor", "architecture", "instructions", "accelerator")
    return any(getattr(before, part) != getattr(now, part) for part in parts)


def _forget(record: Path | None) -> None:
    if record is not None:
        with suppress(OSError):  # the failed test is what is told
            remove_file(record)
