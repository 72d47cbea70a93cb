"""Results to the peer: DICOM files go by C-STORE, again and again until it has them.

Laws:
- What has to be sent is on disk with the time of the next try, so that a restart changes nothing.
- The pause between two tries doubles from `FIRST_S` to `MOST_PAUSE_S`; when the pauses come to `delivery_s` a result is
  given up and counted. Tries are counted, not hours: neither a service that was down nor a clock that leaps ends one.
- A result that is sent twice, since the peer's answer was lost, is the same object: its UID follows from the source's
  and the bundle's digest.
- One association for all that is due, with a context for each class and transfer syntax that is really sent.
"""

from __future__ import annotations

import contextlib
import re
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec

from ..errors import FoveolaError, UsageError
from .jobs import MOST_PAUSE_S, Queue, Result
from .limits import Limits
from .metrics import Metrics
from .node import TIMEOUT_S, application_entity

FIRST_S = 5.0
LOOK_S = 0.5
MOST_CONTEXTS = 128  # of an association (PS3.8 9.3.2.2: odd numbers 1 to 255)
_AET = r"[!-\[\]-~](?:[ -\[\]-~]{0,14}[!-\[\]-~])?"  # PS3.5 6.2: 16 characters, no backslash


class Peer(msgspec.Struct, frozen=True):
    """Where results go: title, host and port."""

    aet: str
    host: str
    port: int


def parse_peer(text: str) -> Peer:
    """Read `AET@HOST:PORT`.

    Raises:
        UsageError: it is none.
    """
    found = re.fullmatch(rf"({_AET})@(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+):([0-9]{{1,5}})", text)
    if not found or not 0 < int(found[3]) < 65536:
        raise UsageError("--peer", f"{text!r} is no peer", "give AET@HOST:PORT, such as PACS@10.0.0.5:104")
    return Peer(found[1], found[2].strip("[]"), int(found[3]))


def check_aet(text: str, option: str) -> str:
    """Give an application entity title as it is.

    Raises:
        UsageError: it is none.
    """
    if not re.fullmatch(_AET, text):
        raise UsageError(option, f"{text!r} is no AE title", "1 to 16 printable characters, no backslash")
    return text


class Sender(threading.Thread):
    """Sends what is due, in a thread of its own.

    Args:
        queue: where results wait.
        peer: where they go.
        aet: title under which they are sent.
        metrics: where it counts.
        limits: of the service.
        first_s: pause after the first try that failed.
    """

    def __init__(
        self, queue: Queue, peer: Peer, aet: str, metrics: Metrics, limits: Limits, *, first_s: float = FIRST_S
    ) -> None:
        super().__init__(name="sender", daemon=True)
        self._queue, self._peer, self._metrics, self._limits = queue, peer, metrics, limits
        self._first_s, self._aet = first_s, aet
        application_entity(aet)  # refused now and not at the first result
        self._ending = threading.Event()

    def run(self) -> None:
        """Send until `finish`."""
        while not self._ending.wait(LOOK_S):
            with contextlib.suppress(FoveolaError):  # a full disk, of which the worker tells: sent twice at the worst
                self.send_due()

    def finish(self) -> None:
        """End after what is being sent; the rest is on disk."""
        self._ending.set()
        self.join(TIMEOUT_S)

    def send_due(self) -> None:
        """Send once what is due, and store how it went."""
        due = self._queue.due()
        fresh = [result for result in due if not self._given_up(result)]
        sent = self._send(fresh) if fresh else set()
        for result in fresh:
            if result.file in sent:
                self._queue.delivered(result.file)
                self._metrics.count("foveola_deliveries_total", outcome="sent")
            else:
                self._queue.postpone(result.file, self._pause(result.attempts))
                self._metrics.count("foveola_deliveries_total", outcome="failed")

    def _given_up(self, result: Result) -> bool:
        lost = not (self._queue.results / result.file).is_file()
        if not lost and sum(map(self._pause, range(result.attempts))) <= self._limits.delivery_s:
            return False
        self._queue.delivered(result.file)
        self._metrics.count("foveola_deliveries_total", outcome="given_up")
        return True

    def _pause(self, attempts: int) -> float:
        return min(self._first_s * 2.0 ** min(attempts, 30), MOST_PAUSE_S)

    def _send(self, results: Sequence[Result]) -> set[str]:
        """Give the names of those that the peer has now."""
        paths = {result.file: self._queue.results / result.file for result in results}
        kinds = {name: kind for name, path in paths.items() if (kind := _kind(path)) is not None}
        contexts = set(kinds.values())
        ae = application_entity(self._aet)
        for sop_class, syntax in sorted(contexts)[:MOST_CONTEXTS]:
            ae.add_requested_context(sop_class, syntax)
        if not contexts:
            return set()
        association = ae.associate(self._peer.host, self._peer.port, ae_title=self._peer.aet)
        sent: set[str] = set()
        try:
            for name in kinds:
                if self._ending.is_set() or not association.is_established:
                    break
                dataset = _read(paths[name])  # one at a time: masks are large
                if dataset is not None and _stored(association, dataset):
                    sent.add(name)
        finally:
            if association.is_established:
                association.release()
        return sent


def _stored(association: Any, dataset: Any) -> bool:
    try:
        status = int(association.send_c_store(dataset).get("Status", 0xFFFF))
    except (ValueError, RuntimeError, AttributeError):  # no context was accepted for it, or the association broke
        return False
    return status == 0x0000 or status & 0xF000 == 0xB000  # stored, or stored with a warning (PS3.4 B.2.3)


def _kind(path: Path) -> tuple[str, str] | None:
    """Give a file's SOP class and transfer syntax; None where it is none that can be sent."""
    head = _read(path, ["SOPClassUID"])
    return None if head is None else (str(head.SOPClassUID), str(head.file_meta.TransferSyntaxUID))


def _read(path: Path, tags: list[str] | None = None) -> Any | None:
    from pydicom import dcmread
    from pydicom.errors import InvalidDicomError

    try:
        return dcmread(path, specific_tags=tags, stop_before_pixels=tags is not None)
    except (OSError, InvalidDicomError):
        return None
