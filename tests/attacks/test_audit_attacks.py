"""Who can write to a device's folders but has not its key: no change of the log goes unseen, no file ends a reader."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from foveola.runtime.errors import FoveolaError
from foveola.runtime.watch.audit import Audit, AuditLimits
from foveola.runtime.watch.audit_check import check_audit, read_lines
from foveola.runtime.watch.audit_log import segments
from foveola.runtime.watch.day import decode_day, decode_watched
from foveola.runtime.watch.summary import decode_export, summarise

NASTY = (b"\0", b"\n", b"[" * 3000, b'{"n":1}\n', b"\xff\xfe", b"NaN", b"1e999", b'"' * 9, b"9" * 400, b"\r\n", b"{}")


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("device") / "audit"
    audit = Audit(folder, limits=AuditLimits(file_bytes=900, files=50))
    for n in range(12):
        audit.write("answer", {"count": n, "way": "dicom"})
    assert len(segments(folder)) > 2
    return folder


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_no_changed_byte_of_log_or_head_goes_unseen(log: Path, data: st.DataObject) -> None:
    files = [*segments(log), log / "head.json"]
    path = data.draw(st.sampled_from(files))
    original = path.read_bytes()
    at = data.draw(st.integers(0, len(original) - 1))
    put = data.draw(st.one_of(st.binary(max_size=3), st.sampled_from(NASTY)))
    taken = data.draw(st.integers(0, 5))
    changed = original[:at] + put + original[at + taken :]
    try:
        path.write_bytes(changed)
        checked = check_audit(log)
        read_lines(log, 100)
    finally:
        path.write_bytes(original)

    unfinished = path == files[-2] and changed.startswith(original) and b"\n" not in changed[len(original) :]
    assert checked.ok == (changed == original or (unfinished and len(changed) - len(original) <= 4096)), checked.fault


def test_a_line_that_copies_the_chain_without_the_key_is_seen(tmp_path: Path) -> None:
    """The attacker knows the format and computes proper hashes; only the seal is beyond reach."""
    audit = Audit(tmp_path / "log")
    for n in range(3):
        audit.write("start", {"count": n})
    path = segments(tmp_path / "log")[0]
    lines = path.read_bytes().splitlines()
    forged = json.loads(lines[2])
    forged["n"], forged["before"] = 4, check_audit(tmp_path / "log").head.partition(":")[2]
    with path.open("ab") as stream:
        stream.write(json.dumps(forged, separators=(",", ":")).encode() + b"\n")

    assert "line 4 was changed, or is not of this device" in check_audit(tmp_path / "log").fault
    audit.write("stop")
    assert "line 4 was changed" in check_audit(tmp_path / "log").fault


def test_a_seal_of_a_line_is_none_of_a_head(tmp_path: Path) -> None:
    audit = Audit(tmp_path / "log")
    audit.write("start")
    line = segments(tmp_path / "log")[0].read_bytes()
    (tmp_path / "log" / "head.json").write_bytes(line)

    assert "seal does not hold" in check_audit(tmp_path / "log").fault


@pytest.mark.skipif(os.name == "nt", reason="no links without rights")
def test_a_name_that_is_no_log_is_not_read(tmp_path: Path) -> None:
    audit = Audit(tmp_path / "log")
    audit.write("start")
    (tmp_path / "log" / "log-x.jsonl").write_bytes(b"junk\n")
    (tmp_path / "log" / "log-000000000001.jsonl.bak").write_bytes(b"junk\n")

    assert check_audit(tmp_path / "log").ok


@pytest.mark.parametrize(
    "name", ["log-1x.jsonl", "log-99999999999999999999999.jsonl", "log-999999999999.jsonl", "log-000000000000.jsonl"]
)
def test_a_file_put_among_the_logs_is_told_and_ends_nothing(tmp_path: Path, name: str) -> None:
    audit = Audit(tmp_path / "log")
    audit.write("start")
    (tmp_path / "log" / name).write_bytes(b"junk\n")
    checked = check_audit(tmp_path / "log")
    audit.write("stop")

    assert checked.ok or "line" in checked.fault
    assert check_audit(tmp_path / "log").ok or "line" in check_audit(tmp_path / "log").fault


@settings(max_examples=300, deadline=None)
@given(
    st.one_of(
        st.binary(max_size=200),
        st.sampled_from(NASTY),
        st.recursive(
            st.none() | st.booleans() | st.floats() | st.text(max_size=9) | st.integers(),
            lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=9), inner, max_size=4),
        ).map(lambda value: json.dumps(value).encode()),
    )
)
def test_any_bytes_are_a_day_or_are_refused_in_one_line(data: bytes) -> None:
    for reader in (decode_day, decode_watched, decode_export):
        with pytest.raises(FoveolaError, match=r"^it: [^\n]+$"):
            reader(data, "it")


@pytest.mark.parametrize(
    "data",
    [
        b'{"day":"2026-03-02","bundle":"0000000000000000","images":1e400}',
        b'{"day":"2026-03-02","bundle":"0000000000000000","images":-1}',
        b'{"day":"2026-13-02","bundle":"0000000000000000"}',
        b'{"day":"2026-03-02","bundle":"../../../../etc/x"}',
        b'{"day":"2026-03-02","bundle":"0000000000000000","histograms":{"a":{"edges":[NaN],"counts":[1,1]}}}',
        b'{"day":"2026-03-02","bundle":"0000000000000000","histograms":{"a":{"edges":[2.0,1.0],"counts":[1,1,1]}}}',
        b'{"day":"2026-03-02","bundle":"0000000000000000","refused":{"Doe John":1}}',
        b'{"day":"2026-03-02","bundle":"0000000000000000"' + b" " * 2**22 + b"}",
        b'{"day":' * 90_000,
    ],
    ids=["infinite", "negative", "month", "path", "nan", "falling", "name", "long", "deep"],
)
def test_a_nasty_day_is_left_out_and_told(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "2026-03-02.0000000000000000.json").write_bytes(data)
    (tmp_path / "bundle.0000000000000000.json").write_bytes(b'{"bundle":"0000000000000000","name":"a","version":"1"}')

    with pytest.raises(FoveolaError, match="holds no day"):
        summarise(tmp_path)
