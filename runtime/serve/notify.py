"""What systemd is told: ready, alive, stopping; sd_notify(3) is one datagram to the socket that it names.

Where nobody listens (no NOTIFY_SOCKET, Windows), nothing is said.
"""

from __future__ import annotations

import contextlib
import os
import socket


def notify(*words: str) -> bool:
    """Tell the service manager, such as `READY=1`; True where somebody listens."""
    address = os.environ.get("NOTIFY_SOCKET", "")
    family = getattr(socket, "AF_UNIX", None)
    if family is None or address[:1] not in ("/", "@"):
        return False
    name = "\0" + address[1:] if address.startswith("@") else address  # @: an abstract name
    with contextlib.suppress(OSError), socket.socket(family, socket.SOCK_DGRAM) as sender:
        sender.settimeout(1.0)
        sender.sendto("\n".join(words).encode(), name)
        return True
    return False


def watchdog_s() -> float | None:
    """Give seconds between two signs of life: half of WATCHDOG_USEC (sd_watchdog_enabled(3)); None where not asked."""
    if os.environ.get("WATCHDOG_PID", str(os.getpid())) != str(os.getpid()):
        return None
    try:
        return int(os.environ["WATCHDOG_USEC"]) / 2e6
    except (KeyError, ValueError):
        return None
