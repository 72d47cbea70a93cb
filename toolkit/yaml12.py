"""YAML as people expect it: a strict reader of the harmless part of YAML 1.2.

Rules:
- scalars follow the core schema of YAML 1.2.2 (section 10.3): `no`, `on` and `12:30` are texts, `1e-3` is a number;
- keys are texts and stand once; no anchor, alias, merge key, tag or second document: a reader sees all there is;
- size and depth are bounded before anything is built; a number that JSON cannot hold is refused;
- every value keeps the line it came from, so that a fault found later can still name it.

PyYAML turns the text into events and does nothing else; no constructor runs.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from pathlib import Path as FilePath

import msgspec
import yaml

from ..runtime.errors import FoveolaError, UsageError

Value = None | bool | int | float | str | list["Value"] | dict[str, "Value"]
Path = tuple[str, ...]  # keys from the top; places in a list as decimal texts


class Limits(msgspec.Struct, frozen=True):
    """How much of a recipe is read at all."""

    size: int = 1_000_000  # bytes
    depth: int = 16  # nested mappings and lists


LIMITS = Limits()
MAX_INTEGER = 2**63 - 1  # what msgspec and other JSON readers hold

_NULL = frozenset(("", "null", "Null", "NULL", "~"))
_TRUE = frozenset(("true", "True", "TRUE"))
_FALSE = frozenset(("false", "False", "FALSE"))
_INTEGER = re.compile(r"[-+]?[0-9]{1,20}|0o[0-7]{1,22}|0x[0-9a-fA-F]{1,16}")
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?")
_NOT_FINITE = re.compile(r"[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)")


class FaultsError(UsageError):
    """Several things wrong at once: one line each."""

    def __init__(self, faults: list[FoveolaError]) -> None:
        first = faults[0]
        super().__init__(first.place, first.fault, first.mend)
        self.faults = tuple(faults)
        self.args = ("\n".join(str(fault) for fault in faults),)


class Document(msgspec.Struct, frozen=True):
    """What a text says, and the line (from 1) of every key and list item."""

    value: Value
    lines: dict[Path, int]


def read_yaml(file: FilePath) -> Document:
    """Read one file; `place` in errors is the file's path as given.

    Raises:
        FoveolaError: the file cannot be read.
        FaultsError: it is not the YAML of this module.
    """
    try:
        with file.open("rb") as stream:
            data = stream.read(LIMITS.size + 1)
    except OSError as error:
        raise UsageError(str(file), f"cannot be read: {error.strerror}") from None
    return parse_yaml(data, str(file))


def parse_yaml(data: bytes, place: str) -> Document:
    """Bytes to a document; all faults of a well-formed text are told at once.

    Raises:
        FaultsError: not UTF-8, too large, not YAML, or YAML that this module refuses.
    """
    if len(data) > LIMITS.size:
        raise FaultsError([UsageError(place, f"larger than {LIMITS.size} bytes")])
    try:
        text = data.decode("utf-8-sig")
        builder = _Builder(place, yaml.parse(text, Loader=yaml.SafeLoader))
        document = builder.document()
    except UnicodeDecodeError as error:
        raise FaultsError([UsageError(place, f"not UTF-8 text (byte {error.start})")]) from None
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = f"{place}:{mark.line + 1}" if mark else place
        raise FaultsError([UsageError(where, f"not YAML: {error.problem or error.context}")]) from None
    except yaml.YAMLError as error:
        raise FaultsError([UsageError(place, f"not YAML: {' '.join(str(error).split())}")]) from None
    if builder.faults:
        raise FaultsError(builder.faults)
    return document


def parse_scalar(text: str) -> Value:
    """Read a plain scalar by the core schema.

    Raises:
        ValueError: a number that JSON cannot hold.
    """
    if text in _NULL:
        return None
    if text in _TRUE or text in _FALSE:
        return text in _TRUE
    if _INTEGER.fullmatch(text):
        whole = int(text, 0) if text[:2] in ("0o", "0x") else int(text)
        if abs(whole) > MAX_INTEGER:
            raise ValueError(f"the number {text} is too large")
        return whole
    if _FLOAT.fullmatch(text) and math.isfinite(number := float(text)):
        return number
    if _FLOAT.fullmatch(text) or _NOT_FINITE.fullmatch(text):
        raise ValueError(f"the number {text} is not finite")
    return text


def parse_value(text: str, place: str) -> Value:
    """Read VALUE of `--set field=VALUE`: a list, mapping or quoted text when it begins like one, else a plain scalar.

    Raises:
        FaultsError: not readable; one fault.
    """
    text = text.strip()
    if text[:1] in ("[", "{", '"', "'"):
        return parse_yaml(text.encode(), place).value
    try:
        return parse_scalar(text)
    except ValueError as error:
        raise FaultsError([UsageError(place, str(error))]) from None


class _Builder:
    """Builds one document from PyYAML's events and notes what it refuses."""

    def __init__(self, place: str, events: Iterator[yaml.Event]) -> None:
        self.place, self.events = place, events
        self.lines: dict[Path, int] = {}
        self.faults: list[FoveolaError] = []

    def document(self) -> Document:
        value: Value = None
        documents = 0
        for event in self.events:
            if isinstance(event, yaml.DocumentStartEvent):
                documents += 1
                if documents > 1:
                    self.refuse(event, "a second document begins here", "one file holds one document")
                    break
                value = self.node(next(self.events), ())
        return Document(value, self.lines)

    def node(self, event: yaml.Event, path: Path) -> Value:
        self.lines.setdefault(path, _line(event))
        if isinstance(event, yaml.AliasEvent):
            self.refuse(event, f"alias *{event.anchor} is not read", "write the value out")
            return None
        assert isinstance(event, yaml.ScalarEvent | yaml.SequenceStartEvent | yaml.MappingStartEvent)
        if event.anchor is not None:
            self.refuse(event, f"anchor &{event.anchor} is not read", "write the value out wherever it is needed")
        if event.tag is not None:
            self.refuse(event, f"tag {event.tag} is not read", "a recipe holds texts, numbers, lists and mappings only")
        if isinstance(event, yaml.ScalarEvent):
            return self.scalar(event)
        if len(path) >= LIMITS.depth:
            # Nothing below is built, so the rest of the text cannot be followed: stop here.
            raise FaultsError(
                [*self.faults, UsageError(f"{self.place}:{_line(event)}", f"nested deeper than {LIMITS.depth}")]
            )
        return self.sequence(path) if isinstance(event, yaml.SequenceStartEvent) else self.mapping(path)

    def scalar(self, event: yaml.ScalarEvent) -> Value:
        if not event.implicit[0]:  # quoted, or a block
            return event.value
        try:
            return parse_scalar(event.value)
        except ValueError as error:
            self.refuse(event, str(error))
            return None

    def sequence(self, path: Path) -> Value:
        items: list[Value] = []
        while not isinstance(event := next(self.events), yaml.SequenceEndEvent):
            items.append(self.node(event, (*path, str(len(items)))))
        return items

    def mapping(self, path: Path) -> Value:
        pairs: dict[str, Value] = {}
        while not isinstance(event := next(self.events), yaml.MappingEndEvent):
            key = self.key(event, path)
            if key in pairs:
                first = self.lines[(*path, key)]
                self.refuse(event, f"key {key!r} stands a second time", f"it stood in line {first} already")
                self.node(next(self.events), (*path, f"{key} again"))
                continue
            self.lines[(*path, key)] = _line(event)
            pairs[key] = self.node(next(self.events), (*path, key))
        return pairs

    def key(self, event: yaml.Event, path: Path) -> str:
        if not isinstance(event, yaml.ScalarEvent) or event.anchor is not None or event.tag is not None:
            raise FaultsError([*self.faults, UsageError(f"{self.place}:{_line(event)}", "a key is not a plain text")])
        if event.value == "<<" and event.implicit[0]:
            self.refuse(event, "merge key << is not read", "write the fields out")
        return event.value

    def refuse(self, event: yaml.Event, fault: str, mend: str = "") -> None:
        self.faults.append(UsageError(f"{self.place}:{_line(event)}", fault, mend))


def _line(event: yaml.Event) -> int:
    assert event.start_mark is not None  # the parser of text always gives one
    return int(event.start_mark.line) + 1
