"""The audit log: its chain by other tools, every tampering by its line, and a power cut at every byte."""

from __future__ import annotations

import hashlib
import hmac
import json
import re
import shutil
import subprocess
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta, timezone
from pathlib import Path

import pytest
from click.testing import CliRunner

import foveola.runtime.watch.audit as module
from foveola.runtime.__main__ import main
from foveola.runtime.errors import FoveolaError, UsageError
from foveola.runtime.watch.audit import Audit, AuditLimits
from foveola.runtime.watch.audit_check import check_audit
from foveola.runtime.watch.audit_log import read_line, seal_line, segments
from foveola.runtime.watch.words import EVENTS, FACTS, REFUSALS
from foveola.toolkit.commands.table import foveola

MakeLog = Callable[..., Path]


def log_of(folder: Path) -> Path:
    (path,) = segments(folder)
    return path


def lines_of(folder: Path) -> list[bytes]:
    return log_of(folder).read_bytes().splitlines(keepends=True)


# --- a whole log


def test_a_log_is_whole(make_log: MakeLog) -> None:
    checked = check_audit(make_log(8))

    assert (checked.ok, checked.lines, checked.first, checked.fault, checked.notes) == (True, 8, 1, "", ())


def test_a_log_without_a_line_is_whole(make_log: MakeLog) -> None:
    assert check_audit(make_log(0)).ok


def test_each_line_holds_the_hash_of_the_one_before_by_sha256sum(make_log: MakeLog) -> None:
    folder = make_log(5)
    tool = shutil.which("sha256sum")
    if tool is None:
        pytest.skip("no sha256sum here")
    lines = lines_of(folder)
    digests = [
        subprocess.run([tool], input=line.rstrip(b"\n"), capture_output=True, check=True).stdout.split()[0].decode()
        for line in lines
    ]

    assert [json.loads(line)["before"] for line in lines] == ["0" * 64, *digests[:-1]]
    assert check_audit(folder).head == f"5:{digests[-1]}"


def test_a_seal_is_the_hmac_that_the_page_describes(make_log: MakeLog) -> None:
    folder = make_log(1)
    line = json.loads(lines_of(folder)[0])
    seal, line["seal"] = line["seal"], ""
    fields = ("n", "at", "event", "facts", "before", "seal")
    plain = json.dumps({name: line[name] for name in fields}, separators=(",", ":"))

    assert hmac.new((folder / "key").read_bytes(), b"Line\0" + plain.encode(), hashlib.sha256).hexdigest() == seal


def test_a_second_opening_goes_on(make_log: MakeLog) -> None:
    folder = make_log(3)
    make_log(4)

    assert [json.loads(line)["n"] for line in lines_of(folder)] == list(range(1, 8))
    assert check_audit(folder).lines == 7


def test_many_writers_keep_one_chain(make_log: MakeLog) -> None:
    folder = make_log(0)
    audits = [Audit(folder) for _ in range(3)]
    with ThreadPoolExecutor(6) as pool:
        list(pool.map(lambda n: audits[n % 3].write("answer", {"count": n}), range(60)))

    checked = check_audit(folder)
    assert (checked.ok, checked.lines) == (True, 60)
    assert sorted(json.loads(line)["facts"]["count"] for line in lines_of(folder)) == list(range(60))


def test_a_log_may_be_checked_while_it_is_written(make_log: MakeLog) -> None:
    folder = make_log(1)
    audit = Audit(folder)
    with ThreadPoolExecutor(2) as pool:
        written = pool.submit(_write_many, audit, 80)
        while not written.done():
            assert check_audit(folder).ok


def _write_many(audit: Audit, count: int) -> None:
    for _ in range(count):
        audit.write("start")


# --- tampering


def _edit(folder: Path, change: Callable[[list[bytes]], object]) -> None:
    lines = lines_of(folder)
    change(lines)
    log_of(folder).write_bytes(b"".join(lines))


