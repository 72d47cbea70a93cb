from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args

import pytest

from foveola.export.signing import make_keys
from foveola.runtime.bundle import Bundle, open_bundle
from foveola.runtime.errors import FoveolaError, MissingPartError, NotVouchedError
from foveola.runtime.serve import child
from foveola.runtime.serve.frames import Command
from foveola.runtime.slots import power_on as power_on_module
from foveola.runtime.slots.active import Reason, active_bundle, fail_trial, mark_good, start_trial
from foveola.runtime.slots.install import activate, install
from foveola.runtime.slots.power_on import power_on
from foveola.runtime.slots.state import TRIES, Slot, bundle_path, read_state, record_path, write_state
from foveola.runtime.tested import demand_self_test, run_self_test
from foveola.runtime.watch.audit_check import check_audit
from foveola.runtime.watch.words import FACTS

Release = Callable[..., Path]


@pytest.fixture
def trial(root: Path, release: Release, key: Path) -> Path:
    """Version 1 lives in slot a, version 2 in slot b is active and on trial."""
    install(release("2"), root, key=key)
    activate(root, key=key)
    return root


def record(root: Path, name: str) -> Slot:
    state = read_state(root)
    slot = state.a if name == "a" else state.b
    assert slot is not None
    return slot


def version(root: Path, key: Path) -> str:
    return open_bundle(active_bundle(root), key=key).manifest.version


def test_a_new_bundle_that_never_says_it_lives_is_left_after_three_starts(trial: Path, key: Path) -> None:
    for start in range(1, TRIES + 1):
        assert start_trial(trial) == bundle_path(trial, "b")
        assert record(trial, "b").starts == start

    assert start_trial(trial) == bundle_path(trial, "a")
    assert version(trial, key) == "1"
    assert (record(trial, "b").life, record(trial, "b").reason) == (
        "failed",
        "started 3 times and never said to live",
    )
    assert start_trial(trial) == bundle_path(trial, "a")


def test_a_bundle_that_was_marked_good_stays_however_often_it_is_started(trial: Path, key: Path) -> None:
    start_trial(trial)
    mark_good(trial)
    mark_good(trial)

    for _ in range(3 * TRIES):
        assert start_trial(trial) == bundle_path(trial, "b")
    assert (record(trial, "b").life, read_state(trial).floor) == ("good", "2")
    assert fail_trial(trial, "too late") is None
    assert version(trial, key) == "2"


def test_who_runs_another_bundle_than_the_active_one_cannot_mark_it_good(trial: Path) -> None:
    """A service that goes on with the older bundle after `activate` knows nothing of the new one."""
    older, newer = record(trial, "a").digest, record(trial, "b").digest

    mark_good(trial, older)
    assert record(trial, "b").life == "trial"
    mark_good(trial, newer)

    assert record(trial, "b").life == "good"


def test_a_good_bundle_is_started_without_a_write(root: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in root.rglob("*")}

    start_trial(root)

    assert {path: path.stat().st_mtime_ns for path in root.rglob("*")} == before


def test_a_trial_that_says_it_does_not_work_is_left_at_once(trial: Path, key: Path) -> None:
    assert fail_trial(trial, "no answer within a second") == bundle_path(trial, "a")

    assert record(trial, "b").reason == "no answer within a second"
    assert version(trial, key) == "1"


def test_a_first_bundle_has_nothing_to_return_to(tmp_path: Path, release: Release, key: Path) -> None:
    install(release("1"), tmp_path, key=key)
    activate(tmp_path, key=key)

    for _ in range(2 * TRIES):
        assert start_trial(tmp_path) == bundle_path(tmp_path, "a")
    assert fail_trial(tmp_path, "does not work") is None
    assert read_state(tmp_path).on_trial


def test_a_lost_bundle_is_told(root: Path) -> None:
    bundle_path(root, "a").unlink()

    for call in (active_bundle, start_trial, mark_good):
        with pytest.raises(FoveolaError, match="the bundle of the active slot a is not there; run `foveola rollback`"):
            call(root)


def test_power_on_opens_what_is_active_and_tests_it_once(root: Path, key: Path) -> None:
    told: list[str] = []
    record_path(root, "a").unlink()

    assert power_on(root, key=key, say=told.append).manifest.version == "1"
    assert power_on(root, key=key, say=told.append).manifest.version == "1"
    assert told == ["self-test, since none is on record"]


