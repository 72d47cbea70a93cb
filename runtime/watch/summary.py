"""What may leave the device: days and drift, with small counts hidden.

Laws:
- A count of one to four is told as None (`<5`), every other is rounded to the nearest five, sums included, so that no
  difference of two gives a small one away.
- Shares are told of fifty images or more, in steps of 5 %, and a cell of fewer than five images counts as none.
- Figures of drift are made of the exact counts and rounded, and told of fifty images or more as well.

Reader and writer: `decode_summary(encode_summary(s)) == s`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import date, timedelta
from pathlib import Path
from typing import Annotated

import msgspec

from ..errors import FoveolaError, UsageError
from ..histogram import Histogram
from .day import Day, Watched, read_folder, together
from .drift import HIDDEN, LEAST, Basis, Shift, Verdict, shift, worst
from .kept import FORMAT, decode_kept, require_known

WINDOW_DAYS = 7
MOST_SUMMARY_BYTES = 16 * 2**20

Told = Annotated[int, msgspec.Meta(ge=0)] | None


class ShownHistogram(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Counts (B,) between edges (B - 1,), small ones hidden."""

    edges: tuple[float, ...]
    counts: tuple[Told, ...]


class ShownDay(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One day's totals."""

    day: str
    images: Told
    unfit: Told
    refused: Told


class ShownWindow(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Seven days: shares of each bin in percent, and PSI against the basis, by histogram."""

    first: str
    last: str
    images: Told
    shares: dict[str, tuple[int, ...]]
    psi: dict[str, float]


class Summary(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What a watch saw of one bundle.

    Args:
        format: of this file.
        name: of the bundle.
        version: of the bundle.
        bundle: its key (`day.bundle_key`).
        reference: whether the bundle brings histograms.
        first: the earliest day that is kept.
        last: the latest.
        days: the length of the period that is held against the basis, in days up to `last`.
        images: answered about in all kept days, unfit ones among them.
        unfit_images: those that got no score.
        unfit: by reason.
        refused: by kind.
        throttles: how often a core throttled.
        verdict: the strongest of `shifts`.
        shifts: of the period, by histogram.
        histograms: of the period.
        by_day: totals.
        by_window: weeks back from `last`.
    """

    format: int = FORMAT
    name: str
    version: str
    bundle: str
    reference: bool
    first: str
    last: str
    days: int
    images: Told
    unfit_images: Told
    unfit: dict[str, Told]
    refused: dict[str, Told]
    throttles: int
    verdict: Verdict
    shifts: tuple[Shift, ...]
    histograms: dict[str, ShownHistogram]
    by_day: tuple[ShownDay, ...]
    by_window: tuple[ShownWindow, ...]


class Export(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """All that one folder tells: the bundles in the order of their last day, and files that could not be read."""

    bundles: tuple[Summary, ...]
    faults: tuple[str, ...] = ()


def told(count: int) -> Told:
    """Round a count to fives; None stands for one to four."""
    return None if 0 < count < HIDDEN else HIDDEN * round(count / HIDDEN)


def encode_export(export: Export) -> bytes:
    """Canonical JSON."""
    return msgspec.json.encode(export, order="sorted") + b"\n"


def decode_export(data: bytes, place: str) -> Export:
    """Bytes to what a device told.

    Raises:
        FoveolaError: too long, not JSON, another format, a field unknown, missing or out of range.
    """
    mend, most = "export it anew", MOST_SUMMARY_BYTES
    export = decode_kept(data, Export, place, what="a summary of a watch", mend=mend, most_bytes=most)
    days = [day for one in export.bundles for day in (one.first, one.last)]
    require_known(place, formats=[one.format for one in export.bundles], days=days, mend=mend)
    return export


def summarise(folder: Path, days: int = 30, trusted: Watched | None = None) -> Export:
    """Sum up what a watch has kept.

    Args:
        folder: of the watch.
        days: length of the period that is held against the basis, back from each bundle's last day.
        trusted: a bundle from elsewhere, whose reference is taken instead of the folder's own copy of it.

    Raises:
        FoveolaError: there is no such folder, or nothing in it.
        UsageError: a period of no day.
    """
    if days < 1:
        raise UsageError("--days", f"{days} is no period", "give 1 or more")
    bundles, seen, faults = read_folder(folder)
    bundles |= {trusted.bundle: trusted} if trusted else {}
    by_bundle: dict[str, list[Day]] = {}
    for day in seen:
        by_bundle.setdefault(day.bundle, []).append(day)
    if not by_bundle:
        raise FoveolaError(str(folder), "holds no day of a watch", "name the folder that `Watch` writes to")
    last = sorted(by_bundle, key=lambda key: by_bundle[key][-1].day)
    unknown = [f"{key}: days of a bundle that is not described" for key in last if key not in bundles]
    told_of = [_summary(bundles[key], by_bundle[key], days) for key in last if key in bundles]
    return Export(bundles=tuple(told_of), faults=(*faults, *unknown))


def _summary(watched: Watched, days: Sequence[Day], period: int) -> Summary:
    whole, last = together(days), date.fromisoformat(days[-1].day)
    assert whole is not None
    begin = str(last - timedelta(days=period - 1))
    late = together(day for day in days if day.day >= begin)
    early = together(day for day in days if day.day < begin)
    assert late is not None
    bases = _bases(watched, late, early)
    shifts = _shifts(watched, late, bases)
    return Summary(
        name=watched.name,
        version=watched.version,
        bundle=watched.bundle,
        reference=watched.reference is not None,
        first=days[0].day,
        last=days[-1].day,
        days=period,
        images=told(whole.images),
        unfit_images=told(whole.unfit_images),
        unfit={word: told(count) for word, count in whole.unfit.items()},
        refused={word: told(count) for word, count in whole.refused.items()},
        throttles=whole.throttles,
        verdict=worst(shifts),
        shifts=shifts,
        histograms={
            name: ShownHistogram(edges=one.edges, counts=tuple(map(told, one.counts)))
            for name, one in sorted(late.histograms.items())
        },
        by_day=tuple(_day(day) for day in days),
        by_window=tuple(_windows(days, last, bases)),
    )


def _day(day: Day) -> ShownDay:
    refused = sum(day.refused.values())
    return ShownDay(day=day.day, images=told(day.images), unfit=told(day.unfit_images), refused=told(refused))


def _bases(watched: Watched, late: Day, early: Day | None) -> dict[str, tuple[Basis, Histogram]]:
    """Choose what each histogram is held against: the bundle's reference, else the device's own earlier days."""
    known: dict[str, Histogram] = {}
    if watched.reference is not None:
        known |= {f"input/{name}": one for name, one in watched.reference.inputs.items()}
        known |= {name: one for name, one in watched.reference.inputs.items() if name.startswith("quality/")}
        known |= {f"score/{name}": one for name, one in watched.reference.answers.items()}
    bases: dict[str, tuple[Basis, Histogram]] = {}
    for name, now in late.histograms.items():
        if name in known and known[name].edges == now.edges:
            bases[name] = ("reference", known[name])
        elif early is not None and name in early.histograms and early.histograms[name].edges == now.edges:
            bases[name] = ("earlier days", early.histograms[name])
    return bases


def _shifts(watched: Watched, late: Day, bases: Mapping[str, tuple[Basis, Histogram]]) -> tuple[Shift, ...]:
    reference = watched.reference
    many = max(1.0, reference.images / reference.patients) if reference else 1.0
    found = (
        shift(name, before, late.histograms[name], basis=basis, images_a_patient=many, compared=len(bases))
        for name, (basis, before) in sorted(bases.items())
    )
    return tuple(one for one in found if one is not None)


def _windows(days: Sequence[Day], last: date, bases: Mapping[str, tuple[Basis, Histogram]]) -> list[ShownWindow]:
    """Cut the days into weeks, back from the last one."""
    weeks: dict[int, list[Day]] = {}
    for day in days:
        weeks.setdefault((last - date.fromisoformat(day.day)).days // WINDOW_DAYS, []).append(day)
    shown = []
    for back in sorted(weeks, reverse=True):
        week = together(weeks[back])
        assert week is not None
        end = last - timedelta(days=WINDOW_DAYS * back)
        enough = {name: one for name, one in week.histograms.items() if sum(one.counts) >= LEAST}
        indices = {
            name: found.psi
            for name, one in enough.items()
            if name in bases and (found := shift(name, bases[name][1], one, basis=bases[name][0])) is not None
            if found.psi is not None
        }
        shares = {name: _shares(one) for name, one in enough.items()}
        begin = str(end - timedelta(days=WINDOW_DAYS - 1))
        shown.append(ShownWindow(first=begin, last=str(end), images=told(week.images), shares=shares, psi=indices))
    return shown


def _shares(histogram: Histogram) -> tuple[int, ...]:
    whole = sum(histogram.counts)
    return tuple(5 * round(20 * count / whole) if count >= HIDDEN else 0 for count in histogram.counts)
