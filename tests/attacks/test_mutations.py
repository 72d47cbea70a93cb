"""Hundreds of random changes to a bundle: it is read as it was, or refused; it never crashes or swells."""

from __future__ import annotations

import io
import tracemalloc
from collections.abc import Callable

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from foveola.runtime.bundle import read_bundle
from foveola.runtime.errors import FoveolaError
from foveola.runtime.external_data import holds_external_data
from foveola.runtime.signature import SIGNATURE, verify_members

Change = tuple[str, int, int, bytes]

NUMBERS = st.one_of(
    st.sampled_from([0, 1, 2, 8, 22, 30, 46, 0x7F, 0xFF, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF]),
    st.integers(0, 2**32 - 1),
)
NUMBER_BYTES = st.builds(
    lambda number, size: (number % 256**size).to_bytes(size, "little"), NUMBERS, st.sampled_from([1, 2, 4])
)
CHANGES = st.lists(
    st.tuples(
        st.sampled_from(["put", "insert", "cut", "copy", "end"]),
        st.integers(0, 4000),
        st.integers(0, 200),
        st.one_of(NUMBER_BYTES, st.binary(max_size=40)),
    ),
    min_size=1,
    max_size=4,
)
# Seeded, and with no example database, so that every machine tries the same changes and leaves no folder behind.
FEW_HUNDRED = settings(
    max_examples=400,
    derandomize=True,
    database=None,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


def changed(data: bytes, changes: list[Change]) -> bytes:
    for what, where, length, value in changes:
        at = where % (len(data) + 1)
        if what == "end":  # the container's directory and end are its last few hundred bytes
            at = max(len(data) - length * 2, 0)
        match what:
            case "put" | "end":
                data = data[:at] + value + data[at + len(value) :]
            case "insert":
                data = data[:at] + value + data[at:]
            case "cut":
                data = data[:at] + data[at + length :]
            case _:
                data = data[:at] + data[at : at + length] * 2 + data[at + length :]
    return data


def said(attempt: Callable[[], object]) -> str:
    """What a refusal says; empty where there was none. Anything but a refusal fails the test."""
    try:
        attempt()
    except FoveolaError as error:
        return str(error)
    return ""


@FEW_HUNDRED
@given(changes=CHANGES)
def test_a_changed_container_is_refused_and_costs_little(changes: list[Change], file: bytes) -> None:
    data = changed(file, changes)
    tracemalloc.start()
    words = said(lambda: read_bundle(io.BytesIO(data)))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()

    assert words or data == file
    assert words.isprintable()
    assert peak < 20 * len(file) + 200_000  # bytes


@FEW_HUNDRED
@given(changes=CHANGES)
def test_a_changed_signature_never_vouches_for_other_members(
    changes: list[Change], signed: dict[str, bytes], public: bytes
) -> None:
    signature = changed(signed[SIGNATURE], changes)
    other = {**signed, "model.onnx": b"evil"}

    assert said(lambda: verify_members(other, signature, public, "tiny.foveola"))
    assert said(lambda: verify_members(signed, signature, public, "tiny.foveola")).isprintable()


@FEW_HUNDRED
@given(data=st.binary(max_size=300), word_at=st.integers(0, 300))
def test_any_bytes_are_walked_for_external_data_without_a_crash(data: bytes, word_at: int) -> None:
    model = data[:word_at] + b"location" + data[word_at:]

    assert holds_external_data(model) in (True, False)
