"""`foveola serve` as a process: what it says, and that it can be killed at any time without losing or doubling work."""

from __future__ import annotations

import io
import json
import os
import re
import signal
import socket
import sqlite3
import subprocess
import time
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

import msgspec
import pytest

from foveola.export.signing import sign_members
from foveola.runtime.__main__ import main
from foveola.runtime.bundle import Bundle, write_bundle
from foveola.runtime.manifest import Manifest, encode_manifest
from foveola.runtime.predict import Predictor
from foveola.runtime.prediction import prediction_json

from .conftest import Running

Start = Callable[..., Running]


@pytest.fixture(autouse=True)
def this_process_hears_its_warnings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("foveola.runtime.serve.verb.quiet_libraries", lambda: None)


def test_the_service_answers_like_predict_and_says_when_it_is_ready(
    service: Start, tiny_bundle: Bundle, tiny_image: bytes
) -> None:
    running = service()
    ready = running.ready()

    status, answer = running.ask("POST", "/v1/predict", tiny_image)

    expected = prediction_json(Predictor(tiny_bundle).predict(tiny_image))
    assert status == 200
    assert answer["prediction"] == json.loads(json.dumps(expected))
    assert answer["bundle"]["digest"] == ready["bundle"]["digest"] == tiny_bundle.digest
    assert running.stop() == 0


@pytest.fixture
def newer(
    tmp_path: Path, tiny_members: dict[str, bytes], tiny_manifest: Manifest, tiny_keys: tuple[Path, Path]
) -> Path:
    """Version 2 of the tiny bundle."""
    manifest = encode_manifest(msgspec.structs.replace(tiny_manifest, version="2"))
    whole = {**tiny_members, "manifest.json": manifest}
    write_bundle(tmp_path / "2.foveola", {**whole, "model.sig": sign_members(whole, tiny_keys[0].read_bytes())})
    return tmp_path / "2.foveola"


def images(count: int, tiny_image: bytes) -> list[bytes]:
    """So many PNG files of different content: bytes after the end of a PNG are no part of the picture."""
    return [tiny_image + b"%d" % i for i in range(count)]


def test_whatever_was_accepted_is_answered_once_however_often_the_service_is_killed(
    service: Start, short: Path, tiny_image: bytes
) -> None:
    inbox = short / "inbox"
    inbox.mkdir()
    arguments = ("--inbox", str(inbox), "--audit", str(short / "audit"))
    running = service(*arguments)
    running.ready()
    accepted = set()
    for i, image in enumerate(images(12, tiny_image)):
        (inbox / f"{i}.png").write_bytes(image + b"folder")
        status, job = running.ask("POST", "/v1/jobs", image)
        assert status == 202
        accepted.add(job["id"])
    for pause_s in (0.0, 0.3, 0.7):  # before, at and after the start of the engine
        time.sleep(pause_s)
        running.kill()
        running = service(*arguments)
        wait_for_socket(running)

    counts = running.until("/v1/jobs", lambda _, counts: counts["answered"] == 24, 60)

    assert counts == {"queued": 0, "answered": 24, "unfit": 0, "refused": 0, "failed": 0, "results": 0}
    for name in accepted:
        told = running.ask("GET", f"/v1/jobs/{name}")[1]
        assert told["state"] == "answered"
        assert told["answer"]["prediction"]["findings"]
    wait_for(lambda: not any(path.is_file() for path in inbox.iterdir()))
    assert len(list((inbox / "done").glob("*.json"))) == 12
    for image in images(12, tiny_image):  # sent again, each is known and not answered again
        assert running.ask("POST", "/v1/jobs", image)[0] == 200


def test_an_engine_that_is_killed_is_started_anew_and_the_service_lives(service: Start, tiny_image: bytes) -> None:
    running = service()
    running.ready()
    (child,) = children(running.process.pid)

    os.kill(child, signal.SIGKILL)
    running.until("/metrics", lambda _, text: "foveola_engine_restarts_total 1\n" in text)
    running.ready()

    assert children(running.process.pid) != [child]
    assert running.ask("POST", "/v1/predict", tiny_image)[0] == 200


def test_the_engine_goes_when_the_service_is_killed(service: Start) -> None:
    running = service()
    running.ready()
    (child,) = children(running.process.pid)

    running.kill()

    wait_for(lambda: not Path(f"/proc/{child}").exists() or "Z" in Path(f"/proc/{child}/stat").read_text().split()[2])


def test_sigterm_ends_it_within_seconds_and_leaves_the_queue(service: Start, short: Path, tiny_image: bytes) -> None:
    running = service()
    running.ready()
    assert running.ask("POST", "/v1/jobs", tiny_image)[0] == 202

    assert running.stop() == 0

    assert "stopping: nothing new is taken" in running.words()
    assert "stopped; on disk: 1 " in running.words()
    assert not running.socket.exists()


