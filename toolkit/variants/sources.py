"""What all forms of a student are made of: its float graph, its int8 graph, and the images that calibrated it.

The student's own step has them as its recipe's device wanted them. For a device that wants another opset or other
weights they are made again, on the same images and by the same method.
"""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

import msgspec
import numpy as np
import onnx
from numpy.typing import NDArray

from ...devices.profile import Profile
from ...export.calibrate import Method, Range, read_ranges
from ...export.corrections import CORRECTIONS, Corrections, load_corrections
from ...export.features import feature_map
from ...export.onnx_graph import Origins, export_onnx
from ...export.placement import LAYERS
from ...export.quantize import quantize_onnx
from ...export.saturation.integer_layers import unproved_layers
from ...runtime.errors import FoveolaError
from ...runtime.manifest import Calibration, InputType
from ..compress.overflow import SATURATION, SaturationRecord
from ..compress.quantise import CALIBRATION, FLOAT_GRAPH, INT8_GRAPH, RANGES
from ..data.arrays import prepare_arrays
from ..data.dataset import Dataset, calibration_set, images_digest
from ..models.dense_teacher import as_graph
from ..models.network import Network
from ..models.outputs import graph_outputs
from .write import SHOWN, Images, Sources

NOT_CALIBRATED = Calibration(method="none", images=0, min_images=0, images_digest="0" * 64)


def find_sources(
    of: Path,
    network: Network,
    dataset: Dataset,
    device: Profile,
    folder: Path,
    cache: Path,
    *,
    input_type: InputType = "float32",
    features: bool = False,
) -> tuple[Sources, Calibration]:
    """Find the sources of all forms, or make them where the device wants others.

    Args:
        of: folder of the student, quantised or not.
        network: that student.
        dataset: holds the calibration images.
        device: the profile.
        folder: where new graphs go.
        cache: where decoded images are kept.
        input_type: of the graphs that ship.
        features: whether they get a second output (see `export.features`).

    Raises:
        FoveolaError: graphs must be made anew and the calibration images are gone.
    """
    record = NOT_CALIBRATED
    if (of / CALIBRATION).exists():
        record = msgspec.json.decode((of / CALIBRATION).read_bytes(), type=Calibration)
    images = _calibration_images(dataset, record, network, cache)
    float_graph = of / FLOAT_GRAPH
    if not float_graph.exists() or _opset(float_graph) > device.export.opset:
        float_graph = folder / FLOAT_GRAPH
        export_onnx(as_graph(network), network.input, graph_outputs(network), float_graph, opset=device.export.opset)
    int8_graph = of / INT8_GRAPH if record is not NOT_CALIBRATED else None
    method: Method = "minmax" if record.method == "none" or record.method == "learned" else record.method
    ranges, corrections = _known(of, float_graph, record)
    kept = _kept_float(int8_graph, float_graph) if int8_graph is not None else ()
    if int8_graph is not None and not _fits(int8_graph, of / SATURATION, device):
        int8_graph = folder / "int8.onnx"
        quantize_onnx(
            float_graph,
            int8_graph,
            images(),
            method=method,
            weight_bits=device.export.weight_bits,
            overflow="fit",
            float_layers=kept,
            min_images=record.min_images,
            ranges=ranges,
            corrections=corrections,
        )
    sources = Sources(
        float_graph=float_graph,
        int8_graph=int8_graph,
        images=images,
        method=method,
        float_layers=kept,
        ranges=ranges,
        corrections=corrections,
        input_type=input_type,
        tensorrt=trt.versions if (trt := device.engine("tensorrt")) else "",
        weight_bits=device.export.weight_bits,
        origins=lru_cache(maxsize=1)(lambda: _origins(network, device, folder)),
        features=feature_map(float_graph) if features else "",
    )
    return sources, record


