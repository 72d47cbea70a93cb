"""Which images a student was made with, held against Python's own sets."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from foveola.runtime.errors import FoveolaError
from foveola.runtime.seen import PREFIX, decode_seen, encode_seen, find_seen

DIGESTS = st.lists(st.binary(min_size=32, max_size=32).map(bytes.hex), max_size=30)
# Prefixes at the ends of the range and one beside the other, where a search by halves goes wrong if it does.
EDGES = ["00" * 32, "00" * 7 + "01" + "00" * 24, "7f" + "ff" * 31, "80" + "00" * 31, "ff" * 7 + "fe" * 25, "ff" * 32]


def digest(number: int) -> str:
    return hashlib.sha256(str(number).encode()).hexdigest()


@settings(max_examples=200, deadline=None)
@given(used=DIGESTS, others=DIGESTS, repeats=st.integers(1, 3))
def test_found_is_what_a_set_finds_in_the_order_asked(used: list[str], others: list[str], repeats: int) -> None:
    asked = (used[::2] + others + EDGES[:3]) * repeats
    known = {one[: 2 * PREFIX] for one in [*used, *EDGES]}

    assert find_seen(encode_seen([*used, *EDGES]), asked) == [one for one in asked if one[: 2 * PREFIX] in known]


@pytest.mark.parametrize("edge", EDGES)
def test_a_prefix_at_the_edge_of_the_range_is_found_and_not_its_neighbour(edge: str) -> None:
    others = [one for one in EDGES if one != edge]

    assert find_seen(encode_seen(others), EDGES) == others
    assert find_seen(encode_seen([edge]), EDGES) == [edge]


def test_nothing_is_found_in_nothing() -> None:
    assert encode_seen([]) == b""
    assert find_seen(b"", [digest(1)]) == []
    assert find_seen(encode_seen([digest(1)]), []) == []


def test_equal_sets_give_equal_bytes_of_eight_an_image() -> None:
    many = [digest(number) for number in range(100)]

    data = encode_seen(many)

    assert len(data) == 800
    assert encode_seen([*reversed(many), *many]) == data
    assert data == b"".join(sorted(bytes.fromhex(one)[:8] for one in many))
    assert decode_seen(data).tolist() == sorted(int(one[:16], 16) for one in many)


def test_what_was_not_used_is_not_found_among_many() -> None:
    data = encode_seen(digest(number) for number in range(20_000))

    assert find_seen(data, [digest(number) for number in range(20_000, 40_000)]) == []
    assert len(find_seen(data, [digest(number) for number in range(10_000, 30_000)])) == 10_000


def test_images_with_one_prefix_are_taken_for_each_other() -> None:
    """The price of a prefix; `docs/bundle-format.md` gives its odds."""
    used, other = digest(1), digest(1)[: 2 * PREFIX] + "0" * 48

    assert find_seen(encode_seen([used]), [other]) == [other]


BROKEN = {
    "a byte too few": (encode_seen([digest(1), digest(2)])[:-1], "15 bytes are no whole number"),
    "a byte too many": (encode_seen([digest(1)]) + b"\0", "9 bytes are no whole number"),
    "falling": (b"".join(sorted([bytes([n] * 8) for n in range(9)], reverse=True)), "do not rise"),
    "one pair exchanged": (bytes(8) + b"\2" * 8 + b"\1" * 8 + b"\3" * 8, "do not rise"),
    "one twice": (b"\1" * 16, "do not rise"),
    "rising only if numbers had a sign": (b"\xff" * 8 + bytes(8), "do not rise"),
    "rising only from the other end": (b"\0" * 7 + b"\2" + b"\0" * 7 + b"\1", "do not rise"),
}


@pytest.mark.parametrize("fault", BROKEN)
def test_a_member_that_is_not_whole_prefixes_rising_is_refused(fault: str) -> None:
    data, words = BROKEN[fault]

    with pytest.raises(FoveolaError, match=f"^seen.bin: .*{words}.*; make the bundle anew$"):
        find_seen(data, [digest(1)])


def test_a_refusal_names_the_place_that_it_is_given() -> None:
    with pytest.raises(FoveolaError, match=r"^chest\.foveola: seen\.bin: "):
        find_seen(b"1", [], "chest.foveola: seen.bin")


def test_the_numbers_read_are_unsigned_and_native() -> None:
    assert decode_seen(encode_seen(EDGES)).dtype == np.uint64