def test_systemd_is_told_ready_alive_and_stopping(service: Start, short: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(short / "n"))
        manager.settimeout(30)
        running = service(NOTIFY_SOCKET=str(short / "n"), WATCHDOG_USEC="1000000")
        told = [manager.recv(4096).decode()]
        while not any(words.startswith("READY=1") for words in told) or "WATCHDOG=1" not in told:
            told.append(manager.recv(4096).decode())
        running.stop()
        manager.setblocking(False)
        try:
            while True:
                told.append(manager.recv(4096).decode())
        except BlockingIOError:
            pass

    (ready,) = [words for words in told if words.startswith("READY=1")]
    assert ready == "READY=1\nSTATUS=tiny 1 on onnxruntime, self-test of 1 images passed"
    assert told[-1] == "STOPPING=1"


def test_the_unit_file_asks_for_what_the_service_tells() -> None:
    text = (Path(__file__).parents[3] / "docs" / "foveola.service").read_text()

    assert re.search(r"^Type=notify$", text, re.MULTILINE)
    assert re.search(r"^WatchdogSec=\d+$", text, re.MULTILINE)
    assert re.search(r"^Restart=always$", text, re.MULTILINE)


def test_the_unit_file_lets_the_engines_place_their_threads_and_memory() -> None:
    """onnxruntime calls mbind, OpenVINO sched_setaffinity; a filter without an error number kills who does."""
    text = (Path(__file__).parents[3] / "docs" / "foveola.service").read_text()

    filters = re.findall(r"^SystemCallFilter=(.*)$", text, re.MULTILINE)
    assert filters == ["@system-service", "~@privileged"]
    assert re.search(r"^SystemCallErrorNumber=EPERM$", text, re.MULTILINE)


def test_the_watch_and_the_audit_log_hold_counts_and_no_name(service: Start, short: Path, tiny_image: bytes) -> None:
    running = service("--watch", str(short / "watch"), "--audit", str(short / "audit"))
    running.ready()
    assert running.ask("POST", "/v1/predict", tiny_image)[0] == 200
    assert running.ask("POST", "/v1/predict", b"no image")[0] == 422
    running.stop()

    words = "\n".join(path.read_text() for path in sorted((short / "watch").glob("*.json")))
    assert '"images":1' in words.replace(" ", "")
    lines = [
        json.loads(line) for path in sorted((short / "audit").glob("*.jsonl")) for line in path.read_text().splitlines()
    ]
    assert [line["event"] for line in lines] == ["start", "ready", "answer", "refusal", "stop"]
    assert lines[3]["facts"]["kind"] == "format"
    done = run("audit", "verify", str(short / "audit"))
    assert done.returncode == 0, done.stderr


def test_a_change_of_bundle_answers_anew(service: Start, short: Path, tiny_image: bytes) -> None:
    running = service()
    running.ready()
    name = running.ask("POST", "/v1/jobs", tiny_image)[1]["id"]
    running.until(f"/v1/jobs/{name}", lambda _, job: job["state"] == "answered")
    running.stop()
    with sqlite3.connect(short / "state" / "jobs.sqlite") as base:
        base.execute("UPDATE jobs SET bundle = 'older'")
    base.close()
    running = service()
    running.ready()

    assert running.ask("POST", "/v1/jobs", tiny_image)[0] == 202


def test_the_active_slot_answers_and_its_trial_ends_with_the_first_answer(
    service: Start, short: Path, tiny_path: Path, tiny_keys: tuple[Path, Path], tiny_image: bytes
) -> None:
    root = ["--root", str(short / "device")]
    key = ["--key", str(tiny_keys[1])]
    assert run("install", str(tiny_path), *root, *key).returncode == 0
    assert run("activate", *root, *key).returncode == 0
    running = service(*root, *key, bundle=None)
    running.ready()
    assert json.loads(run("slots", *root, "--json").stdout)["slots"]["a"]["life"] != "good"

    assert running.ask("POST", "/v1/predict", tiny_image)[0] == 200

    wait_for(lambda: json.loads(run("slots", *root, "--json").stdout)["slots"]["a"]["life"] == "good")


