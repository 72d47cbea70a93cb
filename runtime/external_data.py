"""Tells whether an ONNX graph keeps weights in other files, without the onnx package.

An engine that loads such a graph opens whatever path the graph names: files that no signature covers, or the device's
own (CVE-2022-25882 and CVE-2024-27318 in onnx's own loader). The messages that can hold a tensor are walked on
protobuf's wire level; contents are skipped by their length and never copied. Depth and number of fields are bounded, so
the walk is. Field numbers are those of onnx.proto.
"""

from __future__ import annotations

from collections.abc import Iterator

# Message -> field -> message in that field. A field that is not named cannot hold a tensor.
_FIELDS: dict[str, dict[int, str]] = {
    "model": {7: "graph", 20: "training", 25: "function"},
    "graph": {1: "node", 5: "tensor", 15: "sparse"},
    "node": {5: "attribute"},
    "attribute": {5: "tensor", 6: "graph", 10: "tensor", 11: "graph", 22: "sparse", 23: "sparse"},
    "sparse": {1: "tensor", 2: "tensor"},
    "function": {7: "node", 11: "attribute"},
    "training": {1: "graph", 2: "graph"},
    "tensor": {},
}
_EXTERNAL_DATA, _DATA_LOCATION = 13, 14  # of a tensor
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5  # wire types

MAX_DEPTH = 100  # messages within messages; protobuf's own readers stop there too
MAX_FIELDS = 500_000  # fields visited; a graph of a thousand nodes has some 20 000


def holds_external_data(model: bytes) -> bool:
    """Say whether any tensor of the graph, its subgraphs or functions names another file.

    Args:
        model: a serialised ONNX model; one that cannot be walked counts as one that holds external data.
    """
    # Engines find the file under the key "location"; without that word there is none. This saves nearly every walk.
    if b"location" not in model:
        return False
    try:
        return _walk(model)
    except (IndexError, ValueError):
        return True


def _walk(model: bytes) -> bool:
    path = [("model", _fields(model, 0, len(model)))]
    for _ in range(MAX_FIELDS):
        message, fields = path[-1]
        number, start, end = next(fields, (0, 0, 0))
        inner = _FIELDS[message].get(number)
        if not number:
            path.pop()
        elif inner:
            path.append((inner, _fields(model, start, end)))
        elif message == "tensor" and (number == _EXTERNAL_DATA or (number == _DATA_LOCATION and model[start])):
            return True
        if not path:
            return False
        if len(path) > MAX_DEPTH:
            break
    return True


def _fields(data: bytes, at: int, end: int) -> Iterator[tuple[int, int, int]]:
    """Yield number, first byte and end of the content of every field of the message at `at:end`."""
    while at < end:
        key, at = _varint(data, at)
        wire, start = key & 7, at
        if wire == _VARINT:
            _, at = _varint(data, at)
        elif wire == _BYTES:
            length, start = _varint(data, at)
            at = start + length
        elif wire in (_FIXED64, _FIXED32):
            at += 8 if wire == _FIXED64 else 4
        else:
            raise ValueError("wire type not in use")
        if at > end or key < 8:
            raise ValueError("a field without number, or longer than its message")
        yield key >> 3, start, at


def _varint(data: bytes, at: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
    raise ValueError("a number of more than 10 bytes")
