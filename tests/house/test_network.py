"""No network: neither this process nor an engine, and the guard that says so does work."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest


def test_the_guard_refuses_a_connection_that_leaves_the_machine() -> None:
    with socket.socket() as one, pytest.raises(AssertionError, match="192.0.2.1"):
        one.connect(("192.0.2.1", 80))  # a documentation address (RFC 5737), which nobody has


def test_the_guard_lets_loopback_pass() -> None:
    with socket.socket() as server, socket.socket() as client:
        server.bind(("127.0.0.1", 0))
        server.listen()

        client.connect(server.getsockname())


def test_the_road_asks_no_resolver_and_leaves_nothing_in_the_home_directory(tmp_path: Path) -> None:
    # In a fresh process every address look-up and connection is an error, and the home directory is an empty one.
    code = """
import socket
def refused(*args, **kwargs): raise SystemExit(f"network: {args}")
socket.getaddrinfo = socket.create_connection = refused
socket.socket.connect = refused
import foveola.toolkit.cli as cli
cli.forbid_telemetry()
import numpy, onnxruntime, openvino, nncf, torch, timm, lightning
openvino.Core().available_devices
timm.create_model("resnet10t", pretrained=False)
"""
    home = os.environ | {"HOME": str(tmp_path), "XDG_CACHE_HOME": str(tmp_path / "cache")}

    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code], env=home, capture_output=True, text=True, timeout=300
    )

    assert done.returncode == 0, done.stderr[-2000:]
    left = [
        path for path in tmp_path.rglob("*") if path.is_file() and "matplotlib" not in path.parts
    ]  # its list of fonts
    assert left == []