def _known(of: Path, float_graph: Path, record: Calibration) -> tuple[dict[str, Range] | None, Corrections]:
    """The step's own ranges and corrections, which hold for its own float graph and for none that was made anew.

    Raises:
        FoveolaError: the ranges were learned, and another opset numbers the graph's tensors anew.
    """
    own = of / FLOAT_GRAPH
    if not (of / RANGES).exists() or not own.exists() or record is NOT_CALIBRATED:
        return None, Corrections()
    if float_graph == own or _tensors(float_graph) == _tensors(own):
        equalised = float_graph != own and _weights(float_graph) != _weights(own)
        if not equalised:
            return read_ranges(of / RANGES), load_corrections(of / CORRECTIONS)
    if record.method == "learned":
        fault = "the ranges were learned for another opset than the device's"
        raise FoveolaError(str(of), fault, "train and quantise the student with this device in the recipe")
    return None, Corrections()


def _tensors(path: Path) -> list[str]:
    return [name for node in onnx.load(path).graph.node for name in (node.op_type, *node.output)]


def _weights(path: Path) -> dict[str, bytes]:
    return {tensor.name: tensor.raw_data for tensor in onnx.load(path).graph.initializer}


def _origins(network: Network, device: Profile, folder: Path) -> Origins:
    """The module of each node: those of any export of this network, since nodes are numbered in graph order."""
    names = graph_outputs(network)
    return export_onnx(as_graph(network), network.input, names, folder / "again.onnx", opset=device.export.opset)


def _fits(int8_graph: Path, saturation: Path, device: Profile) -> bool:
    """Whether the student's int8 graph is what the device wants: no newer opset, and weights of its kind."""
    if _opset(int8_graph) > device.export.opset:
        return False
    if saturation.exists():
        record = msgspec.json.decode(saturation.read_bytes(), type=SaturationRecord)
        return record.weight_bits == device.export.weight_bits
    return device.export.weight_bits == 8 or not unproved_layers(int8_graph)


def _kept_float(int8_graph: Path, float_graph: Path) -> tuple[str, ...]:
    """Layers that stand in float in an int8 graph, by their names in a float graph of the same network.

    Another opset may number the nodes otherwise; the layers stand in one order in both.
    """
    quantised, plain = _layers(int8_graph), _layers(float_graph)
    if len(quantised) != len(plain):
        fault = f"has {len(quantised)} layers, and the student {len(plain)}"
        raise FoveolaError(str(int8_graph), fault, "quantise the student anew")
    return tuple(name for (name, _), (_, integer) in zip(plain.items(), quantised.items(), strict=True) if not integer)


def _layers(path: Path) -> dict[str, bool]:
    """The layers with constant weights, in order, and whether these are integers."""
    graph = onnx.load(path).graph
    constants = {tensor.name for tensor in graph.initializer}
    integers = {
        node.output[0] for node in graph.node if node.op_type == "DequantizeLinear" and node.input[0] in constants
    }
    layers = [node for node in graph.node if node.op_type in LAYERS]
    return {node.name: node.input[1] in integers for node in layers if node.input[1] in constants | integers}


def _opset(graph: Path) -> int:
    imports = onnx.load(graph).opset_import
    return next(int(entry.version) for entry in imports if not entry.domain)


def _calibration_images(dataset: Dataset, record: Calibration, network: Network, cache: Path) -> Images:
    """The images on which the portable graph was calibrated, found again by their digest.

    A student in float was calibrated on none; some of the same split show which values a typed graph must hold.
    """

    def read() -> list[NDArray[np.float32]]:
        for split in ("calibration", "val"):
            if not len(dataset.subset(split)):
                continue
            chosen = calibration_set(dataset, split, record.images or SHOWN, 1)
            if record is NOT_CALIBRATED or images_digest(chosen) == record.images_digest:
                arrays = prepare_arrays(chosen, network.input, cache=cache)
                return [np.array(arrays.images[i : i + 1]) for i in range(len(arrays))]
        fault = f"the {record.images} images that calibrated the student are not among its data"
        raise FoveolaError(str(dataset.root), fault, "quantise the student anew on these data")

    return read
