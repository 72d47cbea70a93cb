"""What devices in the field saw of one bundle, side by side: drift against the reference that the bundle brings.

Nothing is proved here: without a reference standard a shift says that the images or answers are others, not that the
answers are wrong. `foveola parity` on such images says that.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import msgspec

from ...runtime.bundle import Bundle
from ...runtime.errors import FoveolaError
from ...runtime.watch.day import watched_of
from ...runtime.watch.drift import Verdict, worst
from ...runtime.watch.summary import MOST_SUMMARY_BYTES, Export, Summary, Told, decode_export, summarise
from ...runtime.watch.telling import count_words, figure_words, printable


class Device(msgspec.Struct, frozen=True, kw_only=True):
    """One device.

    Args:
        device: name of its folder or file.
        summary: what it saw.
        recounted: drift was computed here, of the exact counts and the bundle's own reference; else the device's word
            is taken.
    """

    device: str
    summary: Summary
    recounted: bool


class Field(msgspec.Struct, frozen=True, kw_only=True):
    """All devices with one bundle.

    Args:
        name: of the bundle.
        version: of the bundle.
        digest: of the bundle.
        verdict: the strongest of all devices.
        devices: in the order in which they were named.
        faults: files that could not be read.
    """

    name: str
    version: str
    digest: str
    verdict: Verdict
    devices: tuple[Device, ...]
    faults: tuple[str, ...]


def read_field(bundle: Bundle, paths: Sequence[Path], days: int = 30) -> Field:
    """Read folders of watches, and files that `foveola watch show --out` wrote.

    Args:
        bundle: that they watch; its reference is what counts.
        paths: folders and files, one a device.
        days: the period of folders; files have their own.

    Raises:
        FoveolaError: a path is neither, two devices have one name, or a device saw another bundle.
    """
    devices: list[Device] = []
    faults: list[str] = []
    for path in paths:
        name = path.resolve().name if path.is_dir() else path.stem
        if any(one.device == name for one in devices):
            raise FoveolaError(str(path), f"a second device is called {name}", "name one of them otherwise")
        export = summarise(path, days, watched_of(bundle.manifest)) if path.is_dir() else _read(path)
        devices.append(Device(device=name, summary=_of(bundle, path, export), recounted=path.is_dir()))
        faults += [f"{name}: {fault}" for fault in export.faults]
    return Field(
        name=bundle.manifest.name,
        version=bundle.manifest.version,
        digest=bundle.digest,
        verdict=worst([shift for one in devices for shift in one.summary.shifts]),
        devices=tuple(devices),
        faults=tuple(faults),
    )


def field_lines(field: Field) -> Iterator[str]:
    """Say it: a line a device, then what shifted where."""
    yield f"{field.name} {field.version}, {len(field.devices)} device(s)"
    yield f"  {'device':<24} {'to':<10} {'images':>8} {'unfit':>7} {'refused':>8}  verdict"
    for one in field.devices:
        seen = one.summary
        counts = f"{count_words(seen.images):>8} {_share(seen.unfit_images, seen.images):>7} {_refused(seen):>8}"
        yield f"  {printable(one.device):<24} {seen.last} {counts}  {seen.verdict}"
    for one in field.devices:
        for shift in one.summary.shifts:
            if shift.verdict in ("moderate", "large"):
                what = f"{one.device:<24} {shift.what}"
                yield f"  {printable(what)}: {shift.verdict}, PSI {figure_words(shift)[1]} against {shift.basis}"
    yield from (f"left out    {fault}" for fault in field.faults)
    yield f"verdict     {field.verdict}"


def _read(path: Path) -> Export:
    try:
        with path.open("rb") as stream:
            data = stream.read(MOST_SUMMARY_BYTES + 1)
    except OSError as error:
        mend = "name the folder of a watch, or a file of `foveola watch show --out`"
        raise FoveolaError(str(path), f"cannot be read: {error.strerror}", mend) from None
    return decode_export(data, str(path))


def _of(bundle: Bundle, path: Path, export: Export) -> Summary:
    key = watched_of(bundle.manifest).bundle
    for one in export.bundles:
        if one.bundle == key:
            return one
    others = ", ".join(f"{one.name} {one.version}" for one in export.bundles) or "none"
    mend = "name the bundle that runs there"
    raise FoveolaError(str(path), f"saw nothing of this bundle; it saw {others}", mend)


def _refused(seen: Summary) -> str:
    refused = sum(count or 0 for count in seen.refused.values())
    return _share(refused, refused + (seen.images or 0))


def _share(part: Told, whole: Told) -> str:
    return "-" if not whole else f"{100 * (part or 0) / whole:.0f} %"
