"""What a bundle costs on this machine, from a cold start to a hot hour: one record (`record.py`).

Order: fresh processes first, while the machine is cool; then the warm figures; idling; energy; and the long run last.

    record = bench(open_bundle(path), first_golden_image(bundle), path=path)
    record.end_to_end.median_ms, record.cold_start.total.median_ms
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from importlib import import_module
from itertools import pairwise
from pathlib import Path

from ... import __version__
from ..answer import decode
from ..bundle import Bundle, bundle_bytes
from ..engine import engine_of
from ..image import decode_image, prepare
from ..manifest import Budget, EngineOptions, TensorRtOptions
from ..measure import Latency, latency, latency_of
from ..predict import Predictor
from .energy import find_meter, measure_energy
from .machine import SYSTEM_ROOT, OtherWork, read_machine
from .record import (
    DISTURBED,
    AfterIdle,
    Bench,
    BudgetLine,
    BundleFacts,
    ColdStart,
    Energy,
    EngineFacts,
    ImageFacts,
    MachineFacts,
    Memory,
    Phases,
    Sustained,
)
from .sensors import Sensors
from .start import cold_starts, own_memory
from .sustain import sustained

IDLE_CALLS = 10
WARMUP = 10


def bench(
    bundle: Bundle,
    image: bytes,
    *,
    engine: str | None = None,
    runs: int = 100,
    path: Path | None = None,
    key: Path | None = None,
    engines: Path | None = None,
    starts: int = 5,
    idle_s: float = 0.0,
    energy_s: float = 0.0,
    sustain_s: float = 0.0,
    root: Path = SYSTEM_ROOT,
    say: Callable[[str], None] = lambda line: None,
) -> Bench:
    """Measure a bundle on one image file's bytes.

    Args:
        bundle: from `open_bundle`.
        image: bytes of an image file.
        engine: as for `Predictor`.
        runs: timed calls of each kind.
        path: the bundle's file, which fresh processes open; without it cold start and their memory are left out.
        key: public key for them, as for `open_bundle`.
        engines: folder of the engines that TensorRT has built, as for `Predictor`.
        starts: fresh processes; 0 leaves them out.
        idle_s: also time 10 calls that each follow so many seconds of idling; 0 leaves it out.
        energy_s: also count joules over so many seconds, where the machine tells; 0 leaves it out.
        sustain_s: also run for so many seconds without a pause; 0 leaves it out.
        root: root of the file system for sensors; another one in tests.
        say: takes lines of progress.

    Raises:
        FoveolaError: as `Predictor`; or a fresh process does not answer.
    """
    machine, others, notes = read_machine(root), OtherWork(root), list[str]()
    predictor = Predictor(bundle, engine, engines)
    options = next(o for o in bundle.manifest.engines if engine_of(o) == predictor.engine)
    cold: ColdStart | None = None
    memory: Memory | None = None
    if path is not None and starts:
        say(f"cold start, {starts} times")
        cold, memory = cold_starts(path, predictor.engine, image, starts=starts, key=key, engines=engines)

    def whole() -> object:
        return predictor.predict(image)

    say(f"{runs} calls")
    end_to_end = latency(whole, runs=runs, warmup=WARMUP)
    phases, alone = _phases(predictor, image, runs), _alone(predictor, image, runs)
    idle = _after_idle(whole, idle_s, say) if idle_s else None
    energy = _energy(whole, options, energy_s, root, notes, say) if energy_s else None
    long = sustained(whole, sustain_s, Sensors(root), say) if sustain_s else None
    memory, disturbed = memory or own_memory(), others.share()
    facts = _bundle_facts(bundle, options)
    return Bench(
        date=time.strftime("%Y-%m-%dT%H:%M:%S+00:00", time.gmtime()),
        foveola=__version__,
        bundle=facts,
        engine=_engine_facts(options),
        machine=machine,
        image=_image_facts(image),
        cold_start=cold,
        end_to_end=end_to_end,
        phases=phases,
        engine_alone=alone,
        after_idle=idle,
        sustained=long,
        memory=memory,
        energy=energy,
        disturbed=disturbed,
        budget=judge(bundle.manifest.budget, end_to_end, long, facts.bundle_bytes, memory.peak_mib),
        notes=(*notes, *_notes(machine, options, cold, long, disturbed)),
    )


def judge(
    budget: Budget | None, end_to_end: Latency, long: Sustained | None, size_bytes: int, peak_mib: float | None
) -> tuple[BudgetLine, ...]:
    """Hold figures against a budget, line by line; the latency of a hot device too, where it was measured."""
    if budget is None:
        return ()
    figures = [("latency, median", "ms", budget.latency_ms, end_to_end.median_ms)]
    if long is not None:
        figures.append(("latency, sustained", "ms", budget.latency_ms, long.last_ms))
    lines: list[tuple[str, str, float, float | None]] = [
        *figures,
        ("size of the bundle", "MB", budget.size_mb, size_bytes / 1e6),
        ("peak memory", "MiB", budget.memory_mib, peak_mib),
    ]
    return tuple(
        BudgetLine(what=what, unit=unit, limit=limit, measured=got, holds=None if got is None else got <= limit)
        for what, unit, limit, got in lines
    )


def _phases(predictor: Predictor, image: bytes, runs: int) -> Phases:
    """Time the parts of `Predictor.predict` within the same calls."""
    spec, outputs = predictor.manifest.input, predictor.manifest.outputs
    times: list[tuple[float, ...]] = []
    for _ in range(WARMUP + runs):
        marks = [time.perf_counter_ns()]
        picture = decode_image(image)
        marks.append(time.perf_counter_ns())
        x_CHW, geometry = prepare(picture, spec)
        marks.append(time.perf_counter_ns())
        raw = predictor.run(x_CHW[None])
        marks.append(time.perf_counter_ns())
        decode(outputs, raw, geometry, spec)
        marks.append(time.perf_counter_ns())
        times.append(tuple((later - earlier) / 1e6 for earlier, later in pairwise(marks)))
    decoded, prepared, run, answered = (latency_of(part) for part in zip(*times[WARMUP:], strict=True))
    return Phases(decode=decoded, prepare=prepared, engine=run, postprocess=answered)


def _alone(predictor: Predictor, image: bytes, runs: int) -> Latency:
    x_CHW, _ = prepare(decode_image(image), predictor.manifest.input)
    tensor = x_CHW[None]
    return latency(lambda: predictor.run(tensor), runs=runs, warmup=WARMUP)


def _after_idle(whole: Callable[[], object], idle_s: float, say: Callable[[str], None]) -> AfterIdle:
    say(f"{IDLE_CALLS} calls, each after {idle_s:g} s of idling")
    return AfterIdle(pause_s=idle_s, latency=latency(whole, runs=IDLE_CALLS, warmup=1, pause_s=idle_s))


def _energy(
    whole: Callable[[], object],
    options: EngineOptions,
    seconds: float,
    root: Path,
    notes: list[str],
    say: Callable[[str], None],
) -> Energy | None:
    meter, reason = find_meter(root, gpu=isinstance(options, TensorRtOptions))
    if meter is None:
        notes.append(f"energy: {reason}")
        return None
    say(f"energy by {meter.source}, idle and busy for {seconds:g} s each")
    energy = measure_energy(whole, meter, seconds=seconds)
    if energy is None:
        notes.append(f"energy: {meter.source} told nothing")
    return energy


def _bundle_facts(bundle: Bundle, options: EngineOptions) -> BundleFacts:
    manifest = bundle.manifest
    return BundleFacts(
        name=manifest.name,
        version=manifest.version,
        device=manifest.device,
        digest=bundle.digest,
        core_digest=bundle.core_digest,
        bundle_bytes=len(bundle_bytes(bundle.members)),
        graph_bytes=sum(len(bundle.members[name]) for name in options.files),
    )


def _engine_facts(options: EngineOptions) -> EngineFacts:
    engine = engine_of(options)
    version = str(getattr(import_module(engine), "__version__", ""))
    return EngineFacts(engine=engine, version=version, arithmetic=options.arithmetic, settings=options)


def _image_facts(image: bytes) -> ImageFacts:
    picture = decode_image(image)
    return ImageFacts(bytes=len(image), width=picture.width, height=picture.height, mode=picture.mode)


def _notes(
    machine: MachineFacts,
    options: EngineOptions,
    cold: ColdStart | None,
    long: Sustained | None,
    disturbed: float | None,
) -> tuple[str, ...]:
    """Say what makes figures of this run less than they seem, and why a figure is null."""
    notes: list[str] = []
    cores = min(machine.cores, machine.cpu_quota or machine.cores)
    if not isinstance(options, TensorRtOptions) and options.threads > cores:
        notes.append(f"threads: the manifest says {options.threads}, this process may use {cores:g} cores")
    if machine.virtual:
        notes.append("virtual machine: others may share the processor, and the clock that it tells may be constant")
    if disturbed is not None and disturbed > DISTURBED:
        notes.append(f"disturbed: other work took {disturbed:.0%} of the cores' time meanwhile; measure again")
    if cold is None:
        notes.append("memory: of this process, with all that it holds beside the bundle; no fresh one was started")
    if long is not None and not long.temperature_source:
        notes.append("temperature: no thermal zone and no hwmon sensor can be read")
    if long is not None and not long.clock_source:
        notes.append("clock: neither cpufreq nor /proc/cpuinfo tells it")
    if sys.platform != "linux":
        notes.append(f"sensors: read on Linux only, this is {sys.platform}")
    return tuple(notes)
