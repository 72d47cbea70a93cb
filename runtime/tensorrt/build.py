"""Building an engine from a bundle's kit, on the machine that it will run on.

The steps: the target is read, the graph parsed into a strongly typed network, the engine searched for with the timings
of earlier builds, written beside its record, loaded again and put to the bundle's self-test. Only an engine that
passes gets its final name; a build that fails or is interrupted leaves nothing that a session would load.

Two builds of one kit may give two engines (NVIDIA/TensorRT#4798), so the engine itself is hashed and tested, and the
timings are kept, which makes a second build quicker and more alike.

The differences between TensorRT 10.3 and 11 stand in `typed_network` and `configure`, and nowhere else.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import time
from collections.abc import Callable
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from typing import Any, Literal

import msgspec

from ..bundle import Bundle
from ..engine import INSTALL, is_installed
from ..errors import FoveolaError, MissingPartError
from ..manifest import TensorRtOptions
from ..selftest import SelfTest, self_test
from ..versions import allows, release, specifier_fault
from .cuda import Gpu
from .plan import (
    ENGINE,
    FORMAT,
    RECORD,
    TIMING,
    BuildPlan,
    EngineRecord,
    Kit,
    Target,
    Tested,
    encode_record,
    engine_folder,
    engines_folder,
    read_kit,
)
from .session import logger, read_engine, read_record, this_target

Progress = Callable[[str], None]
MIB = 1024 * 1024  # bytes


class Built(msgspec.Struct, frozen=True, kw_only=True):
    """What a build left behind."""

    state: Literal["built", "found"]
    folder: Path
    record: EngineRecord
    test: SelfTest


def build_engine(
    bundle: Bundle, *, engines: Path | None = None, force: bool = False, progress: Progress = lambda text: None
) -> Built:
    """Build the engine of a bundle for this machine and test it; one that is there and passes is kept.

    Args:
        bundle: from `open_bundle`, so that somebody vouches for the graph.
        engines: folder of engines; None: `FOVEOLA_ENGINES`, else `NAME.engines` beside the bundle.
        force: build although a good engine is there.
        progress: called with a line of text.

    Raises:
        FoveolaError: no kit in the bundle, a release that it is not for, no GPU, a graph that TensorRT refuses, or an
            engine that fails the self-test.
        MissingPartError: TensorRT or CUDA's bindings are not installed.
    """
    options = _options(bundle)
    kit = read_kit(options, bundle.members)
    folder = engines_folder(bundle.path, engines)
    if folder is None:
        raise FoveolaError(bundle.manifest.name, "is no file, so its engines have no place", "name a folder")
    if not is_installed("tensorrt"):
        raise MissingPartError("tensorrt", "is not installed", INSTALL["tensorrt"])
    trt = import_module("tensorrt")
    target = this_target(trt, Gpu())
    require_release(kit.plan, target)
    final = engine_folder(folder, kit, target)
    progress(f"target: {target}")
    if final.exists() and not force:
        try:
            record = read_record(final)
            read_engine(final, record)
            progress("an engine is there; testing it")
            test = _test(bundle, folder)
        except FoveolaError as fault:
            progress(f"the engine that is there is of no use: {fault}")
        else:
            return Built(state="found", folder=final, record=record, test=test)
    return _build(bundle, kit, trt, target, folder, final, progress)


def require_release(plan: BuildPlan, target: Target) -> None:
    """Refuse a release of TensorRT for which the kit was never checked.

    Raises:
        FoveolaError: too old or too new.
    """
    if fault := specifier_fault(plan.releases):
        raise FoveolaError("tensorrt.json: releases", fault, "export the bundle anew")
    if not allows(plan.releases, target.tensorrt):
        fault = f"TensorRT {target.tensorrt} is here; the kit is for {plan.releases}"
        raise FoveolaError("tensorrt", fault, "install one of these, or export the bundle anew")


def typed_network(trt: Any, builder: Any) -> Any:
    """Make an empty network in which the graph's types hold.

    TensorRT 10 computes as it likes unless STRONGLY_TYPED is set (10.0 release notes). TensorRT 11 knows nothing else:
    weak typing was removed with all its flags, and EXPLICIT_BATCH too (Migration Guide 10.x to 11.x, "Strongly Typed
    Networks Are Now Required").
    """
    if release(str(trt.__version__))[0] >= 11:
        return builder.create_network(0)
    return builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))


def configure(trt: Any, builder: Any, plan: BuildPlan, timings: bytes) -> tuple[Any, bool]:
    """Make the builder's settings: those of the plan, and no flag about precision, which the graph settles.

    Returns:
        The settings, and whether earlier timings were of use.
    """
    config = builder.create_builder_config()
    config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, plan.workspace_mib * MIB)
    config.builder_optimization_level = plan.optimization_level
    config.clear_flag(trt.BuilderFlag.TF32)  # on by default, in both
    cache = config.create_timing_cache(timings) if timings else None
    # False: timings of another GPU or release are refused, never mended; they would choose the wrong kernels.
    reused = cache is not None and bool(config.set_timing_cache(cache, False))
    if not reused:
        config.set_timing_cache(config.create_timing_cache(b""), False)
    return config, reused


def _options(bundle: Bundle) -> TensorRtOptions:
    for options in bundle.manifest.engines:
        if isinstance(options, TensorRtOptions):
            return options
    raise FoveolaError(bundle.manifest.name, "holds no build kit for TensorRT", "export it with the engine tensorrt")


def _build(bundle: Bundle, kit: Kit, trt: Any, target: Target, engines: Path, final: Path, progress: Progress) -> Built:
    # A folder of engines of its own, so that the self-test opens exactly this one, by the same way as everybody.
    scratch = engines / f".partial-{os.getpid()}"
    work = scratch / final.name
    try:
        work.mkdir(parents=True, mode=0o755)
        began = time.monotonic()
        engine, timings, reused = _search(trt, kit, _earlier_timings(engines, target), progress)
        seconds = round(time.monotonic() - began, 1)
        progress(f"built in {seconds} s; testing the engine on the bundle's golden images")
        record = EngineRecord(
            format=FORMAT,
            bundle=f"{bundle.manifest.name} {bundle.manifest.version}",
            bundle_digest=bundle.digest,
            graph_sha256=kit.graph_sha256,
            plan_sha256=kit.plan_sha256,
            target=target,
            engine_sha256=hashlib.sha256(engine).hexdigest(),
            engine_bytes=len(engine),
            timing_sha256=hashlib.sha256(timings).hexdigest(),
            timing_reused=reused,
            build_seconds=seconds,
            tested=Tested(images=0, flips=0, relative=0.0),
        )
        _write(work / ENGINE, engine)
        _write(work / TIMING, timings)
        _write(work / RECORD, encode_record(record))
        test = _test(bundle, scratch)
        record = msgspec.structs.replace(record, tested=_tested(test))
        _write(work / RECORD, encode_record(record))
        _exchange(work, final)
    except OSError as error:
        raise FoveolaError(str(engines), f"cannot be written: {error.strerror}", "name another --engines") from None
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return Built(state="built", folder=final, record=record, test=test)


def _search(trt: Any, kit: Kit, timings: bytes, progress: Progress) -> tuple[bytes, bytes, bool]:
    """Parse and build: the engine's bytes, the timings for the next time, and whether older ones were of use."""
    log = logger(trt)
    builder = trt.Builder(log)
    network = typed_network(trt, builder)
    parser = trt.OnnxParser(network, log)
    if not parser.parse(kit.graph):
        faults = "; ".join(" ".join(parser.get_error(i).desc().split()) for i in range(parser.num_errors))
        mend = "send this line to the bundle's maker"
        raise FoveolaError("tensorrt.onnx", f"TensorRT {trt.__version__} does not read it ({faults[:600]})", mend)
    config, reused = configure(trt, builder, kit.plan, timings)
    progress(f"searching kernels {'with earlier timings' if reused else 'from nothing'}; this takes minutes")
    monitor = _monitor(trt, progress)
    if monitor is not None:
        config.progress_monitor = monitor
    built = builder.build_serialized_network(network, config)
    if built is None:
        fault = f"TensorRT {trt.__version__} builds no engine ({log.reason})"
        raise FoveolaError("tensorrt.onnx", fault, "free memory, or send this line to the bundle's maker")
    return bytes(built), bytes(config.get_timing_cache().serialize()), reused


def _monitor(trt: Any, progress: Progress) -> Any:
    """Tell of TensorRT's own phases, where it has the interface (8.6 and newer); only the outermost, in whole steps."""
    if not hasattr(trt, "IProgressMonitor"):
        return None

    class Monitor(trt.IProgressMonitor):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.IProgressMonitor.__init__(self)

        def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
            if not parent_phase:
                progress(f"{phase_name}: {num_steps} steps")

        def phase_finish(self, phase_name: str) -> None:
            pass

        def step_complete(self, phase_name: str, step: int) -> bool:
            return True  # False would stop the build

    return Monitor()


def _test(bundle: Bundle, engines: Path) -> SelfTest:
    """Put the built engine to the bundle's self-test.

    Raises:
        FoveolaError: it fails; the engine must not be used.
    """
    outcome = self_test(bundle, "tensorrt", engines=engines)
    if not outcome.ok:
        mend = "do not use this engine; tell the bundle's maker the GPU and the release"
        raise FoveolaError("self-test of the engine", ", ".join(outcome.faults), mend)
    return outcome


def _tested(test: SelfTest) -> Tested:
    relative = max((drift.relative for drift in test.drifts), default=0.0)
    return Tested(images=test.images, flips=test.flips, relative=relative)


def _earlier_timings(engines: Path, target: Target) -> bytes:
    """Give the newest timings that were taken for the same GPU and release, of any bundle, if unchanged since."""
    found: list[tuple[int, bytes]] = []
    for path in engines.glob(f"*-{target.tag}/{TIMING}"):
        with suppress(OSError, FoveolaError):
            data = path.read_bytes()
            if hashlib.sha256(data).hexdigest() == read_record(path.parent).timing_sha256:
                found.append((path.stat().st_mtime_ns, data))
    return max(found)[1] if found else b""


def _write(path: Path, data: bytes) -> None:
    with path.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    path.chmod(0o644)  # whatever the umask: nobody else may exchange an engine


def _exchange(work: Path, final: Path) -> None:
    """Put the tested folder in its place; an older one goes only then."""
    old = final.with_name(f".old-{os.getpid()}-{final.name}")
    if final.exists():
        final.replace(old)
    try:
        work.replace(final)
    except OSError:
        if old.exists():
            old.replace(final)
        raise
    shutil.rmtree(old, ignore_errors=True)
