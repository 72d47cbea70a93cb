"""What the compression modified, as rows for the page of change control: teacher beside what ships.

`changes_of` is pure: plain facts in, `parity.evidence.Change` out; no torch, no file. Whoever holds the teacher fills
`TeacherFacts` from it (`recipe.py`); in the field, where only its answers are, the facts are what the answers
tell and the rest is said to be not known.

    changes_of(TeacherFacts(networks=("resnet50",), parameters=23_500_000), bundle.manifest, student_of(bundle))
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from importlib.util import find_spec
from math import prod

import msgspec

from ...runtime.bundle import Bundle
from ...runtime.engine import engine_of
from ...runtime.manifest import Calibration, InputSpec, Manifest, TaskOutput
from ..parity.evidence import Change

UNKNOWN = "not known here"
NONE = "none"


class TeacherFacts(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What is known of the teacher.

    Args:
        networks: names of its networks (a timm name each); several for a team.
        parameters: of all of them together; None: not known.
        precision: of its arithmetic.
        input: how it is fed.
        thresholds: its own locked ones, by task; empty where it has none.
        temperatures: of its probabilities, by task; what is absent is 1.
    """

    networks: tuple[str, ...] = ()
    parameters: int | None = None
    precision: str = "float32"
    input: InputSpec | None = None
    thresholds: Mapping[str, tuple[float, ...]] = {}
    temperatures: Mapping[str, float] = {}


class StudentFacts(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What the manifest does not tell of the student.

    Args:
        network: name of its network; empty: not known.
        parameters: None: not known.
        pruned: what pruning took, in words; `none` where nothing was; empty: not known.
    """

    network: str = ""
    parameters: int | None = None
    pruned: str = ""


def changes_of(teacher: TeacherFacts, manifest: Manifest, student: StudentFacts | None = None) -> tuple[Change, ...]:
    """List what differs between the teacher and the bundle: a row each, in a fixed order.

    Args:
        teacher: what is known of it.
        manifest: of the bundle.
        student: what the manifest does not tell; None: nothing more is known.

    Returns:
        Architecture, parameters, pruning, input, precision (an engine each), calibration, temperatures and thresholds
        (a task each). A row whose two sides are equal stays: that something was kept is told as well.
    """
    known, made = student or StudentFacts(), manifest.provenance
    rows = [
        ("architecture", " + ".join(teacher.networks) or UNKNOWN, known.network or made.network or UNKNOWN),
        ("parameters", _count(teacher.parameters), _count(known.parameters)),
        ("pruning", NONE, known.pruned or made.pruning or UNKNOWN),
        ("input", _input(teacher.input), _input(manifest.input)),
        *(
            (f"precision on {engine_of(one)}", teacher.precision, _precision(one.arithmetic))
            for one in manifest.engines
        ),
        ("calibration of the ranges", NONE, _calibration(manifest.calibration)),
        *_temperatures(teacher.temperatures, manifest),
        *_thresholds(teacher.thresholds, manifest.outputs),
    ]
    return tuple(Change(what=what, teacher=before, student=after) for what, before, after in rows)


def _count(parameters: int | None) -> str:
    return UNKNOWN if parameters is None else f"{parameters}"


def _precision(arithmetic: str) -> str:
    return "int8, weights and activations of 8 bits" if arithmetic == "int8" else arithmetic


def _input(spec: InputSpec | None) -> str:
    if spec is None:
        return UNKNOWN
    window = "full range" if spec.window == "full" else f"percentiles {spec.low:g} to {spec.high:g}"
    crop = ", cropped to the field of view" if spec.crop == "fov" else ""
    fit = "padded" if spec.fit == "pad" else "stretched"
    return f"{spec.width} x {spec.height}, {spec.channels} channel(s), {fit}{crop}, {window}"


def _calibration(calibration: Calibration) -> str:
    if calibration.method == "none":
        return NONE
    return f"{calibration.method} on {calibration.images} images, digest {calibration.images_digest[:16]}"


def _temperatures(before: Mapping[str, float], manifest: Manifest) -> Iterator[tuple[str, str, str]]:
    """Give the tasks whose probabilities have a temperature on either side."""
    fitted = {fit.task: fit for fit in manifest.temperatures}
    for output in manifest.outputs:
        name = output.task.name
        if output.temperature == 1.0 and before.get(name, 1.0) == 1.0 and name not in fitted:
            continue
        after = f"{output.temperature:.4g}"
        if name in fitted:
            after += f", fitted on {fitted[name].images} images of split {fitted[name].split}"
        yield f"temperature of {name}", f"{before.get(name, 1.0):.4g}", after


def _thresholds(before: Mapping[str, Sequence[float]], outputs: Sequence[TaskOutput]) -> Iterator[tuple[str, str, str]]:
    """Give the tasks that have thresholds in the bundle."""
    for output in outputs:
        if output.thresholds:
            labels = labels_of(output)
            name = output.task.name
            own = before.get(name, ())
            yield f"thresholds of {name}", _points(own, labels) or UNKNOWN, _points(output.thresholds, labels)


def labels_of(output: TaskOutput) -> tuple[str, ...]:
    """Name a task's thresholds, in order."""
    return output.task.classes[-1:] if output.task.kind == "binary" else output.task.classes


def _points(values: Sequence[float], labels: Sequence[str]) -> str:
    if len(values) != len(labels):
        return ", ".join(f"{value:.4g}" for value in values)
    return ", ".join(f"{label} {value:.4g}" for label, value in zip(labels, values, strict=True))


def student_of(bundle: Bundle) -> StudentFacts | None:
    """Count the parameters of what ships: the weights and biases of its layers. None where `onnx` is not installed.

    Scales and zero points are none, and what was folded into a layer (a normalisation) is counted no more.
    """
    graph = bundle.members.get("model.onnx")
    return StudentFacts(parameters=_parameters(graph)) if graph and find_spec("onnx") is not None else None


LAYERS = ("Conv", "ConvTranspose", "Gemm", "MatMul")


def _parameters(data: bytes) -> int:
    import onnx

    graph = onnx.load_model_from_string(data).graph
    sizes = {one.name: prod(one.dims) for one in graph.initializer}
    # A weight of 8 bits reaches its layer through a node that gives it back its scale.
    source = {node.output[0]: node.input[0] for node in graph.node if node.op_type == "DequantizeLinear"}
    weights = {source.get(name, name) for node in graph.node if node.op_type in LAYERS for name in node.input}
    return sum(sizes.get(name, 0) for name in weights)
