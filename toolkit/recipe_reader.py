"""Plain values into typed structs, with every fault noted and none raised until the end.

msgspec stops at the first fault of a value; this reader asks it field by field, so that all are told. A fault names the
place where the value was written: `recipe.yaml:12: steps.slim.ratio`, or `--set steps.slim.ratio`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from types import NoneType, UnionType
from typing import Annotated, Literal, TypeVar, Union, get_args, get_origin

import msgspec

from ..runtime.errors import FoveolaError, UsageError
from .data.faults import did_you_mean
from .yaml12 import FaultsError, Path, Value

T = TypeVar("T")
S = TypeVar("S", bound=msgspec.Struct)

_INNER = re.compile(r"\.(\w+)|\[(\d+)\]")
_AT = re.compile(r" - at `\$(?P<inner>[^`]*)`$")


class Reader:
    """Notes faults while values become structs."""

    def __init__(self, place: str, origins: dict[Path, str]) -> None:
        self.place, self.origins = place, origins
        self.faults: list[FoveolaError] = []

    def fault(self, path: Path, fault: str, mend: str = "", shown: Path | None = None) -> None:
        """Note a fault at `path`; `shown` names the place where another name is clearer than the path itself."""
        origin = next((self.origins[path[:n]] for n in range(len(path), 0, -1) if path[:n] in self.origins), self.place)
        named = ".".join(path if shown is None else shown)
        place = f"{origin}: {named}" if named and not origin.endswith(f" {named}") else origin
        self.faults.append(UsageError(place, fault, mend))

    def raise_faults(self) -> None:
        """Raise all that was noted.

        Raises:
            FaultsError: something was.
        """
        if self.faults:
            raise FaultsError(self.faults)

    def field(self, given: Mapping[str, Value], name: str, kind: type[T], path: Path) -> T | None:
        """One field that must be there; None after a fault."""
        if name not in given:
            self.fault(path, f"field {name!r} is missing", "")
            return None
        return self.value(kind, given[name], (*path, name))

    def mapping(self, given: Mapping[str, Value], name: str, example: str) -> dict[str, Value]:
        """Take a top-level mapping that has something in it; empty after a fault."""
        value = given.get(name)
        if not isinstance(value, dict):
            self.fault((name,), f"{name} is not a mapping" if name in given else f"a recipe without {name}", example)
            return {}
        if not value:
            self.fault((name,), f"there are no {name}", example)
        return value

    def struct(
        self,
        cls: type[S],
        given: Mapping[str, Value],
        path: Path,
        what: str,
        known: Mapping[str, object],
        outside: tuple[str, ...] = (),
    ) -> S | None:
        """Build a struct from a mapping; None after a fault.

        Args:
            cls: the struct.
            given: its fields as written.
            path: where they were written.
            what: the struct's name in faults.
            known: fields that are known already and must not be written.
            outside: fields that name files, whose mend is another one when they are missing.
        """
        before = len(self.faults)
        fields = {field.encode_name: field for field in msgspec.structs.fields(cls) if field.name not in known}
        for key in given:
            if key not in fields:
                self.fault((*path, key), f"no field {key!r} in {what}", did_you_mean(key, fields), shown=path)
        values: dict[str, object] = dict(known)
        for name, field in fields.items():
            if name in given:
                values[field.name] = self._field(field.type, given[name], (*path, name))
            elif field.required:
                mend = f"give it by --set {'.'.join(path)}.{name}=PATH" if name in outside else ""
                self.fault(path, f"field {name!r} of {what} is missing", mend)
        if len(self.faults) > before:
            return None
        try:
            return cls(**values)
        except FoveolaError as error:
            self.fault(path, error.fault, error.mend)
        except ValueError as error:  # a struct's own check, as msgspec takes it
            self.fault(path, str(error))
        return None

    def value(self, kind: type[T], value: Value, path: Path) -> T | None:
        """Convert one value; None after a fault."""
        try:
            return msgspec.convert(value, kind)
        except FoveolaError as error:
            self.fault(path, error.fault, error.mend)
        except msgspec.ValidationError as error:
            if get_origin(kind) is Literal and isinstance(value, str):
                self.fault(path, f"no {path[-1]} {value!r}", did_you_mean(value, get_args(kind)))
                return None
            said = str(error)
            at = _AT.search(said)
            inner = tuple(a or b for a, b in _INNER.findall(at["inner"])) if at else ()
            text = _AT.sub("", said)
            number = text.startswith("Expected `str`") and "got `array`" not in text and "matching" not in text
            quotes = "put it in quotes" if number else ""
            self.fault((*path, *inner), f"{_short(_inside(value, inner))}: {text[0].lower()}{text[1:]}", quotes)
        return None

    def _field(self, kind: type[T], value: Value, path: Path) -> object:
        if not isinstance(value, dict):
            return self.value(kind, value, path)
        struct, named = _structs(kind)
        if struct is None:
            return self.value(kind, value, path)
        if not named:
            return self.struct(struct, value, path, struct.__name__, {})
        before = len(self.faults)
        built = {name: self._field(struct, fields, (*path, name)) for name, fields in value.items()}
        # The whole is checked once more for what its keys must be.
        return self.value(kind, msgspec.to_builtins(built), path) if len(self.faults) == before else None


def _structs(kind: object) -> tuple[type[msgspec.Struct] | None, bool]:
    """The struct that a field's type holds, and whether by name (`dict[str, Struct]`); None where it holds none."""
    if get_origin(kind) is Annotated:
        return _structs(get_args(kind)[0])
    if get_origin(kind) in (Union, UnionType):
        parts = [part for part in get_args(kind) if part is not NoneType]
        return _structs(parts[0]) if len(parts) == 1 else (None, False)
    if get_origin(kind) is dict:
        inner, named = _structs(get_args(kind)[1])
        return (None, False) if named else (inner, True)
    return (kind, False) if isinstance(kind, type) and issubclass(kind, msgspec.Struct) else (None, False)


def _inside(value: Value, path: Path) -> Value:
    for key in path:
        value = value[int(key)] if isinstance(value, list) else value.get(key) if isinstance(value, dict) else value
    return value


def _short(value: Value) -> str:
    text = msgspec.json.encode(value).decode()
    return text if len(text) <= 40 else f"{text[:37]}..."
