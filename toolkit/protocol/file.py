"""A protocol as a file that people write, and the lock that keeps it as it was.

- `protocol.yaml` is read strictly: an unknown field, metric or class is a fault at its line, and all are told at once.
- `protocol.lock.json` beside it holds the canonical protocol, its digest, the day and the version of Foveola. The
  digest is of the protocol alone: comments and the day are no part of it.
- A proof takes a locked protocol only. One that differs from its lock is refused with every field that changed; a lock
  whose digest does not fit its content is refused too. Nothing unlocks but deleting the lock, and what is locked then
  is a new protocol with a digest of its own.

    lock_protocol(Path("protocol.yaml"))
    protocol = read_locked(Path("protocol.yaml"), tasks=tasks, expect="3f0a...")
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TypeVar

import msgspec

from ... import __version__
from ...runtime.errors import FoveolaError, NotVouchedError, UsageError
from ...runtime.task import Task
from ..data.faults import did_you_mean
from ..parity.protocol import Biomarker, CaseRules, Protocol, TaskRules, check_protocol, task_of
from ..recipe_reader import Reader
from ..work import write_atomic
from ..yaml12 import FaultsError, Value, read_yaml
from .check import check_fit, check_head, check_marker, check_task, check_whole

LOCK = ".lock.json"
MAX_LOCK = 1_000_000  # bytes
S = TypeVar("S", bound=msgspec.Struct)
FIELDS = tuple(field.name for field in msgspec.structs.fields(Protocol))


class Lock(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What the lock's file holds.

    Args:
        format: of this file.
        digest: of the protocol.
        locked: day (UTC) on which it was.
        foveola: version that locked it.
        protocol: as it was then.
    """

    format: int = 1
    digest: str
    locked: str
    foveola: str
    protocol: Protocol


class Seen(msgspec.Struct, frozen=True, kw_only=True):
    """A protocol as it lies there, whether it is locked (in words), and what changed since."""

    protocol: Protocol
    state: str
    changes: tuple[str, ...] = ()


# --- the YAML ---


def read_protocol(path: Path) -> Protocol:
    """Read a protocol's YAML and check all that it says.

    Raises:
        FaultsError: everything that is wrong with it, each with its line.
        UsageError: the file cannot be read.
    """
    document = read_yaml(path)
    reader = Reader(str(path), {keys: f"{path}:{line}" for keys, line in document.lines.items()})
    if not isinstance(document.value, dict):
        raise FaultsError([UsageError(str(path), "a protocol is a mapping", f"its fields: {', '.join(FIELDS)}")])
    return _build(reader, document.value, str(path))


def named_tasks(protocol: Protocol) -> tuple[Task, ...]:
    """Give the tasks as the protocol itself describes them; those without a kind are left out."""
    described = (task_of(name, rules) for name, rules in protocol.tasks.items())
    return tuple(task for task in described if task is not None)


def _build(reader: Reader, top: dict[str, Value], place: str) -> Protocol:
    for key in top:
        if key not in FIELDS:
            reader.fault((key,), f"no field {key!r} in a protocol", did_you_mean(key, FIELDS), shown=())
    tasks = {name: rules for name, rules in _each(reader, top, "tasks", TaskRules, "a task") if rules is not None}
    found = dict(_each(reader, top, "biomarkers", Biomarker, "a biomarker")) if "biomarkers" in top else {}
    markers = {name: marker for name, marker in found.items() if marker is not None}
    rest = {key: value for key, value in top.items() if key in FIELDS and key not in ("tasks", "biomarkers")}
    protocol = reader.struct(Protocol, rest, (), "a protocol", {"tasks": tasks, "biomarkers": markers})

    data = protocol.data if protocol is not None else CaseRules()
    check_head(reader, *((protocol.format, protocol.teacher) if protocol is not None else (1, "")), data)
    for name, rules in tasks.items():
        check_task(reader, name, rules)
    for name, marker in markers.items():
        check_marker(reader, name, marker, tasks)
    check_whole(reader, tasks, markers)
    reader.raise_faults()
    assert protocol is not None
    check_protocol(protocol, named_tasks(protocol), place)
    return protocol


def _each(
    reader: Reader, top: Mapping[str, Value], field: str, cls: type[S], what: str
) -> Iterator[tuple[str, S | None]]:
    """Read a mapping of structs by name; None after a fault."""
    given = top.get(field)
    if not isinstance(given, dict) or (not given and field == "tasks"):
        reader.fault((field,), f"{field} is not a mapping with something in it", "`foveola protocol new` writes one")
        return
    for name, fields in given.items():
        if not isinstance(fields, dict):
            reader.fault((field, name), f"{what} is a mapping", "give at least its endpoints")
            continue
        endpoints = fields.get("endpoints")
        if isinstance(endpoints, dict):  # `auc:` alone takes the usual rule
            fields = {**fields, "endpoints": {one: {} if rule is None else rule for one, rule in endpoints.items()}}
        yield name, reader.struct(cls, fields, (field, name), what, {})


