"""What the service tells the watch and the audit log: numbers and listed words, never a name, UID or pixel.

Neither ever stops an answer: what cannot be written is told once on stderr. Only a folder that cannot be used at all is
refused, at the start.
"""

from __future__ import annotations

import threading
from pathlib import Path

from ..durable import refused as cannot_write
from ..errors import FoveolaError
from ..manifest import decode_manifest
from ..verbs.verb import to_stderr
from ..watch.audit import Audit
from ..watch.watch import Watch
from ..watch.words import Fact, fitting, kind_of
from .disk import job_id
from .frames import Refused, Started, Told


class Field:
    """The watch over the bundle that answers, and the audit log; each where a folder is named.

    Raises:
        FoveolaError: a folder cannot be used.
    """

    def __init__(self, watch: Path | None = None, audit: Path | None = None) -> None:
        if watch:
            try:
                watch.mkdir(parents=True, exist_ok=True, mode=0o700)
            except OSError as error:
                raise cannot_write(watch, error) from None
        self._folder = watch
        self._watch: Watch | None = None
        self._audit = Audit(audit) if audit else None
        self._fault, self._digest = "", ""
        self._lock = threading.Lock()

    @property
    def watches(self) -> bool:
        """Whether images are to be described in numbers."""
        return self._folder is not None

    def ready(self, started: Started) -> None:
        """A process of the engine is up."""
        bundle = started.bundle
        facts = {"bundle": bundle.name, "version": bundle.version, "digest": bundle.digest, "engine": bundle.engine}
        self.note("ready", {**facts, "images": started.images})
        if self._folder is None or (self._watch and self._digest == bundle.digest):
            return
        self._digest, before, self._watch = bundle.digest, self._watch, None  # what cannot be opened counts nothing
        try:
            if before:
                before.close()
            self._watch = Watch(self._folder, decode_manifest(started.manifest.encode()))
        except FoveolaError as error:
            self._tell(str(error))

    def told(self, told: Told, data: bytes, way: str) -> None:
        """Count an image that was answered about, or is unfit."""
        if self._watch and told.seen:
            self._watch.count(told.seen, told.seconds)
            self._tell(self._watch.fault)
        self._image("answer", data, {"way": way, "result": told.outcome, "digest": told.bundle.digest})

    def refused(self, said: Refused, data: bytes, way: str) -> None:
        """Count an image that is refused."""
        kind = "storage" if said.device else kind_of(said.error)
        self.lost(kind)
        self._image("refusal", data, {"way": way, "result": "refused", "kind": kind})

    def lost(self, kind: str) -> None:
        """Count an image without an answer, by a word of `watch/words.py`."""
        if self._watch:
            self._watch.refused(kind)

    def note(self, event: str, facts: dict[str, Fact] | None = None) -> None:
        """Write a line of the audit log."""
        if self._audit is None:
            return
        try:
            self._audit.write(event, fitting(facts or {}))
        except FoveolaError as error:
            self._tell(str(error))

    def close(self) -> None:
        """Bring the last counts to the disk."""
        if self._watch:
            self._watch.close()
        self.note("stop")

    def _image(self, event: str, data: bytes, facts: dict[str, Fact]) -> None:
        if self._audit:
            self.note(event, {**facts, "image": self._audit.mark(job_id(data))})

    def _tell(self, fault: str) -> None:
        with self._lock:
            fresh, self._fault = fault and fault != self._fault, fault
        if fresh:
            to_stderr(fault)
