from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from foveola.runtime import tested as module
from foveola.runtime.bundle import Bundle
from foveola.runtime.errors import FoveolaError
from foveola.runtime.selftest import SelfTest, self_test
from foveola.runtime.tested import demand_self_test, read_record, run_self_test

Change = Callable[[dict[str, bytes]], Bundle]


@pytest.fixture
def record(tmp_path: Path) -> Path:
    return tmp_path / "selftest.json"


@pytest.fixture
def told() -> list[str]:
    return []


def test_a_test_that_passed_is_not_asked_for_again(tiny_bundle: Bundle, record: Path, told: list[str]) -> None:
    first = demand_self_test(tiny_bundle, record=record, say=told.append)

    assert first is not None
    assert first.ok
    assert demand_self_test(tiny_bundle, record=record, say=told.append) is None
    assert told == ["self-test, since none is on record"]
    kept = read_record(record)
    assert kept is not None
    assert kept.latency_ms == first.latency_ms


@pytest.mark.parametrize(
    ("target", "value", "words"),
    [
        ("pillow_version", "99.0", "self-test, since Pillow: "),
        ("__version__", "99.0", "self-test, since foveola: "),
        ("jpeg_digest", lambda: "a" * 64, "self-test, since pixels of the same JPEG: "),
        ("_accelerator", lambda library, options: ("Orin", "540.3"), "self-test, since GPU or NPU: none -> Orin"),
    ],
)
def test_a_change_here_asks_for_a_new_one(
    target: str, value: object, words: str, tiny_bundle: Bundle, record: Path, told: list[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    demand_self_test(tiny_bundle, record=record)
    monkeypatch.setattr(f"foveola.runtime.fingerprint.{target}", value)

    assert demand_self_test(tiny_bundle, record=record, say=told.append) is not None
    assert told[0].startswith(words)
    assert demand_self_test(tiny_bundle, record=record) is None


def test_another_bundle_and_another_engine_ask_for_a_new_one(
    tiny_bundle: Bundle, bundle_with: Change, record: Path, told: list[str]
) -> None:
    demand_self_test(tiny_bundle, record=record)
    demand_self_test(tiny_bundle, record=record, engine="openvino", say=told.append)
    demand_self_test(bundle_with({"report.html": b"<p>"}), record=record, engine="openvino", say=told.append)

    assert told[0].startswith("self-test, since engine: onnxruntime -> openvino; engine's version: ")
    assert told[1].startswith("self-test, since bundle: ")


def test_a_test_that_fails_is_refused_and_its_record_goes(
    tiny_bundle: Bundle, bundle_with: Change, tiny_graph: Callable[..., bytes], record: Path
) -> None:
    demand_self_test(tiny_bundle, record=record)
    bad = bundle_with({"model.onnx": tiny_graph(findings=([10.0, -10.0], [3.0, 2.0]))})

    with pytest.raises(FoveolaError, match=r"self-test of tiny 1 on onnxruntime: findings drifted .*; do not use it"):
        demand_self_test(bad, record=record)

    assert not record.exists()


def test_a_test_that_cannot_be_run_leaves_no_record(tiny_bundle: Bundle, bundle_with: Change, record: Path) -> None:
    demand_self_test(tiny_bundle, record=record)

    with pytest.raises(FoveolaError, match=r"golden\.npz: cannot be read"):
        demand_self_test(bundle_with({"golden.npz": b"text"}), record=record)

    assert not record.exists()


@pytest.mark.parametrize("content", [b"", b"{", b"\xff", b"[" * 9999, b'{"fingerprint": {}}', b" " * 70_000])
def test_a_record_that_cannot_be_read_is_none(tiny_bundle: Bundle, record: Path, content: bytes) -> None:
    record.write_bytes(content)

    assert read_record(record) is None
    assert demand_self_test(tiny_bundle, record=record) is not None


def test_the_time_on_record_holds_for_the_same_machine_only(
    tiny_bundle: Bundle, record: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[float | None] = []

    def spy(
        bundle: Bundle, engine: str | None = None, engines: Path | None = None, recorded_ms: float | None = None
    ) -> SelfTest:
        asked.append(recorded_ms)
        return self_test(bundle, engine, engines, recorded_ms)

    monkeypatch.setattr(module, "self_test", spy)
    first, reasons = run_self_test(tiny_bundle, record=record)
    second, same = run_self_test(tiny_bundle, record=record)
    run_self_test(tiny_bundle, engine="openvino", record=record)

    assert asked == [None, first.latency_ms, None]
    assert second.latency_limit_ms is not None
    assert (reasons, same) == (["none is on record"], [])


def test_a_record_that_cannot_be_written_costs_no_start_and_is_told(tiny_bundle: Bundle, tmp_path: Path) -> None:
    told: list[str] = []
    record = tmp_path / "nowhere" / "selftest.json"

    outcome = demand_self_test(tiny_bundle, record=record, say=told.append)

    assert outcome is not None
    assert outcome.ok
    assert told[0] == "self-test, since none is on record"
    assert "cannot be written: No such file or directory" in told[1]
    with pytest.raises(FoveolaError, match="cannot be written"):
        run_self_test(tiny_bundle, record=record)