def _other_device(lines: list[bytes], folder: Path) -> None:
    """A line with a proper hash, sealed by another key."""
    line = read_line(lines[4].rstrip(b"\n"), (folder / "key").read_bytes())
    assert line is not None
    lines[4] = seal_line(line, b"x" * 32) + b"\n"


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        (lambda lines: lines.__setitem__(4, lines[4].replace(b"0.5", b"0.6")), r"line 5: line 5 was changed"),
        (lambda lines: lines.__setitem__(4, lines[4].replace(b'{"n"', b'{ "n"')), r"line 5: line 5 was changed"),
        (lambda lines: lines.__setitem__(4, b"not json\n"), r"line 5: line 5 was changed"),
        (lambda lines: lines.__setitem__(4, b"[" * 5000 + b"\n"), r"line 5: line 5 was changed"),
        (lambda lines: lines.__setitem__(4, b"\n"), r"line 5: line 5 was changed"),
        (lambda lines: lines.pop(4), r"line 5: line 5 is missing"),
        (lambda lines: lines.insert(4, lines[3]), r"line 5: line 4 stands there once more"),
        (lambda lines: lines.reverse(), r"line 1: line 1 is missing"),
        (lambda lines: lines.pop(), r"^the end: line 8 is missing"),
        (lambda lines: lines.__delitem__(slice(5, None)), r"^the end: lines 6 to 8 are missing"),
        (lambda lines: lines.clear(), r"^the end: lines 1 to 8 are missing"),
        (lambda lines: lines.pop(0), r"line 1: line 1 is missing"),
        (lambda lines: lines.append(lines[0]), r"line 9: line 1 stands there once more"),
        (lambda lines: lines.__setitem__(7, lines[7][:-9]), r"^the end: line 8 is missing"),
    ],
    ids=[
        "a fact",
        "a space",
        "no json",
        "too long",
        "empty",
        "taken out",
        "doubled",
        "turned round",
        "last cut off",
        "end cut off",
        "emptied",
        "first taken out",
        "put again",
        "half of the last",
    ],
)
def test_the_first_broken_line_is_named(make_log: MakeLog, change: Callable[[list[bytes]], object], fault: str) -> None:
    folder = make_log(8)
    _edit(folder, change)
    checked = check_audit(folder)

    assert not checked.ok
    assert re.search(fault, checked.fault), checked.fault


def test_a_line_of_another_device_is_found(make_log: MakeLog) -> None:
    folder = make_log(8)
    _edit(folder, lambda lines: _other_device(lines, folder))

    assert "line 5 was changed, or is not of this device" in check_audit(folder).fault


def test_a_whole_log_of_another_device_is_found(make_log: MakeLog) -> None:
    ours, theirs = make_log(8), make_log(8, "theirs")
    shutil.copy(log_of(theirs), log_of(ours))

    assert "line 1 was changed, or is not of this device" in check_audit(ours).fault
    shutil.copy(theirs / "head.json", ours / "head.json")
    assert "seal does not hold" in check_audit(ours).fault


def test_an_older_head_is_found(make_log: MakeLog) -> None:
    folder = make_log(4)
    older = (folder / "head.json").read_bytes()
    make_log(4)
    (folder / "head.json").write_bytes(older)

    assert "an older head was put back" in check_audit(folder).fault


def test_an_older_state_of_all_is_found_by_a_noted_head(make_log: MakeLog, tmp_path: Path) -> None:
    folder = make_log(4)
    shutil.copytree(folder, tmp_path / "older")
    make_log(4)
    noted = check_audit(folder).head

    assert check_audit(tmp_path / "older").ok  # by itself it is whole
    assert "lines 5 to 8 are missing; the noted head" in check_audit(tmp_path / "older", noted=noted).fault
    assert check_audit(folder, noted=noted).ok
    assert "line 3: is not the one that was noted" in check_audit(folder, noted=f"3:{'0' * 64}").fault
    with pytest.raises(UsageError, match="is no head"):
        check_audit(folder, noted="latest")


def test_a_head_that_is_gone_is_found_also_after_the_writer_went_on(make_log: MakeLog) -> None:
    folder = make_log(6)
    _edit(folder, lambda lines: lines.__delitem__(slice(3, None)))
    (folder / "head.json").unlink()
    assert "the head (head.json) is gone" in check_audit(folder).fault
    make_log(2)

    assert "the head was lost before line 4" in check_audit(folder).fault


def test_the_writer_does_not_cover_a_gap(make_log: MakeLog) -> None:
    folder = make_log(6)
    _edit(folder, lambda lines: lines.__delitem__(slice(3, None)))
    make_log(2)

    assert "line 4: line 4 is missing" in check_audit(folder).fault


def test_a_changed_last_line_is_not_covered_either(make_log: MakeLog) -> None:
    folder = make_log(6)
    _edit(folder, lambda lines: lines.__setitem__(5, lines[5].replace(b"http", b"dicom")))
    make_log(2)

    assert "line 6: line 6 was changed" in check_audit(folder).fault


