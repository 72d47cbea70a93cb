from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from foveola.runtime.__main__ import main
from foveola.runtime.errors import ExitCode
from foveola.runtime.slots.state import bundle_path, read_state, record_path

Capture = pytest.CaptureFixture[str]
Release = Callable[..., Path]


def answer_of(capsys: Capture) -> dict[str, Any]:
    result = json.loads(capsys.readouterr().out)
    assert isinstance(result, dict)
    return result


def test_a_device_is_updated_by_four_commands(tmp_path: Path, release: Release, key: Path, capsys: Capture) -> None:
    root = tmp_path / "device"
    where = ["--root", str(root), "--key", str(key)]

    assert main(["install", str(release("1")), *where]) == ExitCode.DONE
    out, err = capsys.readouterr()
    assert out == "slot a: 1 on onnxruntime is ready; run `foveola activate`\n"
    assert err == "self-test in the new slot\n"

    assert main(["activate", *where]) == ExitCode.DONE
    assert capsys.readouterr().out == "slot a is active: tiny 1, on trial: 3 starts to be marked good\n"

    assert main(["slots", "--root", str(root), "--start"]) == ExitCode.DONE
    assert capsys.readouterr().out == f"{bundle_path(root, 'a')}\n"
    assert main(["slots", "--root", str(root), "--good"]) == ExitCode.DONE
    capsys.readouterr()

    main(["install", str(release("1.1")), *where])
    main(["activate", *where])
    main(["slots", "--root", str(root), "--start"])
    capsys.readouterr()
    assert main(["slots", "--root", str(root)]) == ExitCode.DONE
    head, a, b = capsys.readouterr().out.splitlines()
    assert head == "tiny, nothing older than 1"
    assert a.startswith("  a  1  good, onnxruntime, tested 2")
    assert b.startswith("* b  1.1  trial, started 1 of 3 times, onnxruntime, tested 2")

    assert main(["rollback", *where]) == ExitCode.DONE
    assert capsys.readouterr().out == "slot a is active: tiny 1, good\n"


def test_slots_as_json(root: Path, release: Release, key: Path, capsys: Capture) -> None:
    main(["install", str(release("2")), "--root", str(root), "--key", str(key), "--json"])
    installed = answer_of(capsys)
    main(["slots", "--root", str(root), "--json"])
    shown = answer_of(capsys)

    assert (installed["slot"], installed["record"]["version"], installed["self_test"]["ok"]) == ("b", "2", True)
    assert (shown["name"], shown["active"], shown["floor"]) == ("tiny", "a", "1")
    assert shown["path"] == str(bundle_path(root, "a"))
    assert {name: slot["life"] for name, slot in shown["slots"].items()} == {"a": "good", "b": "ready"}


def test_the_active_bundle_installed_again_says_so(root: Path, key: Path, capsys: Capture) -> None:
    again = ["install", str(bundle_path(root, "a")), "--root", str(root), "--key", str(key)]

    assert main(again) == ExitCode.DONE
    assert capsys.readouterr().out == "slot a: 1 on onnxruntime is active already\n"


def test_a_trial_that_does_not_work_is_left_by_a_command(
    root: Path, release: Release, key: Path, capsys: Capture
) -> None:
    main(["install", str(release("2")), "--root", str(root), "--key", str(key)])
    main(["activate", "--root", str(root), "--key", str(key)])

    assert main(["slots", "--root", str(root), "--fail", "no answer"]) == ExitCode.DONE
    out = capsys.readouterr().out
    assert "* a  1  good" in out
    assert "b  2  failed (no answer), onnxruntime" in out
    assert main(["slots", "--root", str(root), "--fail", "no answer"]) == ExitCode.REFUSED
    assert "the active bundle is not on trial" in capsys.readouterr().err


def test_an_empty_folder_is_shown_as_such(tmp_path: Path, capsys: Capture) -> None:
    assert main(["slots", "--root", str(tmp_path)]) == ExitCode.DONE
    assert capsys.readouterr().out == "nothing installed\n  a  empty\n  b  empty\n"


def test_a_folder_that_is_not_there_is_not_shown_as_empty(tmp_path: Path, capsys: Capture) -> None:
    assert main(["slots", "--root", str(tmp_path / "nowhere")]) == ExitCode.REFUSED
    assert capsys.readouterr().err.endswith("nowhere: is no folder; run `foveola install BUNDLE --root DIR` first\n")


