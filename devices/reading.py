"""YAML into a typed struct, strictly: every unknown field, wrong unit and wrong type is told, all at once.

- Keys stand once; there is no anchor, alias or tag, and the file is small: a reader sees all there is.
- A field whose name ends in another unit than the one that is known is told so; no number is converted silently.

PyYAML's safe loader builds plain values; nothing else runs.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from difflib import get_close_matches
from types import UnionType
from typing import TypeVar, Union, get_args, get_origin

import msgspec
import yaml

from ..runtime.errors import FoveolaError

S = TypeVar("S", bound=msgspec.Struct)
Tree = Union[dict[str, "Tree"], list["Tree"], str, int, float, bool, None]  # noqa: UP007 - names itself

MAX_BYTES = 65_536  # of a profile
# The ends of field names that are units, the longest first so that `gb_s` is not read as `s`.
UNITS = (
    "gbit_s", "mbit_s", "mib_s", "gib_s", "gb_s", "mb_s", "kb_s", "tb_s", "tops", "gops", "tflops", "gflops", "mops",
    "milliwatts", "kilowatts", "watts", "mw", "kw", "w", "ghz", "mhz", "khz", "hz", "kib", "mib", "gib", "tib", "kb",
    "mb", "gb", "tb", "bytes", "ms", "us", "ns", "seconds", "s",
)  # fmt: skip


def read_struct(data: bytes, kind: type[S], place: str, mend: str) -> S:
    """Bytes of YAML to a struct.

    Raises:
        FoveolaError: too large, not YAML, or fields that are wrong: one line with all of them.
    """
    if len(data) > MAX_BYTES:
        raise FoveolaError(place, f"larger than {MAX_BYTES} bytes", mend)
    try:
        text = data.decode("utf-8")
        _check_nodes(yaml.compose(text, Loader=yaml.SafeLoader), set(), place, mend)
        tree: Tree = yaml.safe_load(text)
    except yaml.MarkedYAMLError as error:
        where = f"{place}:{error.problem_mark.line + 1}" if error.problem_mark else place
        raise FoveolaError(where, f"not YAML: {error.problem or error.context}", mend) from None
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError, ValueError) as error:
        raise FoveolaError(place, f"not YAML: {' '.join(str(error).split())}", mend) from None
    faults = _struct_faults(tree, kind, "")
    if faults:
        raise FoveolaError(place, ", ".join(faults), mend)
    try:
        return msgspec.convert(tree, kind)
    except msgspec.ValidationError as error:
        raise FoveolaError(place, str(error), mend) from None


def _check_nodes(node: yaml.Node | None, seen: set[int], place: str, mend: str) -> None:
    """Refuse a key that stands twice, of which PyYAML would keep the last, and a part that stands elsewhere."""
    if node is None:
        return
    where = f"{place}:{node.start_mark.line + 1}"
    if id(node) in seen:
        raise FoveolaError(where, "anchors and aliases are not read", mend)
    seen.add(id(node))
    if isinstance(node, yaml.MappingNode):
        keys = [str(key.value) for key, _ in node.value]
        if twice := next((key for key in keys if keys.count(key) > 1), None):
            raise FoveolaError(where, f"{twice!r} stands twice", mend)
        for key, value in node.value:
            _check_nodes(key, seen, place, mend)
            _check_nodes(value, seen, place, mend)
    elif isinstance(node, yaml.SequenceNode):
        for item in node.value:
            _check_nodes(item, seen, place, mend)


def name_fault(key: str, known: Iterable[str], what: str) -> str:
    """Say why there is no such field: another unit, a misspelling, or just unknown."""
    names = list(known)
    stem, unit = _unit(key)
    for name in names:
        other_stem, other = _unit(name)
        if unit and other and stem == other_stem:
            return f"{what} {key!r} is in another unit: give {name!r}"
    near = get_close_matches(key, names, 1)
    return f"no field {what} {key!r}" + (f" (did you mean {near[0]!r}?)" if near else f" (fields: {', '.join(names)})")


def _unit(name: str) -> tuple[str, str]:
    """Part a name into what it tells and its unit: `bandwidth_gb_s` -> `bandwidth`, `gb_s`."""
    for unit in UNITS:
        if name == unit:
            return "", unit
        if name.endswith(f"_{unit}"):
            return name[: -len(unit) - 1], unit
    return name, ""


def _struct_faults(tree: Tree, kind: type[msgspec.Struct], path: str) -> list[str]:
    at = path or "the profile"
    if not isinstance(tree, dict):
        return [f"{at} is {_named(tree)}, not a mapping of fields"]
    fields = {field.encode_name: field for field in msgspec.structs.fields(kind)}
    faults = [name_fault(str(key), fields, f"in {at}:") for key in tree if key not in fields]
    for name, field in fields.items():
        inner = f"{path}.{name}" if path else name
        if name in tree:
            faults += _faults(tree[name], field.type, inner)
        elif field.required:
            faults.append(f"{inner} is missing")
    return faults


def _faults(tree: Tree, kind: object, path: str) -> list[str]:
    """Tell all that is wrong with one value; structs inside are entered, all else is msgspec's to judge."""
    if struct := _struct_of(kind):
        return [] if tree is None and type(None) in get_args(kind) else _struct_faults(tree, struct, path)
    arguments = get_args(kind)
    if get_origin(kind) is tuple and isinstance(tree, list) and _struct_of(arguments[0]):
        named = [f"{path}.{_name_of(item, index)}" for index, item in enumerate(tree)]
        return [fault for item, at in zip(tree, named, strict=True) for fault in _faults(item, arguments[0], at)]
    if get_origin(kind) is dict and isinstance(tree, dict) and _struct_of(arguments[1]):
        return [fault for key, item in tree.items() for fault in _faults(item, arguments[1], f"{path}.{key}")]
    try:
        msgspec.convert(tree, kind)
    except msgspec.ValidationError as error:
        said = str(error).replace(" - at `$`", "").replace("`$", f"`{path}")
        return [f"{path}: {said[0].lower()}{said[1:]}"]
    return []


def _struct_of(kind: object) -> type[msgspec.Struct] | None:
    """Give the struct that a type is, or that an optional type holds."""
    options = get_args(kind) if get_origin(kind) in (Union, UnionType) else (kind,)
    return next((one for one in options if isinstance(one, type) and issubclass(one, msgspec.Struct)), None)


def _name_of(item: Tree, index: int) -> str:
    """Name an item of a list by its own name, where it has one."""
    if isinstance(item, Mapping):
        for field in ("name", "engine"):
            if isinstance(item.get(field), str):
                return str(item[field])
    return str(index)


def _named(tree: Tree) -> str:
    return {dict: "a mapping", list: "a list", type(None): "empty"}.get(type(tree), f"{tree!r}")
