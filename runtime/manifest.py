"""The manifest of a bundle: all that was validated beside the graph itself.

Reader and writer stand side by side: `decode_manifest(encode_manifest(m)) == m`, and equal manifests give equal bytes.
Unknown fields, unknown kinds and a format from the future are refused, never skipped: what was validated is what runs.
"""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec

from .errors import FoveolaError
from .histogram import Reference
from .task import Kind, Task

FORMAT = 1  # raised whenever an older reader would misread a newer manifest

TEMPERED: tuple[Kind, ...] = ("binary", "multilabel", "multiclass", "ordinal")  # kinds that have a temperature

Positive = Annotated[int, msgspec.Meta(gt=0)]
Temperature = Annotated[float, msgspec.Meta(ge=0.01, le=100)]  # beyond it a probability says nothing any more
Sha256 = Annotated[str, msgspec.Meta(pattern="^[0-9a-f]{64}$")]


class InputSpec(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """How an image file becomes the network's input: float32 (1, channels, height, width) in 0..1.

    Args:
        height: rows of the input.
        width: columns of the input.
        channels: 1 for radiographs, 3 for colour.
        crop: `fov` crops to the fundus camera's field of view first.
        fit: `pad` keeps the aspect ratio and fills with black; `stretch` does not.
        window: `full` maps the file's whole range to 0..1; `percentile` maps the percentiles `low` and `high` of the
            image's pixels to 0 and 1 and clips.
        low: lower percentile.
        high: upper percentile.
        mean: per channel, subtracted inside the graph (its first layer), not on the device.
        std: per channel, divided by inside the graph.
    """

    height: Positive
    width: Positive
    channels: Literal[1, 3]
    crop: Literal["none", "fov"] = "none"
    fit: Literal["pad", "stretch"] = "pad"
    window: Literal["full", "percentile"] = "full"
    low: float = 0.5
    high: float = 99.5
    mean: tuple[float, ...] = (0.5,)
    std: tuple[float, ...] = (0.25,)


class TaskOutput(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """How the graph's raw outputs become one task's answer.

    Args:
        task: the task; its classes are the labels of the answer.
        tensors: names of the graph's outputs; detection has two, boxes (1, 4, h, w) and scores (1, C, h, w).
        thresholds: the locked decision threshold of each class that has one (binary: one; multilabel: C; detection: C;
            sigmoid segmentation: C), as probabilities.
        mean: regression: answer = raw * std + mean, per measure.
        std: regression.
        temperature: binary, multilabel, multiclass, ordinal: raw outputs are divided by it before they become
            probabilities (Guo et al. 2017); 1 leaves them as they are.
        stride: detection: input pixels per grid cell.
        nms_iou: detection: overlap (IoU) above which the weaker of two boxes of a label is dropped.
        score_floor: detection: boxes below are not reported at all.
        max_boxes: detection: at most so many boxes an image.
    """

    task: Task
    tensors: tuple[str, ...]
    thresholds: tuple[float, ...] = ()
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()
    temperature: Temperature = 1.0
    stride: int = 0
    nms_iou: float = 0.5
    score_floor: float = 0.05
    max_boxes: int = 100

    def __post_init__(self) -> None:
        """Refuse a temperature that nothing would be divided by.

        Raises:
            ValueError: the kind has none.
        """
        if self.temperature != 1.0 and self.task.kind not in TEMPERED:
            raise ValueError(f"task {self.task.name!r}: {self.task.kind} has no temperature")


class OnnxRuntimeOptions(
    msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True, tag="onnxruntime", tag_field="engine"
):
    """The only settings under which the graph was validated on ONNX Runtime."""

    graph: str = "model.onnx"
    arithmetic: Literal["int8", "float32"] = "int8"
    graph_optimization: Literal["disable", "basic", "extended", "all"] = "all"
    threads: Positive = 2
    spinning: bool = True


class OpenVinoOptions(
    msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True, tag="openvino", tag_field="engine"
):
    """The only settings under which the graph was validated on OpenVINO's CPU plugin."""

    graph: str = "openvino.xml"
    weights: str = "openvino.bin"
    arithmetic: Literal["int8", "float32"] = "int8"
    # OpenVINO computes float layers in bf16 by default where the CPU can; the hint is always set.
    inference_precision: Literal["f32"] = "f32"
    threads: Positive = 2


EngineOptions = OnnxRuntimeOptions | OpenVinoOptions
EngineName = Literal["onnxruntime", "openvino"]


class OutputDifference(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """An artefact against torch on the same real images, for one graph output."""

    tensor: str
    largest: float
    mean: float
    decisions: int  # decisions compared (cases times classes; segmentation: pixels; detection: cells)
    flips: int  # decisions that differ


class Comparison(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One engine's artefact against the student in torch (float32), measured when the artefact was made."""

    engine: EngineName
    images: int
    outputs: tuple[OutputDifference, ...]


class Calibration(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """On what the quantisation ranges were measured."""

    method: Literal["none", "minmax", "percentile", "entropy"]
    images: int
    min_images: int  # what the recipe asked for; 128 unless it names a smaller number
    images_digest: str  # over the sorted sha256 of the image files


class TemperatureFit(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """How a task's temperature was fitted: negative log-likelihood a case, in nats, before and after."""

    task: str
    split: str
    images: int
    temperature: Temperature
    before: float
    after: float


class Provenance(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Where the network comes from, by digest; no time and no path, so that equal inputs give equal bytes."""

    recipe: str
    recipe_digest: str
    data_digest: str
    teacher_digest: str
    student_digest: str
    seed: int
    versions: dict[str, str]  # package -> version
    network: str = ""  # name of the student's architecture
    pruning: str = ""  # what pruning took, in words; `none`


class Manifest(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What the bundle is. `format` is read first and must be known."""

    format: int
    name: str
    version: str
    device: str
    input: InputSpec
    outputs: tuple[TaskOutput, ...]
    engines: tuple[EngineOptions, ...]
    calibration: Calibration
    comparisons: tuple[Comparison, ...] = ()
    temperatures: tuple[TemperatureFit, ...] = ()
    reference: Reference | None = None
    provenance: Provenance


class _Format(msgspec.Struct):
    format: int


def encode_manifest(manifest: Manifest) -> bytes:
    """Canonical JSON: keys sorted, two spaces, one newline at the end."""
    raw = msgspec.json.encode(manifest, order="sorted")
    return msgspec.json.format(raw, indent=2) + b"\n"


def decode_manifest(data: bytes, place: str = "manifest.json") -> Manifest:
    """Bytes to a checked manifest.

    Raises:
        FoveolaError: not JSON, a field unknown, missing or of another type, or a format of a later Foveola.
    """
    try:
        number = msgspec.json.decode(data, type=_Format).format
        if number > FORMAT:
            raise FoveolaError(
                place, f"format {number} is newer than this runtime's {FORMAT}", "update foveola on the device"
            )
        manifest = msgspec.json.decode(data, type=Manifest)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise FoveolaError(place, f"not a valid manifest: {error}", "make the bundle anew") from None
    if manifest.format != FORMAT:
        raise FoveolaError(place, f"format {manifest.format} is unknown", f"this runtime reads format {FORMAT}")
    return manifest