def test_nothing_is_checked_without_the_key(make_log: MakeLog, tmp_path: Path) -> None:
    folder = make_log(2)
    key = (folder / "key").rename(tmp_path / "key")

    with pytest.raises(FoveolaError, match="the log's key cannot be read"):
        check_audit(folder)
    assert check_audit(folder, key).ok
    assert not check_audit(folder, _file(tmp_path / "wrong", b"y" * 32)).ok
    with pytest.raises(FoveolaError, match="a key of 5 bytes"):
        check_audit(folder, _file(tmp_path / "short", b"short"))
    with pytest.raises(FoveolaError, match="cannot be read"):  # it makes no second key for an old log
        Audit(folder)


def _file(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    return path


# --- power cuts


@pytest.mark.parametrize("step", [29, pytest.param(1, marks=pytest.mark.slow)])
def test_a_power_cut_at_any_byte_of_a_line_loses_at_most_that_line(make_log: MakeLog, step: int) -> None:
    folder = make_log(4)
    before, head = log_of(folder).read_bytes(), (folder / "head.json").read_bytes()
    make_log(1)
    after = log_of(folder).read_bytes()
    for cut in sorted({*range(len(before), len(after), step), len(before) + 1, len(after) - 1, len(after)}):
        log_of(folder).write_bytes(after[:cut])
        (folder / "head.json").write_bytes(head)
        assert check_audit(folder).ok, cut
        Audit(folder).write("start")
        checked = check_audit(folder)
        assert checked.ok, (cut, checked.fault)
        events = [json.loads(line)["event"] for line in lines_of(folder)][4:]
        torn = len(before) < cut < len(after)
        expected = ["answer", "start"] if cut == len(after) else ["note", "start"] if torn else ["start"]
        assert events == expected


@pytest.mark.parametrize("rest", [b"x" * 5000, b"\0" * 4096, b"\0" * 100, b"{", b"\n", b"\n\n{"])
def test_what_else_stands_at_the_end_stops_no_writer(make_log: MakeLog, rest: bytes) -> None:
    folder = make_log(4)
    with log_of(folder).open("ab") as stream:
        stream.write(rest)
    make_log(2)
    checked = check_audit(folder)

    assert checked.lines >= 4
    assert checked.ok == (len(rest) < 4096 and not rest.startswith(b"\n")), checked.fault


def test_a_head_that_cannot_be_written_is_told_and_made_up_for(
    make_log: MakeLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = make_log(3)
    audit = Audit(folder)

    def full(path: Path, data: bytes) -> None:
        raise FoveolaError(str(path), "cannot be written: No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(module, "write_file", full)
        with pytest.raises(FoveolaError, match="No space left"):
            audit.write("start")
    assert check_audit(folder).ok
    audit.write("stop")

    assert [json.loads(line)["event"] for line in lines_of(folder)][3:] == ["start", "stop"]
    assert check_audit(folder).ok


# --- size


def test_old_files_go_and_the_rest_is_whole(tmp_path: Path) -> None:
    audit = Audit(tmp_path / "log", limits=AuditLimits(file_bytes=2000, files=3))
    for n in range(100):
        audit.write("answer", {"count": n})
    checked = check_audit(tmp_path / "log")

    assert len(segments(tmp_path / "log")) == 3
    assert checked.ok
    assert checked.first > 1
    assert checked.head.startswith("100:")
    assert checked.notes == (f"lines 1 to {checked.first - 1} were let go to keep the log within its size",)
    assert sum(path.stat().st_size for path in segments(tmp_path / "log")) < 3 * 2500


def test_a_whole_file_taken_away_is_found(tmp_path: Path) -> None:
    audit = Audit(tmp_path / "log", limits=AuditLimits(file_bytes=2000, files=9))
    for n in range(40):
        audit.write("answer", {"count": n})
    first, second, *_ = segments(tmp_path / "log")
    saved = second.read_bytes()
    second.unlink()
    assert re.search(r"line \d+ is missing", check_audit(tmp_path / "log").fault)
    second.write_bytes(saved)
    first.unlink()

    assert "line 1 is missing" in check_audit(tmp_path / "log").fault


def test_a_cut_between_the_head_and_the_deletion_does_no_harm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    audit = Audit(tmp_path / "log", limits=AuditLimits(file_bytes=1000, files=2))

    def cut(path: Path, missing_ok: bool = False) -> None:
        raise OSError(5, "Input/output error")

    with monkeypatch.context() as patch:
        patch.setattr(Path, "unlink", cut)
        for n in range(20):
            try:
                audit.write("answer", {"count": n})
            except FoveolaError:
                break
    assert len(segments(tmp_path / "log")) == 3
    assert check_audit(tmp_path / "log").ok
    audit.write("stop")

    assert len(segments(tmp_path / "log")) == 2
    assert check_audit(tmp_path / "log").ok


def test_a_clock_that_went_back_is_noted_and_breaks_nothing(tmp_path: Path) -> None:
    at = datetime(2026, 3, 2, 9, 30, tzinfo=timezone.utc)  # noqa: UP017 - as the code under test
    times = iter([at, at - timedelta(days=9), at])
    audit = Audit(tmp_path / "log", now=lambda: next(times))
    for _ in range(3):
        audit.write("start")
    checked = check_audit(tmp_path / "log")

    assert checked.ok
    assert checked.notes == ("the clock went back 1 time(s)",)


# --- words


@pytest.mark.parametrize(
    ("event", "facts"),
    [
        ("Doe^John", {}),
        ("answer", {"patient": "Doe"}),
        ("answer", {"image": "1.2.840.113619.2.5.1762583153"}),
        ("answer", {"bundle": "Doe^John"}),
        ("answer", {"version": "1.2.840.113619.2.5.1762583153.215519.978957063.78"}),
        ("refusal", {"kind": "Doe"}),
        ("answer", {"digest": "John Doe"}),
        ("answer", {"count": "Doe"}),
        ("answer", {"bundle": 19470101}),
        ("answer", {"count": 10**17}),
        ("answer", {"seconds": float("nan")}),
    ],
    ids=["event", "fact", "uid", "name", "uid as version", "kind", "digest", "text", "number", "large", "nan"],
)
def test_a_fact_that_might_name_somebody_is_refused_and_not_repeated(
    make_log: MakeLog, event: str, facts: dict[str, str | int | float | bool]
) -> None:
    folder = make_log(1)

    with pytest.raises(ValueError, match=".") as caught:
        Audit(folder).write(event, facts)

    assert "Doe" not in str(caught.value)
    assert "113619" not in str(caught.value)
    assert len(lines_of(folder)) == 1


def test_the_words_of_the_log_do_not_contradict_each_other() -> None:
    assert len(set(EVENTS)) == len(EVENTS)
    assert all(re.fullmatch(FACTS["kind"], word) for word in REFUSALS)
    assert not re.fullmatch(FACTS["kind"], "modality|view")


def test_an_image_has_one_mark_a_device(make_log: MakeLog) -> None:
    one, other = Audit(make_log(1)), Audit(make_log(1, "other"))

    assert one.mark("1.2.3") == one.mark("1.2.3") != one.mark("1.2.4")
    assert one.mark("1.2.3") != other.mark("1.2.3")
    one.write("answer", {"image": one.mark("1.2.3")})


# --- the verb


def test_the_verb_says_whole_or_broken(make_log: MakeLog, capsys: pytest.CaptureFixture[str]) -> None:
    folder = make_log(3)

    assert main(["audit", "verify", str(folder)]) == 0
    whole = capsys.readouterr().out
    assert re.fullmatch(r"the log is whole: 3 lines from 1 on\nhead  3:[0-9a-f]{64}\n", whole)
    by_click = CliRunner().invoke(foveola, ["audit", "verify", str(folder)])
    assert (by_click.exit_code, by_click.stdout) == (0, whole)
    _edit(folder, lambda lines: lines.pop(1))
    assert main(["audit", "verify", str(folder)]) == 5
    assert re.match(
        r"BROKEN at log-0+1\.jsonl line 2: line 2 is missing\n1 lines before it hold\n", capsys.readouterr().out
    )
    assert main(["audit", "verify", str(folder), "--json"]) == 5
    assert json.loads(capsys.readouterr().out)["ok"] is False
    by_click = CliRunner().invoke(foveola, ["audit", "verify", str(folder)], standalone_mode=False)
    assert by_click.return_value == 5


def test_a_folder_without_a_log_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["audit", "show", str(tmp_path / "nowhere")]) == 1

    assert capsys.readouterr().err.endswith("nowhere: holds no audit log; name the folder of a log\n")


def test_the_verb_shows_the_last_lines(make_log: MakeLog, capsys: pytest.CaptureFixture[str]) -> None:
    folder = make_log(9)

    assert main(["audit", "show", str(folder), "--lines", "2"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == ["8", "9"]
    assert "way=http" in lines[0]
    assert main(["audit", "show", str(folder), "--lines", "4", "--json"]) == 0
    assert len(json.loads(capsys.readouterr().out)["lines"]) == 4


def test_the_verb_refuses_a_folder_that_is_no_log(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["audit", "verify", str(tmp_path)]) == 1
    assert "the log's key cannot be read" in capsys.readouterr().err
