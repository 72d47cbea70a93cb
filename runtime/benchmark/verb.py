"""What the verb `bench` does, for `python -m foveola.runtime` and for `foveola`; its options are in `options.py`.

python -m foveola.runtime bench chest.foveola --idle --sustain 1800 --out n100.json
python -m foveola.runtime bench --merge n100.json orin.json --out table.md
"""

from __future__ import annotations

import argparse
import math
from contextlib import suppress
from errno import EISDIR
from os import strerror
from pathlib import Path

import msgspec

from ..bundle import Bundle, open_bundle
from ..errors import ExitCode, FoveolaError, UsageError
from ..image import decode_image
from ..selftest import first_golden_image
from ..verbs.verb import Answer, to_stderr
from .merge import merge
from .record import encode_record
from .run import bench
from .words import record_lines


def run_bench(arguments: argparse.Namespace) -> Answer:
    """Measure one bundle, or merge records; exit code, JSON object, and the same in lines.

    Raises:
        UsageError: options that do not go together.
        FoveolaError: as `bench` and `merge`; or the file cannot be written.
    """
    if arguments.merge:
        return _merge(arguments)
    paths: list[Path] = list(arguments.paths)
    if len(paths) > 1:
        raise UsageError("bench", f"{len(paths)} bundles", "measure one at a time, or --merge their records")
    if arguments.any_bundle:
        raise UsageError("--any-bundle", "goes with --merge", "leave it out")
    for option in ("idle", "sustain", "energy"):
        seconds = getattr(arguments, option)
        if not 0 <= seconds < math.inf:  # nor NaN
            raise UsageError(f"--{option}", f"{seconds} is no length of time", "give seconds, 0 or more")
    bundle = open_bundle(paths[0], key=arguments.key)
    if arguments.require_budget and bundle.manifest.budget is None:
        raise FoveolaError(paths[0].name, "its manifest names no budget", "make it with a device's profile")
    if arguments.out:
        _require_place(arguments.out)
    record = bench(
        bundle,
        _image(bundle, arguments.image),
        engine=arguments.engine,
        runs=arguments.runs,
        path=paths[0],
        key=arguments.key,
        starts=arguments.cold,
        idle_s=arguments.idle,
        energy_s=arguments.energy,
        sustain_s=arguments.sustain,
        say=to_stderr,
    )
    if arguments.out:
        _write(arguments.out, encode_record(record))
    missed = arguments.require_budget and not record.within_budget
    return ExitCode.REFUSED if missed else ExitCode.DONE, msgspec.to_builtins(record), record_lines(record)


def _merge(arguments: argparse.Namespace) -> Answer:
    if arguments.out:
        _require_place(arguments.out)
    table = merge(list(arguments.paths), any_bundle=arguments.any_bundle)
    text = table.markdown()
    if arguments.out:
        _write(arguments.out, text.encode())
    missed = arguments.require_budget and not all(row.within_budget for row in table.rows)
    lines = text.splitlines() if not arguments.out else [f"{len(table.rows)} records in {arguments.out}"]
    return ExitCode.REFUSED if missed else ExitCode.DONE, msgspec.to_builtins(table), lines


def _image(bundle: Bundle, path: Path | None) -> bytes:
    if path is None:
        return first_golden_image(bundle)
    decode_image(path)  # refused by its name, which the bytes alone do not know
    return path.read_bytes()


def _require_place(path: Path) -> None:
    """Refuse at once a place that cannot be written, and not after an hour of measuring."""
    try:
        if path.is_dir():
            raise IsADirectoryError(EISDIR, strerror(EISDIR))
        partial = path.with_name(path.name + ".partial")
        partial.touch()
        partial.unlink()
    except OSError as error:
        raise FoveolaError(str(path), f"cannot be written: {error.strerror}", "choose another place") from None


def _write(path: Path, data: bytes) -> None:
    partial = path.with_name(path.name + ".partial")
    try:
        partial.write_bytes(data)
        partial.replace(path)
    except OSError as error:
        with suppress(OSError):  # the first error is the one to tell
            partial.unlink(missing_ok=True)
        raise FoveolaError(str(path), f"cannot be written: {error.strerror}", "choose another place") from None
