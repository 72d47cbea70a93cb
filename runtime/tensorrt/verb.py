"""The verb `build-engine`, for `python -m foveola.runtime` and for `foveola`."""

from __future__ import annotations

import argparse

import msgspec

from ..bundle import open_bundle
from ..errors import ExitCode
from ..verbs.verb import Answer, to_stderr
from .build import Built, build_engine


def run_build(arguments: argparse.Namespace) -> Answer:
    """Build, or find the engine that is there, and tell what it is."""
    bundle = open_bundle(arguments.bundle, key=arguments.key)
    built = build_engine(bundle, engines=arguments.engines, force=arguments.force, progress=to_stderr)
    result = {
        "state": built.state,
        "folder": str(built.folder),
        "record": msgspec.to_builtins(built.record),
        "selftest": msgspec.to_builtins(built.test),
    }
    return ExitCode.DONE, result, _lines(built)


def _lines(built: Built) -> list[str]:
    record = built.record
    timings = "with earlier timings" if record.timing_reused else "from nothing"
    return [
        f"{'built' if built.state == 'built' else 'there already'}  {built.folder}",
        f"target    {record.target}",
        f"engine    {record.engine_sha256}, {record.engine_bytes} bytes",
        f"graph     {record.graph_sha256}",
        f"build     {record.build_seconds} s, {timings}",
        f"self-test holds: {built.test.images} images, {built.test.flips} decisions flipped",
    ]
