from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Literal, get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from foveola.runtime.errors import FoveolaError
from foveola.runtime.slots.state import (
    MAX_STATE_BYTES,
    STATE,
    Life,
    Slot,
    State,
    activated,
    decode_state,
    encode_state,
    lived,
    numbers,
    read_state,
    returned,
)

SLOT = Slot(version="1.2", digest="ab" * 32, engine="onnxruntime", life="good")
WHOLE = State(name="tiny", active="a", floor="1.2", a=SLOT)

slots = st.builds(
    Slot,
    version=st.from_regex(r"[0-9]{1,3}(\.[0-9]{1,3}){0,3}", fullmatch=True),
    digest=st.just("ab" * 32),
    engine=st.sampled_from(["onnxruntime", "openvino", "tensorrt"]),
    life=st.sampled_from(get_args(Life)),
    starts=st.integers(0, 5),
    reason=st.text(max_size=20),
)


@st.composite
def states(draw: st.DrawFn) -> State:
    active: Literal["a", "b"] | None = draw(st.sampled_from(["a", "b", None]))
    a, b = draw(st.none() | slots), draw(st.none() | slots)
    if (active == "a" and a is None) or (active == "b" and b is None):
        active = None
    return State(name=draw(st.text(max_size=9)), active=active, floor=draw(st.sampled_from(["", "0.9", "2"])), a=a, b=b)


@given(states())
def test_a_state_that_was_written_is_read_again(state: State) -> None:
    assert decode_state(encode_state(state)) == state


@given(states())
def test_a_switch_and_a_return_name_a_slot_that_has_a_bundle(state: State) -> None:
    after = [lived(state)] if state.active is not None else []
    after += [activated(state)] if state.slot(state.spare) is not None else []
    after += [returned(state, "why")] if state.fallback is not None else []

    for one in after:
        assert decode_state(encode_state(one)) == one
        assert numbers(one.floor) >= numbers(state.floor)
        assert one.active is not None


def changed(key: str, value: Any) -> bytes:
    document = json.loads(encode_state(WHOLE))
    document["state"][key] = value
    return json.dumps(document).encode()


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "cannot be read"),
        (encode_state(WHOLE)[:-10], "cannot be read"),
        (b"\xff" * 9, "cannot be read"),
        (b"[" * 9999, "cannot be read"),
        (changed("extra", 1), "unknown field"),
        (changed("format", 2), "cannot be read"),
        (changed("active", "c"), "cannot be read"),
        (changed("active", "../a"), "cannot be read"),
        (changed("floor", "9"), "its checksum does not fit"),
        (encode_state(State(active="b", a=SLOT)), "slot b is active and empty"),
    ],
)
def test_a_state_that_is_not_one_is_refused(data: bytes, words: str) -> None:
    with pytest.raises(FoveolaError, match=words):
        decode_state(data)


def test_every_flipped_bit_of_a_state_is_refused_or_harmless() -> None:
    data = encode_state(WHOLE)
    for position in range(len(data)):
        for bit in range(8):
            flipped = bytearray(data)
            flipped[position] ^= 1 << bit
            try:
                found = decode_state(bytes(flipped))
            except FoveolaError:
                continue
            assert found == WHOLE  # a blank that became another


def test_a_state_without_end_is_not_read(tmp_path: Path) -> None:
    (tmp_path / STATE).write_bytes(b" " * (MAX_STATE_BYTES + 1))

    with pytest.raises(FoveolaError, match="has more than"):
        read_state(tmp_path)


@pytest.mark.parametrize(
    ("older", "newer"),
    [("1", "1.0.1"), ("1.9", "1.10"), ("", "0.1"), ("1.0", "v2"), ("2.0rc1", "2.0.1"), ("9", "10")],
)
def test_versions_are_compared_by_their_numbers(older: str, newer: str) -> None:
    assert numbers(older) < numbers(newer)


@pytest.mark.parametrize(("one", "other"), [("1", "1.0.0"), ("1.2rc1", "1.2"), ("v3", "3")])
def test_versions_with_the_same_numbers_are_the_same(one: str, other: str) -> None:
    assert numbers(one) == numbers(other)
