"""Laws of reading YAML: the core schema of YAML 1.2, and nothing that surprises."""

from __future__ import annotations

import contextlib
import json
from typing import Any

import hypothesis.strategies as st
import pytest
from hypothesis import given

from foveola.toolkit.yaml12 import LIMITS, FaultsError, parse_scalar, parse_value, parse_yaml

CORE_SCHEMA = {  # the examples of YAML 1.2.2, section 10.3.2, and what YAML 1.1 would make of other texts
    "null": None, "Null": None, "~": None, "": None,
    "true": True, "True": True, "FALSE": False,
    "0": 0, "-19": -19, "+12": 12, "0o7": 7, "0x3A": 58, "010": 10,
    "0.": 0.0, "-0.0": 0.0, ".5": 0.5, "+12e03": 12000.0, "-2E+05": -200000.0, "1e-3": 0.001, "12e4": 120000.0,
    "no": "no", "NO": "NO", "on": "on", "y": "y", "12:30:45": "12:30:45", "2026-01-02": "2026-01-02",
    "1_000": "1_000", "0b11": "0b11", "nULL": "nULL", "tRUE": "tRUE", "e5": "e5", ".": ".", "1e": "1e", "=": "=",
}  # fmt: skip


@pytest.mark.parametrize(("text", "value"), CORE_SCHEMA.items())
def test_a_plain_scalar_is_what_the_core_schema_says(text: str, value: object) -> None:
    read = parse_scalar(text)

    assert read == value
    assert type(read) is type(value)


# YAML 1.2.2 sec. 7.4.3 bounds an implicit key to 1024 characters, and an escaped one is up to twelve times as long.
keys = st.text(max_size=80)
json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63) + 1, 2**63 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(keys, inner, max_size=3),
    max_leaves=8,
)


@given(json_values)
def test_json_reads_as_itself(value: Any) -> None:
    # JSON is YAML 1.2; PyYAML wants printable text, so that other characters are written as escapes.
    text = json.dumps(value, ensure_ascii=True)

    # a lone surrogate is no text in UTF-8, and half of a pair means another character than the pair
    assert json.dumps(parse_yaml(text.encode(), "x").value) == text or "\\ud" in text


@given(st.text(max_size=60))
def test_any_text_is_read_or_refused_and_nothing_else(text: str) -> None:
    data = text.encode("utf-8", "surrogatepass")

    with contextlib.suppress(FaultsError):
        parse_yaml(data, "x")


REFUSED = {
    "key twice": (b"a: 1\nb: 2\na: 3\n", "x:3: key 'a' stands a second time; it stood in line 1 already"),
    "anchor": (b"a: &a [1]\n", "x:1: anchor &a is not read"),
    "alias": (b"a: 1\nb: *a\n", "x:2: alias *a is not read; write the value out"),
    "merge key": (b"a:\n  <<: {b: 1}\n", "x:2: merge key << is not read"),
    "python tag": (
        b"a: !!python/object/apply:os.system [ls]\n",
        "x:1: tag tag:yaml.org,2002:python/object/apply:os.system",
    ),
    "own tag": (b"a: !thing 1\n", "x:1: tag !thing is not read"),
    "second document": (b"a: 1\n---\nb: 2\n", "x:2: a second document begins here"),
    "list as key": (b"? [a]\n: 1\n", "x:1: a key is not a plain text"),
    "not a number": (b"a: .nan\n", "x:1: the number .nan is not finite"),
    "too large a number": (b"a: 1e999\n", "x:1: the number 1e999 is not finite"),
    "too large an integer": (b"a: 99999999999999999999\n", "x:1: the number 99999999999999999999 is too large"),
    "deep": (b"[" * 3000, f"x:1: nested deeper than {LIMITS.depth}"),
    "open list": (b"a: [1,\nb: 2\n", "x:3: not YAML"),
    "tab": (b"a:\n\tb: 1\n", "x:2: not YAML"),
    "not UTF-8": (b"a: \xff\n", "x: not UTF-8 text (byte 3)"),
    "control character": (b"a: \x01\n", "x: not YAML"),
    "too large": (b"#" * (LIMITS.size + 1), f"x: larger than {LIMITS.size} bytes"),
}


@pytest.mark.parametrize(("text", "line"), REFUSED.values(), ids=REFUSED.keys())
def test_yaml_that_surprises_is_refused_with_its_line(text: bytes, line: str) -> None:
    with pytest.raises(FaultsError) as caught:
        parse_yaml(text, "x")

    assert str(caught.value).startswith(line)


def test_a_value_from_the_command_line_keeps_what_yaml_would_cut_off() -> None:
    assert parse_value("/data/set #2: new", "--set data.root") == "/data/set #2: new"
