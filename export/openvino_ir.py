"""An ONNX graph as OpenVINO IR: an `.xml` and a `.bin` of the same stem, the same bytes every time.

Three of OpenVINO's defaults are overruled: weights are not rounded to 16 bits on saving unless asked for, layers
are named in graph order (their own names count everything that the process has built before), and nothing is reported
to anyone.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ..runtime.errors import FoveolaError
from ..runtime.offline import forbid_telemetry


def write_ir(onnx: Path, xml: Path, *, half: bool = False) -> None:
    """Convert a graph; `xml` and the `.bin` beside it are written.

    Args:
        onnx: float32 or QDQ int8 graph.
        xml: file to write, ending in `.xml`.
        half: store the weights as float16, for a device that computes with them; otherwise no weight is rounded.

    Raises:
        FoveolaError: OpenVINO cannot read the graph.
    """
    save_ir(read_model(onnx), xml, half=half)


def read_model(path: Path) -> Any:
    """Read an ONNX or IR file as an `openvino.Model`."""
    forbid_telemetry()
    import openvino
    from openvino._offline_transformations import apply_moc_transformations

    try:
        model = openvino.Core().read_model(path.read_bytes())
    except RuntimeError as error:
        reason = str(error).strip().splitlines()[-1]
        raise FoveolaError(path.name, f"OpenVINO cannot read the graph: {reason}", "take another operator") from None
    # What `openvino.convert_model` does next, without its telemetry: shapes are folded, integer weights stay integers.
    # The file is half as long and opens faster on the device.
    apply_moc_transformations(model, True)
    return model


def save_ir(model: Any, xml: Path, *, half: bool = False) -> None:
    """Write an `openvino.Model`; it gets new layer names and loses notes about its making."""
    import openvino

    for index, node in enumerate(model.get_ordered_ops()):
        kind = node.get_type_name()
        if kind != "Parameter":
            node.set_friendly_name(f"{kind.lower()}_{index}")
    model.set_friendly_name("foveola")
    openvino.save_model(model, str(xml), compress_to_fp16=half)
