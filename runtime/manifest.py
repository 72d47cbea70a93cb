"""The manifest of a bundle: all that was validated beside the graph itself.

Reader and writer stand side by side: `decode_manifest(encode_manifest(m)) == m`, and equal manifests give equal bytes.
Unknown fields, unknown kinds and a format from the future are refused, never skipped: what was validated is what runs.
"""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec

from .dicom.rule import SourceRule
from .errors import FoveolaError
from .fitness.manifest import Fitness
from .histogram import Reference
from .task import Kind, Task

FORMAT = 1  # raised whenever an older reader would misread a newer manifest

LATER = ("source", "fitness")  # unknown to the first readers of format 1: left out where they say nothing

TEMPERED: tuple[Kind, ...] = ("binary", "multilabel", "multiclass", "ordinal")  # kinds that have a temperature

# A detector of two stages: candidates (kept proposals times classes) that a device sorts for one image, and boxes that
# it keeps of them; the time of the suppression grows with the product.
MOST_CANDIDATES, MOST_BOXES = 2**17, 1024

Positive = Annotated[int, msgspec.Meta(gt=0)]
Temperature = Annotated[float, msgspec.Meta(ge=0.01, le=100)]  # beyond it a probability says nothing any more
Sha256 = Annotated[str, msgspec.Meta(pattern="^[0-9a-f]{64}$")]
Amount = Annotated[float, msgspec.Meta(gt=0, le=1e9)]  # JSON has no infinity
Divisor = Annotated[float, msgspec.Meta(ge=0.001, le=1000)]
InputType = Literal["float32", "uint16"]
Arithmetic = Literal["int8", "float16", "float32"]  # of the layers; the last of every head is never int8


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
        reduction: `box` averages whole blocks of a large picture before the resize, which is several times as fast
            (`runtime/reduce.py`); without it every pixel goes through the resize's own filter.
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
    reduction: Literal["box"] | msgspec.UnsetType = msgspec.UNSET  # left out of the JSON, which older readers take


