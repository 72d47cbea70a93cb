"""What the service manager is told: sd_notify's datagrams, and a sign of life only while there is life."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from foveola.runtime.serve import service
from foveola.runtime.serve.field import Field
from foveola.runtime.serve.notify import notify, watchdog_s

from .conftest import Parts


@pytest.fixture
def manager(short: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listening:
        listening.bind(str(short / "n"))
        listening.setblocking(False)
        monkeypatch.setenv("NOTIFY_SOCKET", str(short / "n"))
        yield listening


def heard(manager: socket.socket) -> list[str]:
    words = []
    while True:
        try:
            words.append(manager.recv(4096).decode())
        except BlockingIOError:
            return words


def test_words_are_lines_of_one_datagram(manager: socket.socket) -> None:
    assert notify("READY=1", "STATUS=fine")

    assert heard(manager) == ["READY=1\nSTATUS=fine"]


def test_an_abstract_socket_is_known_by_its_at_sign(monkeypatch: pytest.MonkeyPatch) -> None:
    name = f"foveola-test-{os.getpid()}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listening:
        listening.bind("\0" + name)
        monkeypatch.setenv("NOTIFY_SOCKET", "@" + name)

        assert notify("READY=1")
        assert listening.recv(100) == b"READY=1"


@pytest.mark.parametrize("address", ["", "relative", "/nowhere/at/all"])
def test_where_nobody_listens_nothing_is_said(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NOTIFY_SOCKET", address)

    assert not notify("READY=1")


def test_windows_has_nobody_to_tell(manager: socket.socket, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(socket, "AF_UNIX")

    assert not notify("READY=1")


@pytest.mark.parametrize(
    ("variables", "seconds"),
    [
        ({"WATCHDOG_USEC": "30000000"}, 15.0),
        ({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": str(os.getpid())}, 15.0),
        ({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": "1"}, None),
        ({"WATCHDOG_USEC": "soon"}, None),
        ({}, None),
    ],
)
def test_a_sign_of_life_is_due_twice_as_often_as_asked(
    variables: dict[str, str], seconds: float | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("WATCHDOG_USEC", "WATCHDOG_PID"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)

    assert watchdog_s() == seconds


def test_a_worker_that_hangs_is_not_called_alive(
    parts: Callable[..., Parts], manager: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WATCHDOG_USEC", "1000")
    made = parts()
    attendant = service._Attendant(None, made.worker, made.keeper, Field())
    attendant.look()
    assert "WATCHDOG=1" in heard(manager)

    monkeypatch.setattr(type(made.worker), "hangs", True)
    attendant.look()

    assert heard(manager) == []


def test_a_worker_that_ended_ends_the_service(parts: Callable[..., Parts]) -> None:
    made = parts(started=False)

    with pytest.raises(RuntimeError, match="the worker ended"):
        service._Attendant(None, made.worker, made.keeper, Field()).look()