def test_power_on_leaves_a_trial_whose_self_test_fails(trial: Path, key: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(power_on_module, "demand_self_test", fails_on_2(demand_self_test))
    told: list[str] = []

    opened = power_on(trial, key=key, say=told.append)

    assert opened.manifest.version == "1"
    assert told == ["returned: self-test of tiny 2 on onnxruntime: 1 decision(s) flipped"]
    assert record(trial, "b").life == "failed"


def test_power_on_leaves_a_trial_whose_file_is_damaged(trial: Path, key: Path) -> None:
    data = bytearray(bundle_path(trial, "b").read_bytes())
    data[len(data) // 2] ^= 1
    bundle_path(trial, "b").write_bytes(data)

    assert power_on(trial, key=key).manifest.version == "1"


def test_power_on_leaves_a_trial_that_was_started_too_often(trial: Path, key: Path) -> None:
    told: list[str] = []

    versions = [power_on(trial, key=key, say=told.append).manifest.version for _ in range(TRIES + 1)]

    assert versions == ["2", "2", "2", "1"]
    assert told == ["returned: started 3 times and never said to live"]


def fails_on_2(tested: Callable[..., Any]) -> Callable[..., Any]:
    """A self-test that version 2 does not pass."""

    def test(bundle: Bundle, **more: Any) -> Any:
        if bundle.manifest.version == "2":
            raise FoveolaError("self-test of tiny 2 on onnxruntime", "1 decision(s) flipped")
        return tested(bundle, **more)

    return test


def returns(audit: Path) -> list[dict[str, Any]]:
    """The facts of each return that the audit log tells, after it was checked."""
    assert check_audit(audit).ok
    lines = [json.loads(line) for path in audit.glob("*.jsonl") for line in path.read_text().splitlines()]
    return [line["facts"] for line in lines if line["event"] == "rollback"]


def test_a_service_returns_at_once_from_a_trial_that_fails_the_self_test_at_its_start(
    trial: Path, key: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The test on record holds here; the one that the service runs at each start does not."""
    monkeypatch.setattr(child, "run_self_test", fails_on_2(run_self_test))
    command = Command(bundle=Path(), root=trial, key=key, audit=tmp_path / "audit")

    bundle, _, started = child._open_and_start(command)

    assert (bundle.manifest.version, started.bundle.version) == ("1", "1")
    assert record(trial, "b").reason == "self-test of tiny 2 on onnxruntime: 1 decision(s) flipped"
    assert [facts["reason"] for facts in returns(tmp_path / "audit")] == ["selftest"]


def test_an_engine_that_the_service_is_given_by_mistake_does_not_end_a_trial(trial: Path, key: Path) -> None:
    with pytest.raises(FoveolaError, match="was not validated on it"):
        child._open_and_start(Command(bundle=Path(), root=trial, key=key, engine="tensorrt"))

    assert read_state(trial).on_trial


def test_every_return_by_itself_stands_in_the_audit_log_with_its_reason(
    trial: Path, key: Path, release: Release, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    audit = tmp_path / "audit"
    switched = read_state(trial)
    for _ in range(TRIES + 1):
        start_trial(trial, audit=audit)
    write_state(trial, switched)
    fail_trial(trial, "Doe^John does not like it", audit=audit)
    write_state(trial, switched)
    with monkeypatch.context() as patch:
        patch.setattr(power_on_module, "demand_self_test", fails_on_2(demand_self_test))
        power_on(trial, key=key, audit=audit)
    write_state(trial, switched)
    bundle_path(trial, "b").write_bytes(b"no bundle")
    power_on(trial, key=key, audit=audit)

    good = record(trial, "a").digest
    common = {"slot": "a", "version": "1", "before": "2", "digest": good, "result": "restored"}
    assert returns(audit) == [{**common, "reason": why} for why in ("starts", "told", "selftest", "bundle")]
    assert {*get_args(Reason)} == set(FACTS["reason"].split("|"))
    assert not any("Doe" in path.read_text() for path in audit.glob("*.jsonl"))


def test_an_audit_log_that_cannot_be_written_keeps_no_bundle_from_answering(
    trial: Path, key: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("no folder")

    assert fail_trial(trial, "why", audit=tmp_path / "file" / "audit") == bundle_path(trial, "a")

    assert "cannot be written" in capsys.readouterr().err


def test_a_wrong_key_does_not_end_a_trial(trial: Path, tmp_path: Path) -> None:
    _, other = make_keys(tmp_path / "other")

    with pytest.raises(NotVouchedError, match="another key"):
        power_on(trial, key=other)

    assert read_state(trial).on_trial


def test_an_engine_that_is_not_installed_does_not_end_a_trial(
    trial: Path, key: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def absent(bundle: object, **more: object) -> object:
        raise MissingPartError("onnxruntime", "is not installed", "pip install foveola")

    monkeypatch.setattr(power_on_module, "demand_self_test", absent)

    with pytest.raises(MissingPartError):
        power_on(trial, key=key)

    assert read_state(trial).on_trial


def test_a_bundle_that_lived_is_never_left_in_silence(trial: Path, key: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mark_good(trial)

    def fails(bundle: object, **more: object) -> object:
        raise FoveolaError("self-test", "findings drifted")

    monkeypatch.setattr(power_on_module, "demand_self_test", fails)

    with pytest.raises(FoveolaError, match="findings drifted"):
        power_on(trial, key=key)

    assert read_state(trial).active == "b"


def test_a_trial_with_a_record_that_does_not_fit_its_file_is_left(trial: Path, key: Path) -> None:
    state = read_state(trial)
    slot = record(trial, "b")
    write_state(trial, state.with_slot("b", Slot(version="2", digest="0" * 64, engine=slot.engine, life="trial")))

    assert power_on(trial, key=key).manifest.version == "1"
