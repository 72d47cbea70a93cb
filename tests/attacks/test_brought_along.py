"""Attempts on what a bundle brings beside its graphs: `seen.bin`, temperatures and histograms.

They are in the manifest or a member, so whoever signs can write them; none of them may crash a reader, cost much, or
turn an answer into none.
"""

from __future__ import annotations

import io
import tracemalloc
from collections.abc import Callable
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from foveola.runtime.bundle import bundle_bytes, read_bundle
from foveola.runtime.container import MEMBERS, MIB
from foveola.runtime.errors import FoveolaError
from foveola.runtime.histogram import MOST_HISTOGRAMS, Histogram, Reference
from foveola.runtime.manifest import Manifest, decode_manifest, encode_manifest
from foveola.runtime.seen import SEEN, find_seen

Plain = dict[str, Any]
BARS: Plain = {"edges": [0.1, 0.2], "counts": [1, 2, 3]}
REFERENCE: Plain = {"split": "val", "images": 6, "patients": 5, "inputs": {"contrast": BARS}, "answers": {}}


def plain(manifest: Manifest) -> Plain:
    found: Plain = msgspec.json.decode(encode_manifest(manifest))
    return found


def refuse(text: bytes) -> str:
    with pytest.raises(FoveolaError, match=r"^manifest.json: not a valid manifest: ") as caught:
        decode_manifest(text)
    assert str(caught.value).isprintable()
    return str(caught.value)


def said(attempt: Callable[[], object]) -> str:
    try:
        attempt()
    except FoveolaError as error:
        return str(error)
    return ""


# --- temperatures

INSANE = [
    "0",
    "-0.0",
    "-1.5",
    "1e-300",
    "0.0099",
    "101",
    "1e300",
    "1e999",
    "NaN",
    "Infinity",
    "-Infinity",
    '"1"',
    "null",
]


@pytest.mark.parametrize("written", INSANE)
@pytest.mark.parametrize("place", ["outputs", "temperatures"])
def test_an_insane_temperature_is_refused(place: str, written: str, manifest: Manifest) -> None:
    fields = plain(manifest)
    if place == "temperatures":
        fit = {"task": "nodule", "split": "val", "images": 40, "temperature": "HERE", "before": 0.7, "after": 0.6}
        fields["temperatures"] = [fit]
    else:
        fields["outputs"][0]["temperature"] = "HERE"

    refuse(msgspec.json.encode(fields).replace(b'"HERE"', written.encode()))


def test_a_temperature_that_nothing_would_be_divided_by_is_refused(manifest: Manifest) -> None:
    fields = plain(manifest)
    fields["outputs"][0] |= {"temperature": 2.0, "task": {"name": "age", "kind": "regression", "classes": ["age"]}}

    assert "regression has no temperature" in refuse(msgspec.json.encode(fields))


# --- histograms


def with_reference(manifest: Manifest, reference: object) -> bytes:
    return msgspec.json.encode({**plain(manifest), "reference": reference})


def bars(**changes: object) -> Plain:
    return {**REFERENCE, "answers": {"t/a": {**BARS, **changes}}}


BROKEN: dict[str, tuple[Plain, str]] = {
    "edges that fall": (bars(edges=[0.2, 0.1]), "do not rise"),
    "an edge twice": (bars(edges=[0.1, 0.1]), "do not rise"),
    "a negative count": (bars(counts=[1, -2, 3]), "not in 0"),
    "a count of a hundred digits": (bars(counts=[1, 10**100, 3]), ""),
    "a count of 64 bits": (bars(counts=[1, 2**64 - 1, 3]), "not in 0"),
    "half a count": (bars(counts=[1, 2.5, 3]), "int"),
    "an edge of five hundred digits": (bars(edges=[1, 10**500]), ""),
    "a count too few": (bars(counts=[1, 2]), "2 counts for 2 edges"),
    "a count too many": (bars(counts=[1, 2, 3, 4]), "4 counts for 2 edges"),
    "no count at all": (bars(edges=[], counts=[]), "0 counts"),
    "too many bins": (bars(edges=list(range(64)), counts=[1] * 65), "at most 64"),
    "ten thousand bins": (bars(edges=list(range(9999)), counts=[1] * 10_000), "at most 64"),
    "no images": ({**REFERENCE, "images": 0}, "images"),
    "no patients": ({**REFERENCE, "patients": 0}, "patients"),
    "patients below nothing": ({**REFERENCE, "patients": -5}, "patients"),
    "an unknown field": ({**REFERENCE, "mean_age": 61}, "mean_age"),
    "histograms without end": (
        {**REFERENCE, "answers": {f"t/{n}": {"edges": [], "counts": [1]} for n in range(MOST_HISTOGRAMS + 1)}},
        "length <= 2048",
    ),
    "inputs without end": (
        {**REFERENCE, "inputs": {f"{n}": {"edges": [], "counts": [1]} for n in range(MOST_HISTOGRAMS + 1)}},
        "length <= 2048",
    ),
    "a list where histograms are due": ({**REFERENCE, "answers": [BARS]}, "object"),
}


