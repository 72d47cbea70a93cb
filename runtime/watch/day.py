"""One day of one bundle in counts: the file that the watch keeps, its reader and its writer.

Laws:
- `decode_day(encode_day(day)) == day`; unknown fields are refused.
- A day holds counts, the edges between them and words from closed lists; nothing of a single image.
- The exact counts stay on the device; what may leave it is made by `summary.py`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from hashlib import sha256
from pathlib import Path
from typing import Annotated

import msgspec

from ..errors import FoveolaError
from ..histogram import MOST_COUNT, Histogram, Reference
from ..manifest import Manifest, encode_manifest
from .kept import FORMAT, decode_kept, require_known

MOST_DAY_BYTES = 4 * 2**20
DAY_NAME = re.compile(r"(\d{4}-\d{2}-\d{2})[.]([0-9a-f]{16})[.]json")
BUNDLE_NAME = re.compile(r"bundle[.]([0-9a-f]{16})[.]json")

Count = Annotated[int, msgspec.Meta(ge=0, le=MOST_COUNT)]
Key = Annotated[str, msgspec.Meta(pattern="^[0-9a-f]{16}$")]
Word = Annotated[str, msgspec.Meta(pattern="^[a-z0-9][a-z0-9_-]{0,63}$")]
Counts = Annotated[dict[Word, Count], msgspec.Meta(max_length=256)]


class Day(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What was seen on one day of the device's clock.

    Args:
        format: of this file.
        day: year-month-day.
        bundle: which one, by `bundle_key`.
        images: answered about, those that were not fit among them.
        refused: images without an answer, by kind.
        unfit: images that got no score, by reason; one image may have several.
        unfit_images: images that got no score.
        throttles: how often a core of the machine throttled.
        histograms: by "input/NAME", "score/TASK/LABEL", "positive/TASK/LABEL", "mask/TASK/LABEL", "boxes/TASK",
            "quality/NAME", "latency_s" and "temperature_c".
    """

    format: int = FORMAT
    day: Annotated[str, msgspec.Meta(pattern=r"^\d{4}-\d{2}-\d{2}$")]
    bundle: Key
    images: Count = 0
    refused: Counts = {}
    unfit: Counts = {}
    unfit_images: Count = 0
    throttles: Count = 0
    histograms: Annotated[dict[str, Histogram], msgspec.Meta(max_length=512)] = {}


class Watched(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Which bundle the days are of, and what its images and answers looked like when it was made."""

    format: int = FORMAT
    bundle: Key
    name: str
    version: str
    reference: Reference | None = None


def bundle_key(manifest: Manifest) -> str:
    """Name a bundle's manifest in 16 hexadecimal digits."""
    return sha256(encode_manifest(manifest)).hexdigest()[:16]


def watched_of(manifest: Manifest) -> Watched:
    """Describe a bundle for the days that are counted of it."""
    return Watched(
        bundle=bundle_key(manifest), name=manifest.name, version=manifest.version, reference=manifest.reference
    )


def encode_day(day: Day) -> bytes:
    """Canonical JSON, one line."""
    return msgspec.json.encode(day, order="sorted") + b"\n"


def decode_day(data: bytes, place: str) -> Day:
    """Bytes to a checked day.

    Raises:
        FoveolaError: too long, not JSON, another format, a field unknown, missing or out of range.
    """
    day = decode_kept(data, Day, place, what="a day of the watch", mend="delete it", most_bytes=MOST_DAY_BYTES)
    require_known(place, formats=(day.format,), days=(day.day,), mend="delete it")
    return day


def encode_watched(watched: Watched) -> bytes:
    """Canonical JSON, one line."""
    return msgspec.json.encode(watched, order="sorted") + b"\n"


def decode_watched(data: bytes, place: str) -> Watched:
    """Bytes to what the days are of.

    Raises:
        FoveolaError: too long, not JSON, another format, a field unknown, missing or out of range.
    """
    most = MOST_DAY_BYTES
    watched = decode_kept(data, Watched, place, what="a watched bundle", mend="delete it", most_bytes=most)
    require_known(place, formats=(watched.format,), mend="delete it")
    return watched


def day_path(folder: Path, day: str, bundle: str) -> Path:
    """Where a day of a bundle stands."""
    return folder / f"{day}.{bundle}.json"


def added(one: Day, other: Day) -> Day:
    """Put two days of a bundle together; a histogram whose edges differ is taken from the first alone."""
    histograms = dict(one.histograms)
    for name, more in other.histograms.items():
        known = histograms.get(name)
        if known is None:
            histograms[name] = more
        elif known.edges == more.edges:
            counts = tuple(min(a + b, MOST_COUNT) for a, b in zip(known.counts, more.counts, strict=True))
            histograms[name] = Histogram(edges=known.edges, counts=counts)
    return Day(
        day=max(one.day, other.day),
        bundle=one.bundle,
        images=one.images + other.images,
        refused=_summed(one.refused, other.refused),
        unfit=_summed(one.unfit, other.unfit),
        unfit_images=one.unfit_images + other.unfit_images,
        throttles=one.throttles + other.throttles,
        histograms=histograms,
    )


def together(days: Iterable[Day]) -> Day | None:
    """Put days together; None where there are none."""
    whole: Day | None = None
    for day in days:
        whole = day if whole is None else added(whole, day)
    return whole


def _summed(one: Mapping[str, int], other: Mapping[str, int]) -> dict[str, int]:
    return {word: one.get(word, 0) + other.get(word, 0) for word in sorted({*one, *other})}


def read_folder(folder: Path) -> tuple[dict[str, Watched], list[Day], list[str]]:
    """Read all that a watch has kept: bundles by key, days in order, and a line about each file that is no such.

    Raises:
        FoveolaError: there is no such folder, or it cannot be read.
    """
    bundles: dict[str, Watched] = {}
    days: list[Day] = []
    faults: list[str] = []
    try:
        names = sorted(path.name for path in folder.iterdir())
        for name in names:
            whose, when = BUNDLE_NAME.fullmatch(name), DAY_NAME.fullmatch(name)
            if not (whose or when):
                continue
            data = _read(folder / name)
            try:
                if whose:
                    bundles[whose[1]] = decode_watched(data, name)
                elif when:
                    day = decode_day(data, name)
                    if (day.day, day.bundle) != when.groups():
                        raise FoveolaError(name, "says another day or bundle than its name", "delete it")
                    days.append(day)
            except FoveolaError as error:
                faults.append(str(error))
    except OSError as error:
        raise FoveolaError(str(folder), f"cannot be read: {error.strerror}", "name the folder of a watch") from None
    return bundles, days, faults


def _read(path: Path) -> bytes:
    with path.open("rb") as stream:
        return stream.read(MOST_DAY_BYTES + 1)
