"""What share of its peaks this machine reaches in one engine, measured once and kept: the roofline's calibration.

Small networks with random weights (`probes.py`) run in the engine, in float and in integers, layer by layer;
`devices.efficiency` fits the shares. It takes less than half a minute and is kept by the processor's fingerprint, so
that a machine is measured once.

    efficiency = calibrated(load_profile("intel-n100"), Path("cache"))
    foresee(path, load_profile("intel-n100"), efficiency).ms  # a prediction, `source: calibrated`
"""

from __future__ import annotations

import hashlib
import os
import tempfile
import time
from collections.abc import Callable
from importlib import metadata
from itertools import product
from pathlib import Path

import msgspec
import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import ModelProto

from ...devices.efficiency import Efficiency, Measured, fit_efficiency, predict_calibrated
from ...devices.machine import Machine, examine
from ...devices.profile import Profile, engine_options
from ...devices.roofline import Prediction
from ...export.graph_facts import layer_work
from ...export.layer_times import LayerTimes, layer_times
from ...export.quantize import quantize_onnx
from ...runtime.engine import engine_of, runs_anywhere
from ...runtime.errors import MissingPartError
from ...runtime.manifest import Arithmetic, EngineOptions, OnnxRuntimeOptions, OpenVinoOptions
from .probes import LARGE_SIDE, SIDE, STREAM, peak_network, probe_networks, stream_network

FORMAT = 1  # of the probes and of what is measured on them; another number measures anew
SHOWN = 2  # random images that set the probes' ranges
ROUNDS = 2  # in which all probes are measured; the quicker one counts, so that a moment's load does not
TIMED_MS = 0.02  # a layer must take longer to show the peak: profiles count whole microseconds
ENOUGH_S = 12.0  # no round begins later

ARITHMETICS: tuple[Arithmetic, ...] = ("float32", "int8")

Progress = Callable[[float, float, str], None]


def calibrated(device: Profile, cache: Path, progress: Progress | None = None) -> Efficiency:
    """Give this machine's shares in the device's first engine that runs here; measured where they are not kept.

    Args:
        device: names engine and threads.
        cache: folder where the shares are kept.
        progress: called with (done, total, text).

    Raises:
        MissingPartError: neither ONNX Runtime nor OpenVINO is installed.
    """
    options, machine = options_here(device), examine()
    path = cache / f"efficiency-{_fingerprint(machine, options)}.json"
    if path.exists():
        try:
            return msgspec.json.decode(path.read_bytes(), type=Efficiency)
        except msgspec.DecodeError:
            pass  # written by another version: measured anew
    found = measure_machine(options, machine, progress or (lambda done, total, text: None))
    cache.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")  # several workers may share the folder
    partial.write_bytes(msgspec.json.format(msgspec.json.encode(found)))
    partial.replace(path)
    return found


def foresee(graph: Path, device: Profile, efficiency: Efficiency) -> Prediction | None:
    """Predict the time of a graph on a device's processor; None where the profile knows no peak or no bandwidth."""
    return predict_calibrated(layer_work(graph), device, efficiency)


def options_here(device: Profile) -> OnnxRuntimeOptions | OpenVinoOptions:
    """The device's first engine that runs on this machine, with no more threads than there are cores.

    Where none of the device's engines runs here it is ONNX Runtime.

    Raises:
        MissingPartError: that is not installed either.
    """
    cores = examine().cores
    for options in (*engine_options(device), OnnxRuntimeOptions()):
        if isinstance(options, OnnxRuntimeOptions | OpenVinoOptions) and runs_anywhere(options):
            return msgspec.structs.replace(options, threads=min(options.threads, cores))
    raise MissingPartError("explain", "no engine that runs on a processor is installed", "pip install foveola")