@pytest.mark.parametrize("fault", BROKEN)
def test_histograms_that_cannot_be_are_refused(fault: str, manifest: Manifest) -> None:
    reference, words = BROKEN[fault]

    assert words in refuse(with_reference(manifest, reference))


@pytest.mark.parametrize("written", ["NaN", "Infinity", "1e999"])
def test_an_edge_that_is_no_number_is_refused(written: str, manifest: Manifest) -> None:
    text = with_reference(manifest, bars(edges=[0.1, "HERE"]))

    refuse(text.replace(b'"HERE"', written.encode()))


def test_as_many_histograms_as_are_allowed_are_read_at_little_cost(manifest: Manifest) -> None:
    many = {f"t/{n}": {"edges": [], "counts": [1]} for n in range(MOST_HISTOGRAMS)}
    text = with_reference(manifest, {**REFERENCE, "answers": many})
    tracemalloc.start()
    read = decode_manifest(text)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()

    assert read.reference is not None
    assert len(read.reference.answers) == MOST_HISTOGRAMS
    assert peak < 60 * len(text)  # bytes


def test_a_manifest_full_of_histograms_is_refused_by_its_length(members: dict[str, bytes], manifest: Manifest) -> None:
    one = Histogram(edges=tuple(n / 64 for n in range(63)), counts=(2**40,) * 64)
    answers = {f"task/label {n}": one for n in range(600)}
    reference = Reference(split="val", images=1, patients=1, inputs={}, answers=answers)
    text = encode_manifest(msgspec.structs.replace(manifest, reference=reference))

    assert len(text) > MIB
    with pytest.raises(FoveolaError, match="manifest.json has more than 1048576 bytes"):
        bundle_bytes({**members, "manifest.json": text})


@settings(
    max_examples=200, derandomize=True, database=None, deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)  # fmt: skip
@given(
    edges=st.lists(st.one_of(st.floats(), st.integers(-(10**30), 10**30)), max_size=6),
    counts=st.lists(st.integers(-(10**30), 10**30), max_size=7),
)
def test_any_numbers_are_a_histogram_or_refused(edges: list[float], counts: list[int], manifest: Manifest) -> None:
    text = with_reference(manifest, bars(edges=edges, counts=counts))

    words = said(lambda: decode_manifest(text))
    assert words.isprintable()
    assert words == "" or words.startswith("manifest.json: not a valid manifest: ")


# --- seen.bin

DIGEST = "0123456789abcdef" * 4


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"\1", "no whole number of prefixes"),
        (bytes(8) + b"\1" * 7, "no whole number of prefixes"),
        (b"\2" * 8 + b"\1" * 8, "do not rise"),
        (b"\1" * 16, "do not rise"),
        (bytes(8 * MIB), "do not rise"),
        (b"[" * 80_000, "do not rise"),
    ],
    ids=["one byte", "half a prefix", "falling", "one twice", "a million zeros", "text"],
)
def test_a_malformed_member_is_refused_when_it_is_looked_into(
    data: bytes, words: str, members: dict[str, bytes]
) -> None:
    bundle = read_bundle(io.BytesIO(bundle_bytes({**members, SEEN: data})))

    with pytest.raises(FoveolaError, match=words):
        find_seen(bundle.members[SEEN], [DIGEST])


def test_a_member_above_its_limit_is_not_written(members: dict[str, bytes]) -> None:
    assert MEMBERS[SEEN] == 16 * MIB

    with pytest.raises(FoveolaError, match=f"seen.bin has more than {16 * MIB} bytes"):
        bundle_bytes({**members, SEEN: bytes(16 * MIB + 8)})


@settings(max_examples=200, derandomize=True, database=None, deadline=None)
@given(data=st.binary(max_size=80))
def test_any_bytes_are_searched_or_refused(data: bytes) -> None:
    words = said(lambda: find_seen(data, [DIGEST, "f" * 64, "0" * 64]))

    assert words == "" or words.startswith("seen.bin: ")