# --- the lock ---


def lock_path(path: Path) -> Path:
    """Name the lock of a protocol: `protocol.lock.json` beside `protocol.yaml`; a lock's own path is given back."""
    return path if path.name.endswith(LOCK) else path.with_suffix(LOCK)


def lock_protocol(path: Path) -> Lock:
    """Check a protocol and lock it; one that is locked already and has not changed is left as it is.

    Raises:
        FaultsError: everything that is wrong with it.
        FoveolaError: there is a lock of another protocol.
    """
    protocol, file = read_protocol(path), lock_path(path)
    if file.exists():
        lock = read_lock(file)
        _refuse_changes(path, lock, protocol)
        return lock
    today = datetime.now(UTC).date().isoformat()
    lock = Lock(digest=protocol.digest, locked=today, foveola=__version__, protocol=protocol)
    write_atomic(file, msgspec.json.format(msgspec.json.encode(lock, order="sorted"), indent=2) + b"\n")
    return lock


def read_lock(file: Path) -> Lock:
    """Read a lock and hold its digest against its content.

    Raises:
        FoveolaError: it cannot be read or is no lock.
        NotVouchedError: it was edited.
    """
    place = str(file)
    try:
        with file.open("rb") as stream:
            data = stream.read(MAX_LOCK + 1)
    except OSError as error:
        raise UsageError(place, f"cannot be read: {error.strerror}") from None
    try:
        lock = msgspec.json.decode(data, type=Lock)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise FoveolaError(
            place, f"not a lock of a protocol: {error}", "delete it and lock the protocol anew"
        ) from None
    if lock.digest != lock.protocol.digest:
        fault = f"its digest does not fit its content: it was edited, or Foveola {lock.foveola} reads it otherwise"
        raise NotVouchedError(place, fault, "take the lock from where it was made")
    return lock


def read_locked(path: Path, *, tasks: Sequence[Task] = (), expect: str = "") -> Protocol:
    """Read a protocol for a proof.

    Args:
        path: of the YAML, whose lock must lie beside it, or of the lock alone.
        tasks: of the bundle, which the protocol must fit; empty leaves that out.
        expect: digest that was noted elsewhere, or its first digits (at least 8); empty asks for none.

    Raises:
        UsageError: not locked, or it does not fit the tasks.
        FoveolaError: it changed since; every field that did is told.
        NotVouchedError: the lock was edited, or is not the expected one.
    """
    file = lock_path(path)
    if not file.exists():
        if not path.exists():
            raise UsageError(str(path), "there is no such file", "`foveola protocol new` writes one")
        raise UsageError(
            str(path), f"not locked: there is no {file.name}", f"lock it first: foveola protocol lock {path}"
        )
    lock = read_lock(file)
    if file != path:
        _refuse_changes(path, lock, read_protocol(path))
    if expect and (len(expect) < 8 or not lock.digest.startswith(expect.lower())):
        fault = f"its digest is {lock.digest}, not {expect}"
        raise NotVouchedError(str(file), fault, "give the protocol under which the proof was planned")
    if tasks:
        check_fit(lock.protocol, tasks, str(path))
    return lock.protocol


def look_at(path: Path) -> Seen:
    """Read a protocol, or its lock alone, and tell whether it is locked; a change since is told, not refused.

    Raises:
        FoveolaError: neither can be read, or one of them is wrong.
    """
    file = lock_path(path)
    lock = read_lock(file) if file.exists() else None
    if lock is not None and (file == path or not path.exists()):
        return Seen(protocol=lock.protocol, state=f"locked on {lock.locked}")
    protocol = read_protocol(path)
    if lock is None:
        return Seen(protocol=protocol, state="not locked")
    found = changes(lock.protocol, protocol)
    return Seen(protocol=protocol, state=f"{'changed since ' if found else ''}locked on {lock.locked}", changes=found)


def _refuse_changes(path: Path, lock: Lock, protocol: Protocol) -> None:
    found = changes(lock.protocol, protocol)
    if found:
        fault = f"changed since it was locked on {lock.locked}: {'; '.join(found)}"
        mend = f"put it back, or delete {lock_path(path).name} and lock it anew: that is a new protocol"
        raise FoveolaError(str(path), fault, mend)


def changes(before: Protocol, after: Protocol) -> tuple[str, ...]:
    """List what differs, field by field: `tasks.findings.endpoints.auc.margin: 0.01 -> 0.03`."""
    old, new = (dict(_flat(msgspec.to_builtins(protocol))) for protocol in (before, after))
    return tuple(
        f"{field}: {old.get(field, 'not there')} -> {new.get(field, 'not there')}"
        for field in sorted({*old, *new})
        if old.get(field) != new.get(field)
    )


def _flat(value: object, path: str = "") -> Iterator[tuple[str, str]]:
    """Give every field below a mapping with its value as JSON; an empty mapping has none."""
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from _flat(inner, f"{path}.{key}" if path else str(key))
    else:
        yield path, msgspec.json.encode(value).decode()