def test_a_service_that_goes_on_with_the_older_bundle_does_not_end_the_trial_of_the_new_one(
    service: Start, short: Path, tiny_path: Path, tiny_keys: tuple[Path, Path], tiny_image: bytes, newer: Path
) -> None:
    root, key = ["--root", str(short / "device")], ["--key", str(tiny_keys[1])]
    for verb in (["install", str(tiny_path)], ["activate"]):
        assert run(*verb, *root, *key).returncode == 0
    assert run("slots", *root, "--good").returncode == 0
    running = service(*root, *key, bundle=None)
    running.ready()
    for verb in (["install", str(newer)], ["activate"]):
        assert run(*verb, *root, *key).returncode == 0

    assert running.ask("POST", "/v1/predict", tiny_image)[0] == 200
    time.sleep(1)

    assert json.loads(run("slots", *root, "--json").stdout)["slots"]["b"]["life"] == "trial"
    os.kill(children(running.process.pid)[0], signal.SIGKILL)  # its next process opens the new bundle
    running.until("/ready", lambda status, said: status == 200 and said["bundle"]["version"] == "2")
    assert running.ask("POST", "/v1/predict", tiny_image)[0] == 200
    wait_for(lambda: json.loads(run("slots", *root, "--json").stdout)["slots"]["b"]["life"] == "good")


def test_ctrl_c_reaches_the_engine_too_and_costs_no_answer(service: Start, tiny_image: bytes) -> None:
    running = service()
    running.ready()

    os.kill(children(running.process.pid)[0], signal.SIGINT)

    assert running.ask("POST", "/v1/predict", tiny_image)[0] == 200
    running.process.send_signal(signal.SIGINT)
    assert running.process.wait(30) == 0
    assert "Traceback" not in running.words()
    assert "no engine" not in running.words()


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["{bundle}", "--root", "x"], 2, "serve: neither a bundle nor --root, or both; give one of them"),
        ([], 2, "serve: neither a bundle nor --root, or both; give one of them"),
        (["{bundle}", "--http", "0.0.0.0:80"], 2, "--http: '0.0.0.0:80' is neither a unix socket nor loopback"),
        (["{bundle}", "--http", "off"], 2, "serve: no door is open; give --http, --dicom or --inbox"),
        (["{bundle}", "--deadline", "nan"], 2, "--deadline: nan is no length of time"),
        (["{bundle}", "--dicom", "host:port"], 2, "--dicom: 'host:port' is no port"),
        (["{bundle}", "--peer", "PACS"], 2, "--peer: 'PACS' is no peer; give AET@HOST:PORT"),
        (["{bundle}", "--peer", "PACS@h:1", "--kinds", "pdf"], 2, "--kinds: there is no kind 'pdf'"),
        (["{bundle}", "--dicom", "0", "--aet", "TOO LONG FOR A TITLE"], 2, "--aet: 'TOO LONG FOR A TITLE' is no AE"),
        (["{bundle}", "--kinds", "sr"], 2, "--kinds: there is no peer to send results to; give --peer as well"),
        (["{bundle}", "--peer", "PACS@h:1", "--caller", "CR1"], 2, "--caller: nobody can call by DICOM; give --dicom"),
        (["{bundle}", "--aet", "FOVEOLA"], 2, "--aet: nothing goes by DICOM; give --dicom or --peer as well"),
        (["{bundle}", "--key", "{bundle}"], 5, "tiny.foveola"),
        (["{bundle}", "--engine", "tensorrt"], 1, "engine 'tensorrt': tiny was not validated on it"),
        (["{bundle}", "--watch", "{bundle}/x"], 1, "tiny.foveola/x: cannot be written: Not a directory"),
        (["--root", "nowhere"], 5, "nowhere: no key to check a signature with"),
        (["--root", "nowhere", "--key", "{bundle}"], 1, "nowhere: no slot is active"),
        (["nowhere.foveola"], 1, "nowhere.foveola: is not there"),
        (["{bundle}", "--inbox", "nowhere", "--http", "off"], 1, "nowhere: cannot be watched"),
    ],
)
def test_wrong_options_are_refused_at_once(
    arguments: list[str], code: int, words: str, tiny_path: Path, tmp_path: Path
) -> None:
    filled = [word.format(bundle=tiny_path) for word in arguments]

    done = run("serve", *filled, "--state", str(tmp_path))

    assert done.returncode == code, done.stderr
    assert words in done.stderr
    assert len(done.stderr.splitlines()) == 1


def run(*words: str) -> subprocess.CompletedProcess[str]:
    """Run a verb in this process, which has imported already what it takes."""
    out, err = io.StringIO(), io.StringIO()
    with redirect_stdout(out), redirect_stderr(err):
        code = main(list(words))
    return subprocess.CompletedProcess(words, code, out.getvalue(), err.getvalue())


def children(parent: int) -> list[int]:
    found = Path(f"/proc/{parent}/task/{parent}/children").read_text().split()
    every = [Path(f"/proc/{parent}/task/{task.name}/children") for task in Path(f"/proc/{parent}/task").iterdir()]
    return sorted({int(pid) for path in every for pid in path.read_text().split()} | {int(pid) for pid in found})


def wait_for(holds: Callable[[], Any], seconds: float = 30.0) -> None:
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end, "it did not come true"
        time.sleep(0.05)


def wait_for_socket(running: Running) -> None:
    running.until("/health", lambda status, _: status == 200)
