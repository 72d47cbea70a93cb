"""int8 by NNCF, for OpenVINO alone: as it comes by default, and as well as it can.

`nncf_default` is what an OpenVINO user would do today; the benchmark holds the student against it. `nncf_int8` is a
variant that can ship:

- the last layer of each head stays float, found by walking back from the results, never by name;
- biases are corrected layer by layer (Nagel et al., ICCV 2019, sec. 4.2); the fast form, NNCF's default, costs
  MobileNetV3-like networks their accuracy (57.9 to 42.2 % in one published case);
- weights are limited to 7 bits where the device's CPU saturates, and nowhere else (NNCF's default limits the first
  layer on every device);
- with a `slack`, layers go back to float until the worst task keeps its margin ("accuracy control").

Telemetry is off.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from ..runtime.engine import Tensor, as_input
from ..runtime.errors import FoveolaError, MissingPartError
from ..runtime.manifest import InputType
from ..runtime.offline import forbid_telemetry
from .onnx_graph import INPUT, quiet
from .openvino_ir import read_model, save_ir

Run = Callable[[Tensor], dict[str, NDArray[np.float32]]]
Slack = Callable[[Run], float]  # of an artefact that can be asked: 1 for the float graph, 0 at the margin

_LAYERS = ("Convolution", "GroupConvolution", "MatMul")
RANKED = 16  # images by which NNCF ranks layers


def nncf_default(source: Path, xml: Path, images: Sequence[NDArray[np.float32]]) -> None:
    """Quantise a float graph with NNCF's default settings and write it as IR.

    Args:
        source: float32 ONNX graph as `export_onnx` writes it.
        xml: file to write; its `.bin` comes beside it.
        images: calibration inputs, float32 (1, C, H, W); all of them are used (NNCF's own default is at most 300).

    Raises:
        MissingPartError: NNCF is not installed.
    """
    nncf = _import_nncf()
    model = read_model(source)
    with quiet():
        dataset = nncf.Dataset(list(images), lambda image: {INPUT: image})
        quantised = nncf.quantize(model, dataset, subset_size=len(images))
    save_ir(quantised, xml)


def nncf_int8(
    source: Path,
    xml: Path,
    images: Sequence[Tensor],
    *,
    weight_bits: Literal[7, 8] = 8,
    slack: Slack | None = None,
    min_slack: float = 0.0,
) -> tuple[str, ...]:
    """Quantise a float graph with NNCF, see the rules above, and write it as IR.

    Args:
        source: float32 ONNX graph as `export_onnx` writes it.
        xml: file to write; its `.bin` comes beside it.
        images: calibration inputs (1, C, H, W) of the graph's own type.
        weight_bits: 7 where the device's CPU adds byte products in 16 bits.
        slack: asked about the float graph and about candidates; None: no accuracy control.
        min_slack: least slack that is good enough.

    Returns:
        Names of the layers that were left in float on purpose: the last of every head.

    Raises:
        MissingPartError: NNCF is not installed.
        FoveolaError: every layer is the last of a head.
    """
    nncf = _import_nncf()
    model = read_model(source)
    heads = last_layers(model)
    layers = [node for node in model.get_ops() if node.get_type_name() in _LAYERS]
    if len(heads) == len(layers):
        raise FoveolaError("quantize", "no layer can be quantised: each is the last of a head", "use a deeper network")
    parameters = nncf.quantization.advanced_parameters
    overflow = parameters.OverflowFix.ENABLE if weight_bits == 7 else parameters.OverflowFix.DISABLE
    settings: dict[str, Any] = {
        "subset_size": len(images),
        "fast_bias_correction": False,
        "ignored_scope": nncf.IgnoredScope(names=sorted({*heads, *_behind(model, heads)})),
    }
    advanced = parameters.AdvancedQuantizationParameters(overflow_fix=overflow)
    with quiet():
        dataset = nncf.Dataset(list(images), lambda image: {INPUT: image})
        if slack is None:
            quantised = nncf.quantize(model, dataset, advanced_parameters=advanced, **settings)
        else:
            quantised = nncf.quantize_with_accuracy_control(
                model,
                dataset,
                nncf.Dataset([0]),  # the slack brings its own images
                _validation(slack),
                max_drop=1.0 - min_slack,
                advanced_quantization_parameters=advanced,
                advanced_accuracy_restorer_parameters=parameters.AdvancedAccuracyRestorerParameters(
                    ranking_subset_size=RANKED
                ),
                **settings,
            )
    save_ir(quantised, xml)
    return heads


def last_layers(model: Any) -> tuple[str, ...]:
    """Name the last layer of each head of an `openvino.Model`: the first one met on every way back from a result."""
    found: dict[str, None] = {}
    waiting = [result.input_value(0).get_node() for result in model.get_results()]
    seen = set()
    while waiting:
        node = waiting.pop()
        name = node.get_friendly_name()
        if name in seen:
            continue
        seen.add(name)
        if node.get_type_name() in _LAYERS:
            found[name] = None
        else:
            waiting += [value.get_node() for value in node.input_values()]
    return tuple(sorted(found))


def _behind(model: Any, heads: Sequence[str]) -> list[str]:
    """Name what computes with a last layer's answer, up to the next layer: masks' sizes, a detector's corners."""
    names: list[str] = []
    answers = set(heads)
    for node in model.get_ordered_ops():
        name = node.get_friendly_name()
        if node.get_type_name() in ("Constant", "Parameter", "Result", *_LAYERS):
            continue
        if any(value.get_node().get_friendly_name() in answers for value in node.input_values()):
            answers.add(name)
            names.append(name)
    return names


def _validation(slack: Slack) -> Callable[[Any, Iterable[Any]], tuple[float, None]]:
    """A slack as NNCF asks for it: called with a compiled model and the data set."""

    def validate(compiled: Any, _: Iterable[Any]) -> tuple[float, None]:
        names = [output.any_name for output in compiled.outputs]
        kind: InputType = "uint16" if compiled.inputs[0].element_type.to_string() == "u16" else "float32"

        def run(image: Tensor) -> dict[str, NDArray[np.float32]]:
            # OpenVINO would cut floats in 0..1 down to the words 0 and 1 without a word.
            answers = compiled(as_input(image, kind))
            return {name: np.array(answers[place]) for place, name in enumerate(names)}

        return slack(run), None

    return validate


def _import_nncf() -> Any:
    forbid_telemetry()
    try:
        with quiet():
            import nncf
            import nncf.quantization.advanced_parameters
    except ImportError:
        raise MissingPartError("nncf", "is not installed", "pip install 'foveola[toolkit]'") from None
    nncf.set_log_level(logging.ERROR)
    return nncf
