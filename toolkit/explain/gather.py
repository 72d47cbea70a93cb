"""The whole story of an explanation: graphs, layers, times, noise, sensitivities, widths, parts.

    found = explain_student(folder, "demo:int8", dataset, device=None, cache=cache, progress=progress)
    found.parts, found.layers, found.notes

What costs time has a limit; what could not be found out is told in `notes`.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import msgspec
import numpy as np
from numpy.typing import NDArray

from ...devices.machine import examine
from ...devices.profile import Profile, load_profile
from ...export.calibrate import read_ranges
from ...export.layer_error import layer_sqnr
from ...export.layer_times import LayerTimes, layer_times
from ...export.onnx_graph import export_onnx
from ...runtime.errors import MissingPartError
from ..compress.overflow import SATURATION, SaturationRecord
from ..compress.prune.record import pruning_of
from ..compress.quantise import FLOAT_GRAPH, INT8_GRAPH, RANGES
from ..compress.sensitivity import ERROR_IMAGES, SENSITIVITY, Sensitivity
from ..data.arrays import Arrays, prepare_arrays
from ..data.dataset import Dataset
from ..models.dense_teacher import as_graph
from ..models.network import Network, load_network
from ..models.outputs import graph_outputs
from ..plan import read_record
from .graph import kind_of_part, read_layers
from .machine import calibrated, foresee, options_here
from .record import Explained, Foreseen, Layer, Part, Timed
from .sensitivity import part_slacks
from .widths import widths_before

OPSET = 20  # of a float graph that is written only to be looked at
RUNS, RUNS_CHEAP = 25, 10
SQNR_IMAGES, SQNR_CHEAP = 16, 4
CALIBRATION_IMAGES = 32
SLACK_IMAGES = 64
LIMIT_S = 90.0  # for the sensitivities
HERE = "generic-x86"  # engine and threads where no device is named

Progress = Callable[[float, float, str], None]


def explain_student(
    folder: Path,
    name: str,
    dataset: Dataset | None,
    *,
    device: str | None = None,
    cache: Path,
    deep: bool = True,
    predict: bool = True,
    limit_s: float = LIMIT_S,
    progress: Progress,
) -> Explained:
    """Find out what a student is made of.

    Args:
        folder: of a finished step that holds a network, quantised or not.
        name: how the explanation names it.
        dataset: its images; None leaves out what needs them.
        device: profile whose engine and threads are used; None: those of a usual PC.
        cache: folder for what can be made again.
        deep: also the sensitivities of the tasks, with more images and runs.
        predict: also a time for the device, where one is named; calibrates the roofline on this machine once.
        limit_s: seconds after which no further sensitivity is begun.
        progress: called with (done, total, text).

    Raises:
        FoveolaError: a graph or a record that cannot be read.
    """
    network, notes = load_network(folder), list[str]()
    with tempfile.TemporaryDirectory() as scratch:
        progress(0, 6, "reading the graphs")
        graphs = _graphs(folder, network, Path(scratch))
        reasons = _reasons(graphs.sensitivity)
        layers = read_layers(graphs.plain, graphs.int8, modules=graphs.modules, asked=graphs.asked, reasons=reasons)
        layers = _with_saturation(layers, graphs.saturation)
        layers = _with_sensitivity(layers, graphs.sensitivity)
        layers = _with_widths(layers, widths_before(network.architecture))
        val = _some(dataset, "val", SLACK_IMAGES if deep else SQNR_CHEAP, network, cache)
        progress(1, 6, "timing the layers")
        layers, timed = _with_times(layers, graphs, network, device, RUNS if deep else RUNS_CHEAP, val, notes)
        images = [] if val is None else [np.array(val.images[i : i + 1]) for i in range(len(val))]
        progress(2, 6, "measuring the noise of quantisation")
        layers = _with_noise(layers, graphs, images[: SQNR_IMAGES if deep else SQNR_CHEAP], notes)
        progress(3, 6, "looking at the tasks")
        slacks = _slacks(layers, graphs, network, dataset, val, cache, limit_s, notes, progress) if deep else {}
        progress(5, 6, "predicting")
        foreseen = _foreseen(graphs, load_profile(device), cache, notes) if device and predict else None
    structure, pruning = network.architecture.structure, pruning_of(folder, network.architecture)
    spec = network.input
    progress(6, 6, "explained")
    return Explained(
        name=name,
        step=graphs.stage,
        backbone=network.architecture.backbone,
        input=(spec.height, spec.width, spec.channels),
        tasks=tuple(task.name for task in network.tasks),
        quantised=graphs.int8 is not None,
        layers=layers,
        parts=parts_of(layers, slacks),
        timed=timed,
        foreseen=foreseen,
        sqnr_images=_noise_images(graphs, min(len(images), SQNR_IMAGES if deep else SQNR_CHEAP)),
        slack_images=len(images) if slacks else graphs.sensitivity.images if graphs.sensitivity else 0,
        merged=structure.merged,
        folded=len(structure.folded),
        pruning=pruning.removeprefix("none"),
        notes=tuple(notes),
    )


def parts_of(layers: Sequence[Layer], slacks: Mapping[str, Mapping[str, float]]) -> tuple[Part, ...]:
    """Sum the layers of each part, in graph order; the heads come last."""
    names = dict.fromkeys(layer.part for layer in layers)
    ordered = sorted(names, key=lambda name: kind_of_part(name) == "head")
    return tuple(
        _part(name, [layer for layer in layers if layer.part == name], slacks.get(name, {})) for name in ordered
    )


class _Graphs(msgspec.Struct, frozen=True, kw_only=True):
    """A student's graphs and what its step has recorded of them."""

    stage: str
    plain: Path
    int8: Path | None
    modules: Mapping[str, str]
    asked: tuple[str, ...]
    saturation: SaturationRecord | None
    sensitivity: Sensitivity | None
    learned: Path | None  # ranges that quantisation-aware training has learned

    @property
    def ships(self) -> Path:
        return self.int8 or self.plain