def measure_machine(options: OnnxRuntimeOptions | OpenVinoOptions, machine: Machine, progress: Progress) -> Efficiency:
    """Measure the probes in an engine and fit the shares.

    Args:
        options: the engine and its threads.
        machine: this one.
        progress: called with (done, total, text).
    """
    networks = probe_networks()
    total, done, begin = 2 * len(networks) * ROUNDS + 3, 0, time.monotonic()
    measured: dict[tuple[str, Arithmetic], Measured] = {}

    def step(text: str) -> None:
        nonlocal done
        progress(done, total, f"calibrating the roofline: {text}")
        done += 1

    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        step("bandwidth")
        bandwidth = _bandwidth(folder, options)
        rates: dict[Arithmetic, list[float]] = {}
        for arithmetic in ARITHMETICS:
            step(f"peak in {arithmetic}")
            large = _measured(folder, "peak", peak_network(), (64, LARGE_SIDE, LARGE_SIDE), options, arithmetic)
            rates[arithmetic] = _rates(large)
        for number in range(ROUNDS):
            for (name, model), arithmetic in product(networks.items(), ARITHMETICS):
                if number and time.monotonic() - begin > ENOUGH_S:
                    break
                step(f"{name} in {arithmetic}, round {number + 1}")
                found = _measured(folder, name, model, (1, SIDE, SIDE), options, arithmetic)
                rates[arithmetic] += _rates(found)
                before = measured.setdefault((name, arithmetic), found)
                if found.whole_ms < before.whole_ms:
                    measured[name, arithmetic] = found
    peaks: dict[Arithmetic, float] = {name: float(f"{max(many):.4g}") for name, many in rates.items()}
    engine = engine_of(options)
    words = f"{machine.model or machine.architecture}, {options.threads} of {machine.cores} cores"
    return fit_efficiency(
        list(measured.values()), peaks, bandwidth, machine=words, engine=engine, threads=options.threads
    )


def _measured(
    folder: Path,
    name: str,
    model: ModelProto,
    shape: tuple[int, int, int],
    options: OnnxRuntimeOptions | OpenVinoOptions,
    arithmetic: Arithmetic,
) -> Measured:
    path, times = _timed(folder, model, shape, options, arithmetic)
    return Measured(name=name, layers=layer_work(path), ms=times.layers, whole_ms=times.whole_ms)


def _timed(
    folder: Path, model: ModelProto, shape: tuple[int, int, int], options: EngineOptions, arithmetic: Arithmetic
) -> tuple[Path, LayerTimes]:
    path = folder / "float.onnx"
    onnx.save(model, path)
    tensor = _images(1, shape)[0]
    if arithmetic == "int8":
        source, path = path, folder / "int8.onnx"
        quantize_onnx(source, path, _images(SHOWN, shape), min_images=1)
    return path, layer_times(path, options, tensor)


def _images(count: int, shape: tuple[int, int, int]) -> list[NDArray[np.float32]]:
    random = np.random.default_rng(0)
    return [random.random((1, *shape), np.float32) for _ in range(count)]


def _rates(found: Measured) -> list[float]:
    """What layers of a network's arithmetic reached that take long enough to be timed, 10^9 operations a second."""
    return [
        2 * layer.macs / (found.ms[layer.name] * 1e6)
        for layer in found.layers
        if layer.arithmetic == found.arithmetic and found.ms.get(layer.name, 0.0) > TIMED_MS
    ]


def _bandwidth(folder: Path, options: OnnxRuntimeOptions | OpenVinoOptions) -> float:
    """Bytes a second of an addition, 10^9; an engine may run both at once."""
    found = _measured(folder, "stream", stream_network(), STREAM, options, "float32")
    numbers = (
        2 if sum(ms > 0 for ms in found.ms.values()) > 1 else 4 / 3
    )  # of three tensors an addition reads or writes
    moved = 3 * 4 * float(np.prod(STREAM)) * numbers
    return float(f"{moved / (sum(found.ms.values()) * 1e6):.4g}")


def _fingerprint(machine: Machine, options: EngineOptions) -> str:
    """What the shares depend on: processor, cores, engine and its version, threads."""
    engine = engine_of(options)
    parts = {
        "format": FORMAT,
        "model": machine.model,
        "architecture": machine.architecture,
        "instructions": machine.instructions,
        "cores": os.cpu_count(),
        "version": metadata.version(engine),
        "options": options,
    }
    return hashlib.sha256(msgspec.json.encode(parts, order="deterministic")).hexdigest()[:16]