@pytest.mark.parametrize(
    ("command", "words"),
    [
        (["slots"], "--root: is not given; name the device's folder, or set FOVEOLA_ROOT"),
        (["slots", "--root", "x", "--start", "--good"], "several of --start, --good and --fail were given"),
        (["activate"], "--root: is not given"),
        (["rollback"], "--root: is not given"),
        (["selftest"], "--root: is not given"),
        (["selftest", "x.foveola", "--root", "x"], "a bundle and --root were given"),
        (["selftest", "--root", "x", "--engine", "openvino"], "--engine: the slot has its own"),
        (["selftest", "--root", "x", "--record", "y"], "--record: the slot has its own"),
        (["selftest", "x.foveola", "--audit", "y"], "--audit: tells of returns to the other slot"),
        (["slots", "--root", ".", "--audit", "y"], "--audit: nothing is done that it could tell of"),
    ],
)
def test_a_wrong_command_is_told(command: list[str], words: str, capsys: Capture) -> None:
    assert main(command) == ExitCode.USAGE
    assert words in capsys.readouterr().err


def test_folder_and_key_may_come_from_the_environment(
    root: Path, release: Release, key: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FOVEOLA_ROOT", str(root))
    monkeypatch.setenv("FOVEOLA_KEY", str(key))

    assert [main([verb, *more]) for verb, *more in (["install", str(release("2"))], ["activate"], ["rollback"])] == [
        0
    ] * 3
    assert read_state(root).active == "a"
    capsys.readouterr()


def test_selftest_of_a_folder_keeps_the_record_and_tells_what_has_changed(
    root: Path, key: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    test = ["selftest", "--root", str(root), "--key", str(key)]
    record_path(root, "a").unlink()

    assert main(test) == ExitCode.DONE
    assert "since the last self-test: none is on record" in capsys.readouterr().out
    assert record_path(root, "a").exists()
    assert main([*test, "--json"]) == ExitCode.DONE
    assert answer_of(capsys)["changed"] == []
    monkeypatch.setattr("foveola.runtime.fingerprint.pillow_version", "99.0")
    assert main([*test, "--json"]) == ExitCode.DONE
    assert answer_of(capsys)["changed"][0].endswith("-> 99.0")


def test_selftest_of_a_file_keeps_a_record_where_it_is_told_to(
    release: Release, key: Path, tmp_path: Path, capsys: Capture
) -> None:
    record = tmp_path / "selftest.json"
    test = ["selftest", str(release("1")), "--key", str(key), "--record", str(record)]

    assert main(test) == ExitCode.DONE
    assert record.exists()
    assert "self-test holds on onnxruntime: 1 images, 0 decisions flipped" in capsys.readouterr().out


def test_a_trial_that_fails_its_self_test_is_left(
    root: Path, release: Release, key: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    main(["install", str(release("2")), "--root", str(root), "--key", str(key)])
    main(["activate", "--root", str(root), "--key", str(key)])
    capsys.readouterr()
    monkeypatch.setattr("foveola.runtime.selftest.TOLERANCE", {"float32": -1.0})

    assert main(["selftest", "--root", str(root), "--key", str(key)]) == ExitCode.REFUSED
    assert f"returned to the other slot: {bundle_path(root, 'a')}" in capsys.readouterr().out
    b = read_state(root).b
    assert b is not None
    assert b.reason.startswith("self-test: findings drifted by 0, allowed -1")

    assert main(["selftest", "--root", str(root), "--key", str(key), "--json"]) == ExitCode.REFUSED
    assert answer_of(capsys)["returned_to"] is None


def test_a_version_that_the_log_does_not_take_costs_only_itself(
    tmp_path: Path, release: Release, key: Path, capsys: Capture
) -> None:
    log = tmp_path / "audit"
    where = ["--root", str(tmp_path / "device"), "--key", str(key), "--audit", str(log)]

    assert main(["install", str(release("1.2.0+build.2024112101")), *where]) == ExitCode.DONE

    capsys.readouterr()
    (line,) = [json.loads(line) for path in log.glob("*.jsonl") for line in path.read_text().splitlines()]
    assert (line["event"], sorted(line["facts"])) == ("install", ["digest", "result", "slot"])


def test_each_change_and_each_refusal_stands_in_the_audit_log(
    tmp_path: Path, release: Release, key: Path, capsys: Capture
) -> None:
    log = tmp_path / "audit"
    where = ["--root", str(tmp_path / "device"), "--key", str(key), "--audit", str(log)]

    main(["install", str(release("1")), *where])
    main(["activate", *where])
    main(["rollback", *where])
    capsys.readouterr()

    assert main(["audit", "verify", str(log)]) == ExitCode.DONE
    capsys.readouterr()
    lines = [json.loads(line) for path in sorted(log.glob("*.jsonl")) for line in path.read_text().splitlines()]
    told = {line["event"]: line["facts"] for line in lines}
    assert told["install"]["version"] == told["activate"]["version"] == "1"
    assert (told["install"]["slot"], told["activate"]["result"]) == ("a", "ok")
    assert told["rollback"] == {"result": "refused", "code": ExitCode.REFUSED}