def _graphs(folder: Path, network: Network, scratch: Path) -> _Graphs:
    """The step's own graphs; of a student in float one is written."""
    record = read_record(folder)
    knobs = record.identity.knobs if record else {}
    asked = knobs.get("float_layers")
    plain, int8 = folder / FLOAT_GRAPH, folder / INT8_GRAPH
    modules: Mapping[str, str] = {}
    if not plain.exists():
        plain = scratch / FLOAT_GRAPH
        modules = export_onnx(as_graph(network), network.input, graph_outputs(network), plain, opset=OPSET)
    saturation = None
    if (folder / SATURATION).exists():
        saturation = msgspec.json.decode((folder / SATURATION).read_bytes(), type=SaturationRecord)
        modules = modules or {one.layer: one.module for one in saturation.written.layers if one.module}
    sensitivity = None
    if (folder / SENSITIVITY).exists():
        sensitivity = msgspec.json.decode((folder / SENSITIVITY).read_bytes(), type=Sensitivity)
        modules = {one.layer: one.module for one in sensitivity.layers if one.module} | dict(modules)
    return _Graphs(
        stage=record.identity.stage if record else "",
        plain=plain,
        int8=int8 if int8.exists() else None,
        modules=modules,
        asked=tuple(map(str, asked)) if isinstance(asked, list | tuple) else (),
        saturation=saturation,
        sensitivity=sensitivity,
        learned=folder / RANGES if (folder / RANGES).exists() else None,
    )


def _reasons(record: Sensitivity | None) -> dict[str, str]:
    """Why the search for mixed precision has put layers back to float, where there was one."""
    found = {}
    for one in record.layers if record else ():
        if one.why == "sensitive":
            task, slack = min(one.slack.items(), key=lambda pair: pair[1], default=("", 1.0))
            told = f": quantised alone it leaves {task} {slack:.2f} of its margin" if task else ""
            found[one.layer] = f"sensitive{told}; SQNR of its own {one.own_db:.1f} dB"
    return found


def _with_sensitivity(layers: tuple[Layer, ...], record: Sensitivity | None) -> tuple[Layer, ...]:
    """What quantisation has recorded of its layers: their noise, and each task's slack."""
    known = {one.layer: one for one in record.layers} if record else {}
    return tuple(
        msgspec.structs.replace(
            layer,
            sqnr_db=known[layer.node].sqnr_db,
            own_db=known[layer.node].own_db,
            slacks=known[layer.node].slack,
        )
        if layer.node in known
        else layer
        for layer in layers
    )


def _noise_images(graphs: _Graphs, measured: int) -> int:
    """Images on which the noise was measured: by the step itself, or now."""
    if graphs.int8 is None:
        return 0
    return ERROR_IMAGES if graphs.sensitivity is not None else measured


def _with_saturation(layers: tuple[Layer, ...], record: SaturationRecord | None) -> tuple[Layer, ...]:
    """What the lint says of the graph as it would be with 8-bit weights; where that was cured, it is proved."""
    if record is None:
        return layers
    uncured = {one.layer: one for one in (record.uncured or record.written).layers}
    written = {one.layer: one for one in record.written.layers}
    return tuple(
        msgspec.structs.replace(layer, clipped=uncured[layer.node].share, proved=written[layer.node].proved)
        if layer.node in uncured and layer.node in written
        else layer
        for layer in layers
    )


def _with_widths(layers: tuple[Layer, ...], before: Mapping[str, int]) -> tuple[Layer, ...]:
    return tuple(
        msgspec.structs.replace(layer, pruned_from=before[layer.module])
        if layer.weighted and layer.module in before
        else layer
        for layer in layers
    )


