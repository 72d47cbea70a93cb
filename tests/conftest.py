"""For all tests: no telemetry, and no test reaches a network but through loopback."""

from __future__ import annotations

import ipaddress
import socket
from typing import Any

import pytest
from hypothesis import settings

from foveola.runtime.offline import forbid_telemetry

forbid_telemetry()

# A commit passes or fails whenever it is tested, however busy the machine; `bench/fuzz.py` looks for what is new.
settings.register_profile("suite", derandomize=True, deadline=None)
settings.load_profile("suite")


def _is_here(address: Any) -> bool:
    if not isinstance(address, tuple):
        return True  # a unix socket
    try:
        return ipaddress.ip_address(address[0]).is_loopback
    except ValueError:
        return bool(address[0] == "localhost")


@pytest.fixture(autouse=True)
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """Refuse every connection that leaves this machine; child processes that install packages are not touched."""
    connect = socket.socket.connect

    def guarded(self: socket.socket, address: Any) -> None:
        if not _is_here(address):
            raise AssertionError(f"a connection to {address!r} was tried")
        connect(self, address)

    monkeypatch.setattr(socket.socket, "connect", guarded)
