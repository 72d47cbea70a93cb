"""The HTTP door's socket: a unix socket or a port on loopback, served by waitress.

Laws:
- Any other address is refused; who needs one puts a proxy before it that asks for a password.
- A unix socket is its owner's alone from the moment it is there (mode 0600).
- A request that is not whole within `request_s` is cut off, also one that drips; so is a silent connection.
"""

from __future__ import annotations

import errno
import ipaddress
import os
import re
import socket
import stat
import threading
import time
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from ..errors import FoveolaError, MissingPartError, UsageError
from .limits import MIB, Limits

if TYPE_CHECKING:
    from .web import Web

HEADER_BYTES = 16 * 1024
FLUSH_S = 5.0  # for answers that are on their way when the service stops
MEMORY_BYTES = MIB  # of a body that is still coming; the rest waits in a file without a name


class Address(msgspec.Struct, frozen=True):
    """Where to listen: a path, or a loopback address and port (0: any free one)."""

    path: Path | None = None
    host: str = ""
    port: int = 0

    def __str__(self) -> str:
        if self.path:
            return f"unix:{self.path}"
        return f"http://[{self.host}]:{self.port}" if ":" in self.host else f"http://{self.host}:{self.port}"


def parse_address(text: str) -> Address:
    """Read `unix:PATH`, `127.0.0.1:PORT`, `[::1]:PORT` or `localhost:PORT`.

    Raises:
        UsageError: anything else, or this system has no unix sockets.
    """
    if text.startswith("unix:"):
        if not hasattr(socket, "AF_UNIX") or os.name == "nt":
            raise UsageError("--http", "this system has no unix sockets", "give 127.0.0.1:PORT")
        return Address(path=Path(text.removeprefix("unix:")))
    found = re.fullmatch(r"(?:\[([^\]]+)\]|([^:\[\]]+)):([0-9]{1,5})", text)
    host = (found[1] or found[2]) if found else ""
    if host == "localhost":
        host = "127.0.0.1"
    try:
        local = ipaddress.ip_address(host).is_loopback
    except ValueError:
        local = False
    if not found or not local or int(found[3]) > 65535:
        mend = "give unix:PATH, 127.0.0.1:PORT or [::1]:PORT; put a proxy before it for others"
        raise UsageError("--http", f"{text!r} is neither a unix socket nor loopback", mend)
    return Address(host=host, port=int(found[3]))


class HttpServer:
    """Waitress on one socket, in a thread of its own.

    Args:
        web: the application.
        address: from `parse_address`.
        limits: of the service.

    Raises:
        FoveolaError: the address is taken, or cannot be used.
        MissingPartError: waitress is not installed.
    """

    def __init__(self, web: Web, address: Address, limits: Limits) -> None:
        try:
            create_server = import_module("waitress.server").create_server
        except ImportError:
            raise MissingPartError("waitress", "is not installed", "pip install 'foveola[serve]'") from None
        sock = _bind(address)
        self.address = address if address.path else Address(host=address.host, port=sock.getsockname()[1])
        self._server: Any = create_server(
            web,
            sockets=[sock],
            threads=limits.waiting + 8,  # so that /health is answered while all others wait
            connection_limit=limits.waiting + 16,
            max_request_body_size=limits.image_bytes + 1,
            max_request_header_size=HEADER_BYTES,
            inbuf_overflow=MEMORY_BYTES,
            channel_timeout=max(1, int(limits.request_s)),
            cleanup_interval=5,
            ident=None,
            expose_tracebacks=False,
        )
        self._server.channel_class = _channel_class(limits.request_s)
        self.thread = threading.Thread(target=self._server.run, name="http", daemon=True)

    def start(self) -> None:
        """Begin to answer."""
        self.thread.start()

    def stop(self) -> None:
        """Take no new connection; those that are being answered get their answers. Harmless to repeat."""
        if not self.thread.is_alive():
            return
        server, until = self._server, time.monotonic() + FLUSH_S
        server.task_dispatcher.shutdown(cancel_pending=False, timeout=FLUSH_S)
        while time.monotonic() < until and any(one.total_outbufs_len for one in list(server.active_channels.values())):
            time.sleep(0.01)
        # Sockets are closed by the thread that waits for them: another one would pull them from under its feet.
        server.trigger.pull_trigger(lambda: _close_sockets(server))
        self.thread.join(FLUSH_S)
        if not self.thread.is_alive() and not server.task_dispatcher.threads:  # an answer beyond FLUSH_S still pulls it
            server.trigger.close()
        if self.address.path:
            self.address.path.unlink(missing_ok=True)


def _close_sockets(server: Any) -> None:
    """Close every socket of waitress but its trigger, which leaves the loop and stays open.

    `pull_trigger` hands its function over and only then writes the byte that wakes the loop. An answer that has just
    ended has woken it already: the function may run before that byte is written, and a trigger that it closed would
    have the byte go to no file, or to whichever was opened under that number since.
    """
    dispatcher = import_module("waitress.wasyncore").dispatcher
    for one in list(server._map.values()):
        if one is not server.trigger:
            with suppress(OSError):
                dispatcher.close(one)  # the server's own would close the trigger as well
    server.trigger.del_channel()


def _channel_class(request_s: float) -> type:
    channel: Any = import_module("waitress.channel").HTTPChannel

    class Timed(channel):  # type: ignore[misc]  # waitress has no types
        """A connection that has so long for each request; waitress itself ends only silent ones."""

        begun = 0.0

        def received(self, data: bytes) -> bool:
            now = time.monotonic()
            if self.request is None:
                self.begun = now
            elif now - self.begun > request_s:
                self.will_close = True
                return False
            return bool(super().received(data))

    return Timed


def _bind(address: Address) -> socket.socket:
    if address.path:
        return _bind_path(address.path)
    sock = socket.socket(socket.AF_INET6 if ":" in address.host else socket.AF_INET)
    try:
        if os.name != "nt":  # there it would let another program take the port over
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind((address.host, address.port))
    except OSError as error:
        sock.close()
        raise FoveolaError(str(address), f"cannot listen: {error.strerror}", "choose another port") from None
    return sock


def _bind_path(path: Path) -> socket.socket:
    if path.exists() and not stat.S_ISSOCK(path.lstat().st_mode):
        raise FoveolaError(str(path), "is there already, and no socket", "choose another path")
    sock = socket.socket(socket.AF_UNIX)
    mask = os.umask(0o177)  # the socket's own rights, from its first moment
    try:
        if _is_answered(path):
            raise OSError(errno.EADDRINUSE, os.strerror(errno.EADDRINUSE))
        path.unlink(missing_ok=True)  # of a service that was killed
        sock.bind(str(path))
    except OSError as error:
        sock.close()
        raise FoveolaError(str(path), f"cannot listen: {error.strerror or error}", "choose another path") from None
    finally:
        os.umask(mask)
    return sock


def _is_answered(path: Path) -> bool:
    """Whether another service listens at a socket's path."""
    with socket.socket(socket.AF_UNIX) as caller:
        caller.settimeout(1.0)
        try:
            caller.connect(str(path))
        except BlockingIOError:  # its queue of callers is full
            return True
        except OSError:
            return False
        return True