def _with_times(
    layers: tuple[Layer, ...],
    graphs: _Graphs,
    network: Network,
    device: str | None,
    runs: int,
    val: Arrays | None,
    notes: list[str],
) -> tuple[tuple[Layer, ...], Timed | None]:
    """Time both graphs in the first engine of the device that runs here."""
    spec = network.input
    tensor = np.random.default_rng(0).random((1, spec.channels, spec.height, spec.width), np.float32)
    if val is not None:
        tensor = np.array(val.images[:1])
    try:
        options = options_here(load_profile(device or HERE))
        ships = layer_times(graphs.ships, options, tensor, runs=runs)
        plain = layer_times(graphs.plain, options, tensor, runs=runs) if graphs.int8 else ships
    except MissingPartError as error:
        notes.append(f"no times: {error}")
        return layers, None
    found = tuple(
        msgspec.structs.replace(layer, ms=ships.layers.get(layer.node, 0.0), float_ms=plain.layers.get(layer.node, 0.0))
        for layer in layers
    )
    return found, _timed(ships, plain if graphs.int8 else None)


def _timed(ships: LayerTimes, plain: LayerTimes | None) -> Timed:
    machine = examine()
    return Timed(
        engine=ships.engine,
        version=ships.version,
        threads=ships.threads,
        machine=machine.model or machine.architecture,
        runs=ships.runs,
        ms=ships.whole_ms,
        float_ms=None if plain is None else plain.whole_ms,
        own_ms=ships.own_ms,
    )


def _with_noise(
    layers: tuple[Layer, ...], graphs: _Graphs, images: Sequence[NDArray[np.float32]], notes: list[str]
) -> tuple[Layer, ...]:
    if graphs.int8 is None or graphs.sensitivity is not None:
        return layers
    if not images:
        notes.append("no SQNR and no sensitivities: no images are known; name them with --of or --data")
        return layers
    noise = layer_sqnr(graphs.plain, graphs.int8, images)
    own = layer_sqnr(graphs.plain, graphs.int8, images, alone=True)
    return tuple(
        msgspec.structs.replace(layer, sqnr_db=noise.get(layer.node), own_db=own.get(layer.node)) for layer in layers
    )


def _slacks(
    layers: Sequence[Layer],
    graphs: _Graphs,
    network: Network,
    dataset: Dataset | None,
    val: Arrays | None,
    cache: Path,
    limit_s: float,
    notes: list[str],
    progress: Progress,
) -> dict[str, dict[str, float]]:
    """The tasks' slack, part by part; where quantisation has measured it layer by layer, there is no need."""
    if graphs.int8 is None or val is None or any(layer.slacks for layer in layers):
        return {}
    shown = _some(dataset, "calibration", CALIBRATION_IMAGES, network, cache) or val
    images = [np.array(shown.images[i : i + 1]) for i in range(min(len(shown), CALIBRATION_IMAGES))]
    parts: dict[str, list[str]] = {}
    for layer in layers:
        if layer.weighted and layer.arithmetic == "int8":
            parts.setdefault(layer.part, []).append(layer.node)
    found = part_slacks(
        graphs.plain,
        parts,
        network,
        images,
        val,
        ranges=read_ranges(graphs.learned) if graphs.learned else None,
        limit_s=limit_s,
        progress=lambda done, total, text: progress(3 + 2 * done / max(total, 1), 6, text),
    )
    left = [part for part in parts if part not in found]
    if left:
        notes.append(f"no sensitivities for {', '.join(left)}: they took longer than {limit_s:.0f} s")
    if not any(found.values()):
        notes.append("no sensitivities: no validation image has a target that could be scored")
    return found


def _foreseen(graphs: _Graphs, device: Profile, cache: Path, notes: list[str]) -> Foreseen | None:
    try:
        efficiency = calibrated(device, cache)
    except MissingPartError as error:
        notes.append(f"no prediction: {error}")
        return None
    here = foresee(graphs.ships, efficiency.on_this(device), efficiency)
    found = foresee(graphs.ships, device, efficiency)
    if found is None:
        notes.append(f"no prediction for {device.id}: its profile knows no peak or no bandwidth")
    return Foreseen(
        device=device.id,
        prediction=found,
        float_prediction=foresee(graphs.plain, device, efficiency) if graphs.int8 else None,
        measured_on=efficiency.machine,
        here_ms=None if here is None else here.ms,
    )


def _some(dataset: Dataset | None, split: str, most: int, network: Network, cache: Path) -> Arrays | None:
    """Some images of a split with their targets, spread evenly; None where there are none."""
    images = dataset.subset(split) if dataset is not None else None
    if images is None or not len(images):
        return None
    places = np.unique(np.linspace(0, len(images) - 1, min(most, len(images))).round().astype(int))
    return prepare_arrays(images.take(places), network.input, cache=cache)


def _part(name: str, layers: Sequence[Layer], slacks: Mapping[str, float]) -> Part:
    weighted = [layer for layer in layers if layer.weighted]
    noise = [layer.sqnr_db for layer in weighted if layer.sqnr_db is not None]
    return Part(
        name=name,
        kind=kind_of_part(name),
        layers=len(weighted),
        float_layers=sum(bool(layer.kept_float) for layer in weighted),
        parameters=sum(layer.parameters for layer in layers),
        macs=sum(layer.macs for layer in layers),
        ms=_sum([layer.ms for layer in layers]),
        float_ms=_sum([layer.float_ms for layer in layers]),
        least_db=min(noise, default=None),
        slacks=dict(slacks),
    )


def _sum(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) if known else None
