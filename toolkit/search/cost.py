"""What a candidate costs: latency in the device's first engine, and the size of its graph.

- Measured where this machine is such a device (`devices.doctor`), in turns as the forms of an export are; else
  predicted by the roofline, with the shares that layers measured here reach of their peaks. Every cost says which.
- An untrained network costs what the trained one does: weights decide nothing. Thus a candidate that is over a budget
  is known before it is trained.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ...devices.doctor import at_hand, examine, why_not_at_hand
from ...devices.efficiency import Efficiency, predict_calibrated
from ...devices.profile import Profile
from ...export.onnx_graph import export_onnx
from ...export.quantize import quantize_onnx
from ...runtime.errors import FoveolaError, UsageError
from ...runtime.manifest import Arithmetic, EngineName
from ..answers import RawAnswers
from ..compress.quantise import INT8_GRAPH
from ..data.arrays import Arrays
from ..data.dataset import Dataset
from ..explain.machine import calibrated
from ..fresh import new_network
from ..knobs import Shape
from ..models.dense_teacher import as_graph
from ..models.network import Network
from ..models.outputs import graph_outputs
from ..recipe import Recipe, Step
from ..variants.candidates import Candidate, candidates
from ..variants.form import Form, open_form, write_form
from ..variants.sources import find_sources
from ..variants.timing import Timing, foresee, measure
from ..variants.write import Sources
from .draft import made_by
from .quiet import Quiet
from .row import Cost

MB = 1e6
NOISE = 4  # random images that set the ranges of an untrained candidate, whose answers nobody reads


def measures_here(device: Profile, latency: str) -> bool:
    """Whether latencies are measured on this machine; else they are predicted.

    Args:
        device: its profile.
        latency: `auto` measures where this machine is such a device.

    Raises:
        UsageError: `measured` is asked for and this machine is no such device, or nothing is known to predict from.
    """
    machine = examine()
    here = at_hand(machine, device)
    if latency == "measured" and not here:
        reasons = "; ".join(why_not_at_hand(machine, device))
        raise UsageError("--latency measured", f"this machine is no {device.id}: {reasons}", "leave it out")
    # A class of devices has no peaks of its own; one that this machine belongs to is given this machine's.
    if not here and not _has_peaks(device):
        fault = "has no peak or bandwidth to predict a latency from, and is not at hand"
        raise UsageError(f"device {device.id}", fault, "name another device, or search on such a machine")
    return here and latency != "predicted"


def _has_peaks(device: Profile) -> bool:
    return bool(device.cpu.peak_gops) and device.memory.bandwidth_gb_s is not None


class Meter:
    """Finds out what candidates cost on one device.

    Args:
        device: its profile.
        engines: those of the recipe's bundle; none: all of the device. The first one counts.
        precisions: likewise.
        latency: `auto` measures where this machine is such a device.
        cache: of the run, where the machine's own figures are kept.
        quiet: makes the other workers hold still while a time is taken.

    Raises:
        UsageError: as `measures_here`.
        FoveolaError: the device has no such engine or precision.
    """

    def __init__(
        self,
        device: Profile,
        engines: tuple[EngineName, ...],
        precisions: tuple[Arithmetic, ...],
        *,
        latency: str,
        cache: Path,
        quiet: Quiet,
    ) -> None:
        self.here = measures_here(device, latency)
        self.device, self.precisions, self.cache, self.quiet = device, precisions, cache, quiet
        self.engine: EngineName = engines[0] if engines else device.engines[0].engine
        self.efficiency: Efficiency | None = None
        self.known = _has_peaks(device)
        self._candidate(quantised=True)

    def _candidate(self, *, quantised: bool) -> Candidate:
        listed = candidates(self.device, (self.engine,), precisions=self.precisions, quantised=quantised, nncf=False)
        return listed[0]

    def untrained(self, recipe: Recipe, student: str, dataset: Dataset) -> Cost | None:
        """Cost of a candidate before any training, not yet pruned; None where no step says what network it is.

        Args:
            recipe: the trial's.
            student: the step of its artefact.
            dataset: gives tasks and scale.

        Raises:
            FoveolaError: no such network, or the device refuses it.
        """
        step = made_by(recipe, student)
        if step is None:
            return None
        network = new_network("student", dataset, _shape(step), recipe.seed).eval()
        quantised = any(one.kind == "quantize" for one in recipe.steps)
        with tempfile.TemporaryDirectory(dir=self.cache) as scratch:
            folder = Path(scratch)
            sources = self._draft_sources(network, folder, quantised=quantised)
            form = self._form(self._candidate(quantised=quantised), sources, folder)
            open_form(form, network, _no_images(network), here=self.here)
            return self._cost(form, _noise(network, 1)[0], trained=False)

    def trained(self, of: Path, network: Network, dataset: Dataset, val: Arrays) -> tuple[Cost, RawAnswers | None]:
        """Cost of a finished artefact, and its answers to the validation images; None where no engine here runs it.

        Args:
            of: folder of the artefact's step.
            network: that of the folder.
            dataset: its calibration images may be needed anew.
            val: validation images.
        """
        with tempfile.TemporaryDirectory(dir=self.cache) as scratch:
            folder = Path(scratch)
            sources, _ = find_sources(of, network, dataset, self.device, folder, self.cache)
            quantised = (of / INT8_GRAPH).exists()
            form = self._form(self._candidate(quantised=quantised), sources, folder)
            open_form(form, network, val, here=self.here)
            return self._cost(form, np.array(val.images[:1])), form.answers

    def _draft_sources(self, network: Network, folder: Path, *, quantised: bool) -> Sources:
        float_graph, int8_graph = folder / "float.onnx", folder / "int8.onnx"
        export = self.device.export
        origins = export_onnx(as_graph(network), network.input, graph_outputs(network), float_graph, opset=export.opset)
        noise = _noise(network, NOISE)
        if quantised:
            quantize_onnx(float_graph, int8_graph, noise, weight_bits=export.weight_bits, min_images=1)
        return Sources(
            float_graph=float_graph,
            int8_graph=int8_graph if quantised else None,
            images=lambda: noise,
            input_type="float32",
            tensorrt=trt.versions if (trt := self.device.engine("tensorrt")) else "",
            weight_bits=export.weight_bits,
            origins=lambda: origins,
        )

    def _form(self, candidate: Candidate, sources: Sources, folder: Path) -> Form:
        form = write_form(candidate, sources, folder, None, self.device, here=self.here)
        error = next((one for one in form.findings if one.severity == "error"), None)
        if error is not None:
            raise FoveolaError(f"{self.device.id}: {error.place}", error.fault, error.mend)
        return form

    def _cost(self, form: Form, image: NDArray[np.float32], *, trained: bool = True) -> Cost:
        timing = Timing()
        if self.here and form.session is not None and form.candidate.target == "cpu":
            with self.quiet.alone():
                timing = measure({"one": form.session}, image)["one"]
        elif not self.here:
            timing = self._predicted(form)
        return Cost(
            latency_ms=timing.ms,
            size_mb=sum(map(len, form.members.values())) / MB,
            form=form.candidate.name,
            source=timing.source,
            trained=trained,
        )

    def shares(self) -> Efficiency:
        """What layers measured on this machine reach of its peaks; measured once a machine, and kept."""
        if self.efficiency is None:
            with self.quiet.alone():
                self.efficiency = calibrated(self.device, self.cache)
        return self.efficiency

    def _predicted(self, form: Form) -> Timing:
        """By what layers measured on this machine reach of its peaks; by the plain roofline beside the processor."""
        if form.candidate.target != "cpu":
            return foresee(form.candidate, form.layers, self.device)
        shares = self.shares()
        device = self.device if self.known else shares.on_this(self.device)
        found = predict_calibrated(form.layers, device, shares)
        return Timing() if found is None else Timing(ms=found.ms, source="predicted")


def _shape(step: Step) -> Shape:
    """The architecture that a stage's knobs describe."""
    known = {field: getattr(step.stage, field) for field in Shape.__struct_fields__ if hasattr(step.stage, field)}
    return Shape(**known)


def _noise(network: Network, count: int) -> list[NDArray[np.float32]]:
    spec, rng = network.input, np.random.default_rng(0)
    size = (1, spec.channels, spec.height, spec.width)
    return [rng.random(size, dtype=np.float32) for _ in range(count)]


def _no_images(network: Network) -> Arrays:
    """Validation images for a network whose answers nobody reads: none."""
    spec = network.input
    images = np.zeros((1, spec.channels, spec.height, spec.width), np.float32)
    return Arrays(images=images, scalars={}, masks={}, boxes={}, geometries=(), samples=())