class Proposals(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A detector of two stages (Faster R-CNN): how its dense tensors become boxes; see `runtime.two_stage`.

    The limits bound the time and memory that a manifest can ask of the device.

    Args:
        levels: proposals of each level of the feature pyramid, in the order in which they stand in the tensors.
        nms_iou: overlap (IoU) above which the weaker of two proposals of a level is dropped.
        kept: at most so many proposals an image reach the second stage.
        min_side: proposals with a shorter side are dropped, in input pixels.
        box_min_side: likewise for the boxes of the second stage.
        weights: by which the second stage's offsets of x, y, width and height are divided.
    """

    levels: Annotated[tuple[Annotated[int, msgspec.Meta(gt=0, le=4096)], ...], msgspec.Meta(min_length=1, max_length=8)]
    nms_iou: Annotated[float, msgspec.Meta(ge=0, le=1)] = 0.7
    kept: Annotated[int, msgspec.Meta(gt=0, le=2048)] = 1000
    min_side: Annotated[float, msgspec.Meta(ge=0, le=1024)] = 1e-3
    box_min_side: Annotated[float, msgspec.Meta(ge=0, le=1024)] = 1e-2
    weights: tuple[Divisor, Divisor, Divisor, Divisor] = (10.0, 10.0, 5.0, 5.0)


class TaskOutput(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """How the graph's raw outputs become one task's answer.

    Args:
        task: the task; its classes are the labels of the answer.
        tensors: names of the graph's outputs; detection has two, boxes (1, 4, h, w) and scores (1, C, h, w); with
            `proposals` four, see `runtime.two_stage`.
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
        proposals: detection by two stages; None for one stage on a grid.
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
    proposals: Proposals | None = None

    def __post_init__(self) -> None:
        """Refuse a temperature that nothing would be divided by, and proposals that cannot become boxes.

        Raises:
            ValueError: the kind has none; proposals of another kind than detection, of another number of tensors, or
                with more candidates or boxes than the device is to sort.
        """
        if self.temperature != 1.0 and self.task.kind not in TEMPERED:
            raise ValueError(f"task {self.task.name!r}: {self.task.kind} has no temperature")
        if self.proposals is not None:
            _check_proposals(self, self.proposals)


def _check_proposals(output: TaskOutput, proposals: Proposals) -> None:
    place, candidates = f"task {output.task.name!r}", proposals.kept * len(output.task.classes)
    if output.task.kind != "detection":
        raise ValueError(f"{place}: {output.task.kind} has no proposals")
    if len(output.tensors) != 4 or len(set(output.tensors)) != 4:
        raise ValueError(f"{place}: proposals come in 4 tensors, {len(set(output.tensors))} are named")
    if not 0 < output.max_boxes <= MOST_BOXES:
        raise ValueError(f"{place}: max_boxes is {output.max_boxes}, not 1 to {MOST_BOXES}")
    if candidates > MOST_CANDIDATES:
        raise ValueError(f"{place}: {candidates} candidate boxes an image, at most {MOST_CANDIDATES} are decoded")


class OnnxRuntimeOptions(
    msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True, tag="onnxruntime", tag_field="engine"
):
    """The only settings under which the graph was validated on ONNX Runtime's CPU provider."""

    graph: str = "model.onnx"
    arithmetic: Arithmetic = "int8"
    graph_optimization: Literal["disable", "basic", "extended", "all"] = "all"
    threads: Positive = 2
    spinning: bool = True
    pinned: bool = False  # each thread stays on one core

    @property
    def files(self) -> tuple[str, ...]:
        """Members that the engine reads."""
        return (self.graph,)


class OpenVinoOptions(
    msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True, tag="openvino", tag_field="engine"
):
    """The only settings under which the graph was validated on one of OpenVINO's plugins."""

    graph: str = "openvino.xml"
    weights: str = "openvino.bin"
    arithmetic: Arithmetic = "int8"
    quantiser: Literal["portable", "nncf"] = "portable"  # which int8: the portable graph's integers, or NNCF's own
    plugin: Literal["CPU", "GPU", "NPU"] = "CPU"
    # OpenVINO computes float layers in bf16 or f16 by default where it can; the hint is always set.
    inference_precision: Literal["f32", "f16"] = "f32"
    threads: Positive = 2  # of the CPU plugin
    pinned: bool = False  # each thread stays on one core

    @property
    def files(self) -> tuple[str, ...]:
        """Members that the engine reads."""
        return (self.graph, self.weights)


class TensorRtOptions(
    msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True, tag="tensorrt", tag_field="engine"
):
    """The only settings under which an engine is built from the bundle's build kit and run; see `docs/tensorrt.md`."""

    graph: str = "tensorrt.onnx"  # all precision is typed in the graph
    plan: str = "tensorrt.json"  # how the engine is built
    arithmetic: Arithmetic = "float16"
    tf32: bool = False

    def __post_init__(self) -> None:
        """Refuse TF32; a `Literal[False]` would say so too, but msgspec below 0.20 does not know it.

        Raises:
            ValueError: it is asked for.
        """
        if self.tf32:
            raise ValueError("tf32 is never allowed")

    @property
    def files(self) -> tuple[str, ...]:
        """Members that the build reads."""
        return (self.graph, self.plan)


EngineOptions = OnnxRuntimeOptions | OpenVinoOptions | TensorRtOptions
EngineName = Literal["onnxruntime", "openvino", "tensorrt"]


class Budget(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What a network may cost on its device, from the file's bytes to the findings."""

    latency_ms: Amount  # median, batch 1
    size_mb: Amount  # of the bundle
    memory_mib: Amount  # peak resident


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

    method: Literal["none", "minmax", "percentile", "entropy", "mse", "learned"]
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
    """What the bundle is. `format` is read first and must be known.

    `input_type` is the type of the graphs' input `image`: `float32` in 0..1, or `uint16` in 0..65535, which the graphs'
    first layer divides by 65535; a detector's words then go in as they are.
    """

    format: int
    name: str
    version: str
    device: str
    input: InputSpec
    input_type: InputType = "float32"
    outputs: tuple[TaskOutput, ...]
    engines: tuple[EngineOptions, ...]
    calibration: Calibration
    comparisons: tuple[Comparison, ...] = ()
    temperatures: tuple[TemperatureFit, ...] = ()
    source: SourceRule | None = None  # which DICOM objects are answered about
    fitness: Fitness | None = None  # which images are fit to be answered about
    reference: Reference | None = None
    budget: Budget | None = None  # of the device's profile; what `bench` holds its figures against
    provenance: Provenance


class _Format(msgspec.Struct):
    format: int


def encode_manifest(manifest: Manifest) -> bytes:
    """Canonical JSON: keys sorted, two spaces, one newline at the end."""
    plain = msgspec.to_builtins(manifest)
    raw = msgspec.json.encode({k: v for k, v in plain.items() if v is not None or k not in LATER}, order="sorted")
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
