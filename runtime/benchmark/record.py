"""The record of one bench run: what was measured, of what, on what; JSON that can be checked in.

Laws:
- `decode_record(encode_record(b)) == b`, and equal records give equal bytes.
- It names the kind of machine and never the machine: no host name, no serial number, no path, no name of an image.
- What could not be measured is null, and `notes` has a word why.
- A record of another schema, or with a field that this runtime does not know, is refused.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import msgspec

from ..errors import FoveolaError
from ..manifest import Arithmetic, EngineName, EngineOptions
from ..measure import Latency

DISTURBED = 0.1  # share of all cores' time that others took; beyond it a record and a table say so
SCHEMA = 1  # raised whenever a figure changes its meaning
MAX_RECORD_BYTES = 4 * 2**20  # a record has some 20 KB


class BundleFacts(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Which bundle, and its size in bytes."""

    name: str
    version: str
    device: str  # the profile it was made for
    digest: str
    core_digest: str
    bundle_bytes: int
    graph_bytes: int  # the members that this engine reads


class EngineFacts(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Which artefact of the bundle, and the manifest's settings under which it ran: threads, pinning, precision."""

    engine: EngineName
    version: str  # of the engine's library; empty where it does not tell
    arithmetic: Arithmetic
    settings: EngineOptions


class MachineFacts(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The kind of machine; see `bench_machine.py`."""

    processor: str
    board: str  # model of the board, where a device tree tells it
    architecture: str
    system: str  # `Linux 6.1.0`
    python: str
    cores: int  # that this process may use
    cpu_quota: float | None  # cores' worth of time that a container may use; null: no limit known
    memory_mib: float | None
    instructions: tuple[str, ...]  # the ones that decide how integers and half floats are computed
    governor: str | None
    power_mode: str | None  # of a Jetson
    virtual: bool


class ImageFacts(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The image file that was fed."""

    bytes: int
    width: int
    height: int
    mode: str  # Pillow's: `L`, `I;16`, `RGB`


class Spread(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A few times: the middle one and both ends, in milliseconds."""

    median_ms: float
    least_ms: float
    most_ms: float


class ColdStart(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A fresh process from its start to its first answer; files lie in the system's cache."""

    starts: int
    total: Spread  # start of the process to its first answer
    interpreter: Spread  # Python itself
    imports: Spread  # the runtime with numpy, Pillow, cryptography
    engine_import: Spread  # the engine's library
    load: Spread  # read the bundle, verify its signature, decode the manifest
    open: Spread  # the engine opens the graph and runs it once on zeros
    first_answer: Spread  # from the image file's bytes
    second_answer: Spread


class Memory(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Resident memory of a fresh process at its stations, in MiB."""

    peak_mib: float | None
    bare_mib: float | None  # Python alone
    imported_mib: float | None  # and the runtime and the engine's library
    loaded_mib: float | None  # and the bundle
    opened_mib: float | None  # and the engine's own
    beyond_bare_mib: float | None  # peak less bare
    answers: int  # given before the peak was read


class Phases(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The parts of one prediction, timed within the same calls."""

    decode: Latency  # the file's bytes to pixels
    prepare: Latency  # pixels to the network's input
    engine: Latency
    postprocess: Latency  # raw outputs to findings, masks, boxes


class AfterIdle(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """End to end, each call after a pause in which clocks may fall."""

    pause_s: float
    latency: Latency


class Point(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A stretch of a sustained run."""

    second: float  # at its end
    runs: int
    median_ms: float
    p99_ms: float
    temperature_c: float | None
    clock_mhz: float | None


class Sustained(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One call after the other for a while, end to end."""

    seconds: float
    runs: int
    images_per_s: float
    first_ms: float  # median over the first tenth of the points
    last_ms: float  # and over the last
    hottest_c: float | None
    slowest_clock_mhz: float | None
    throttled: int | None  # how often the processor throttled meanwhile
    temperature_source: str
    clock_source: str
    points: tuple[Point, ...]


class Energy(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What an image costs, as the machine tells."""

    source: str
    rails: tuple[str, ...]  # what is counted
    idle_watts: float
    busy_watts: float
    seconds: float
    images: int
    joules_per_image: float
    joules_per_image_above_idle: float


class BudgetLine(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One line of the manifest's budget."""

    what: str
    unit: str
    limit: float
    measured: float | None
    holds: bool | None  # null: not measured


class Bench(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What a bundle costs on a machine, batch 1."""

    schema: Literal[1] = 1
    date: str  # UTC, ISO 8601
    foveola: str
    bundle: BundleFacts
    engine: EngineFacts
    machine: MachineFacts
    image: ImageFacts
    cold_start: ColdStart | None
    end_to_end: Latency  # from the file's bytes to the prediction
    phases: Phases
    engine_alone: Latency  # again and again on one prepared input
    after_idle: AfterIdle | None
    sustained: Sustained | None
    memory: Memory
    energy: Energy | None
    disturbed: float | None  # share of all cores' time that other work took meanwhile; above a tenth, measure again
    budget: tuple[BudgetLine, ...]
    notes: tuple[str, ...]

    @property
    def within_budget(self) -> bool:
        """Whether there is a budget and every line of it was measured and holds."""
        return bool(self.budget) and all(line.holds for line in self.budget)


class _Schema(msgspec.Struct):
    schema: int


def encode_record(record: Bench) -> bytes:
    """Canonical JSON: keys sorted, two spaces, one newline at the end."""
    return msgspec.json.format(msgspec.json.encode(record, order="sorted"), indent=2) + b"\n"


def decode_record(data: bytes, place: str = "record") -> Bench:
    """Bytes to a checked record.

    Raises:
        FoveolaError: not JSON, of another schema, or a field unknown, missing or of another type.
    """
    try:
        schema = msgspec.json.decode(data, type=_Schema).schema
        if schema != SCHEMA:
            mend = "update foveola" if schema > SCHEMA else "measure again"
            raise FoveolaError(place, f"schema {schema} is not this runtime's {SCHEMA}", mend)
        return msgspec.json.decode(data, type=Bench)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise FoveolaError(place, f"no record of `bench`: {error}", "make it with `bench --out`") from None


def read_record(path: Path) -> Bench:
    """Read a record from a file.

    Raises:
        FoveolaError: as `decode_record`, or the file cannot be read.
    """
    try:
        with path.open("rb") as file:
            data = file.read(MAX_RECORD_BYTES + 1)
    except OSError as error:
        raise FoveolaError(str(path), f"cannot be read: {error.strerror}", "check the path and its rights") from None
    if len(data) > MAX_RECORD_BYTES:
        raise FoveolaError(str(path), f"has more than {MAX_RECORD_BYTES} bytes", "give a record of `bench`")
    return decode_record(data, str(path))
