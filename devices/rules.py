"""What can be known of a graph on a device before either meets: static rules, each a pure function.

- A rule takes a profile and the facts of one artefact and gives findings; it opens nothing and runs nothing.
- An `error` is an artefact that the device refuses, or that answers otherwise there; a `warning` costs speed or must be
  known. A fact that is not known is not judged.
- `RULES` is the whole list.

    for finding in judge_graph(profile, facts):
        print(finding.severity, finding)
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from ..runtime.errors import FoveolaError
from ..runtime.versions import allows
from .contradictions import has_float8
from .finding import Finding as Finding
from .finding import Severity
from .graph_facts import GraphFacts, Node
from .profile import Profile
from .rules_operators import SHOWN, judge_operators, name_nodes, target_of

WEIGHTED = frozenset({"Conv", "ConvTranspose", "Gemm", "MatMul"})


def judge_graph(profile: Profile, facts: GraphFacts) -> tuple[Finding, ...]:
    """Give all that is to be said of an artefact on a device, errors first.

    Args:
        profile: the device.
        facts: of one artefact, as `export.graph_facts` reads them.
    """
    found = [finding for rule in RULES for finding in rule(profile, facts)]
    return tuple(sorted(found, key=lambda finding: finding.severity != "error"))


def require_fit(profile: Profile, facts: GraphFacts) -> tuple[Finding, ...]:
    """Refuse an artefact that the device cannot take; give the warnings.

    Raises:
        FoveolaError: one line with all errors.
    """
    found = judge_graph(profile, facts)
    errors = [finding for finding in found if finding.severity == "error"]
    if errors:
        raise refusal(f"{facts.artefact} for {profile.id}", errors)
    return found


def refusal(place: str, errors: Sequence[Finding]) -> FoveolaError:
    """Put several findings into one line, each mend once."""
    mends = list(dict.fromkeys(finding.mend for finding in errors if finding.mend))
    return FoveolaError(place, ", ".join(finding.fault for finding in errors), ", ".join(mends))


def _on_processor(facts: GraphFacts) -> bool:
    return facts.target == "cpu" and facts.plugin == "CPU" and facts.engine != "tensorrt"


def _finding(facts: GraphFacts, rule: str, severity: Severity, fault: str, mend: str) -> list[Finding]:
    return [Finding(rule=rule, severity=severity, place=facts.artefact, fault=fault, mend=mend)]


def _engine(profile: Profile, facts: GraphFacts) -> list[Finding]:
    """The device has the engine, in this version and this arithmetic."""
    engine = profile.engine(facts.engine)
    if engine is None:
        has = ", ".join(one.engine for one in profile.engines)
        return _finding(facts, "engine", "error", f"{profile.id} has no {facts.engine}", f"its engines: {has}")
    found: list[Finding] = []
    if facts.engine_version and not allows(engine.versions, facts.engine_version):
        fault = f"{facts.engine} {facts.engine_version} does not run on {profile.id}"
        found += _finding(facts, "engine-version", "error", fault, f"it takes {engine.versions}")
    if facts.arithmetic not in engine.precisions:
        fault = f"{facts.engine} on {profile.id} does not compute in {facts.arithmetic}"
        found += _finding(facts, "arithmetic", "error", fault, f"it takes {', '.join(engine.precisions)}")
    return found


def _opset(profile: Profile, facts: GraphFacts) -> list[Finding]:
    """Not newer than what the device's engines read."""
    highest = profile.export.opset
    if facts.opset is None or facts.opset <= highest:
        return []
    fault = f"opset {facts.opset} is too new for {profile.id}, which takes {highest}"
    return _finding(facts, "opset", "error", fault, f"export with opset {highest}")


def _static(profile: Profile, facts: GraphFacts) -> list[Finding]:
    """Shapes are static where the accelerator or the profile wants them so (OpenVINO: npu-device.rst)."""
    unit = target_of(profile, facts) or profile.accelerator(profile.export.accelerator or "none")
    if facts.static or not (profile.export.static_shapes or (unit and unit.static_shapes)):
        return []
    who = f"the {unit.kind.upper()} of {profile.id}" if unit and unit.static_shapes else profile.id
    open_parts = [f"axis {axis} is open" for axis in facts.open_axes[:SHOWN]]
    open_parts += [f"{_words(facts, name)} gives a shape that depends on the data" for name in facts.data_dependent]
    fault = f"{who} takes static shapes only, and {', '.join(open_parts[:SHOWN])}"
    return _finding(facts, "static-shape", "error", fault, "export with a fixed input and without NonZero or NMS")


def _words(facts: GraphFacts, name: str) -> str:
    """Name a node with its operator and the module that it comes from."""
    node = next((node for node in facts.nodes if node.name == name), Node(name, ""))
    operator = f"{node.operator} " if node.operator else ""
    return f"{operator}{name}" + (f" of {node.origin}" if node.origin else "")


def _saturation(profile: Profile, facts: GraphFacts) -> list[Finding]:
    """VPMADDUBSW saturates at 16 bits: ONNX Runtime, "Quantize ONNX models", and openvino#25342."""
    unsigned = facts.weights == "unsigned"  # u8 x u8 goes another way, which does not saturate
    if facts.arithmetic != "int8" or not profile.cpu.saturates or not _on_processor(facts):
        return []
    if facts.weight_bits != 8 or unsigned or facts.saturation_safe:
        return []
    fault = f"8-bit weights may overflow on {profile.id}, whose processor has no VNNI"
    return _finding(
        facts, "saturation", "error", fault, "quantise with weight_bits 7, or let the lint prove the layers"
    )


def _dot_product(profile: Profile, facts: GraphFacts) -> list[Finding]:
    """On ARM int8 pays only with a dot product: ARM-software/ComputeLibrary#855, armnn#511."""
    plain = profile.cpu.architecture == "aarch64" and not profile.cpu.int8_dot
    if facts.arithmetic != "int8" or not plain or not _on_processor(facts):
        return []
    fault = f"{profile.id} has no dot product of bytes; int8 brings little there and may be slower than float32"
    return _finding(facts, "dot-product", "warning", fault, "measure both on the device")


def _hint(profile: Profile, facts: GraphFacts) -> list[Finding]:
    """OpenVINO's GPU computes in f16 unless it is told: openvino#37446; its NPU always does: npu-device.rst."""
    if facts.engine != "openvino" or facts.plugin == "CPU":
        return []
    if target_of(profile, facts) is None:
        return _finding(facts, "plugin", "error", f"{profile.id} has no {facts.plugin}", "use the plugin CPU")
    if facts.plugin == "GPU" and facts.inference_precision is None:
        fault = "OpenVINO's GPU computes in f16 unless it is told"
        return _finding(facts, "hint", "error", fault, "set inference_precision to f32 or f16")
    return []


def _accelerator(profile: Profile, facts: GraphFacts) -> list[Finding]:
    """The accelerator is there and computes in this arithmetic."""
    unit = target_of(profile, facts)
    if unit is None:
        if facts.target == "cpu":
            return []
        fault = f"{profile.id} has no {facts.target.upper()}"
        return _finding(facts, "accelerator", "error", fault, "build for what the device has")
    if facts.arithmetic in unit.precisions:
        return []
    has = ", ".join(unit.precisions)
    if facts.arithmetic == "float32" and "float16" in unit.precisions:
        fault = f"the {unit.kind.upper()} of {profile.id} computes float layers in float16"
        return _finding(
            facts, "precision", "warning", fault, "hold its answers against the proof as a variant of its own"
        )
    fault = f"the {unit.kind.upper()} of {profile.id} does not compute in {facts.arithmetic}"
    return _finding(facts, "precision", "error", fault, f"it computes in {has}")


def _types(profile: Profile, facts: GraphFacts) -> list[Finding]:
    """FP8 and FP4 need a newer GPU than Orin's (TensorRT's support matrix)."""
    unit = target_of(profile, facts)
    small = [name for name in ("float8", "float4") if name in facts.types]
    if not small or unit is None or unit.kind not in ("gpu", "dla"):
        return []
    if unit.kind == "gpu" and has_float8(unit.compute_capability):
        return []
    fault = f"{' and '.join(small)} numbers, and the {unit.kind.upper()} of {profile.id} has none"
    return _finding(facts, "float8", "error", fault, "quantise to int8")


def _dla(profile: Profile, facts: GraphFacts) -> list[Finding]:
    """A DLA is driven by some versions of TensorRT only: <= 10.7, and 11.4.1 on AGX Orin (TensorRT's documents)."""
    unit = target_of(profile, facts)
    if unit is None or not unit.engine_versions or not facts.engine_version:
        return []
    if any(allows(specifier, facts.engine_version) for specifier in unit.engine_versions):
        return []
    fault = f"{facts.engine} {facts.engine_version} does not drive the {unit.kind.upper()} of {profile.id}"
    return _finding(facts, "dla-version", "error", fault, f"it takes {' or '.join(unit.engine_versions)}")


def _sign(profile: Profile, facts: GraphFacts) -> list[Finding]:
    """TensorRT takes symmetric int8 and nothing else (NVIDIA/TensorRT#4698)."""
    if facts.engine != "tensorrt" or facts.activations != "unsigned":
        return []
    return _finding(facts, "sign", "error", "TensorRT takes no uint8 activations", "quantise in the signed form")


def _emulated(profile: Profile, facts: GraphFacts) -> list[Finding]:
    """ONNX Runtime's CPU provider casts float16 to float32 (NVIDIA/TensorRT#4355)."""
    if facts.engine != "onnxruntime" or facts.arithmetic != "float16" or facts.target != "cpu":
        return []
    fault = "ONNX Runtime computes float16 graphs in float32 on the processor"
    return _finding(facts, "float16-cpu", "warning", fault, "take float32, which is quicker there")


def _channels(profile: Profile, facts: GraphFacts) -> list[Finding]:
    """Integer kernels work on whole vectors of channels."""
    multiple = profile.export.channel_multiple
    if facts.arithmetic != "int8" or multiple == 1:
        return []
    odd = [
        node for node in facts.nodes if node.operator in WEIGHTED and _out(node) > multiple and _out(node) % multiple
    ]
    if not odd:
        return []
    fault = f"{len(odd)} layers have channels that are no multiple of {multiple} ({name_nodes(odd)})"
    return _finding(facts, "channels", "warning", fault, "prune with the device's channel_multiple")


def _out(node: Node) -> int:
    """Output channels of a convolution by its weights (M, C/group, ...); 0 where the layout is not known."""
    return node.shapes[0][0] if node.operator == "Conv" and node.shapes and node.shapes[0] else 0


RULES: tuple[Callable[[Profile, GraphFacts], list[Finding]], ...] = (
    _engine, judge_operators, _opset, _static, _saturation, _dot_product, _hint, _accelerator, _types, _dla, _sign,
    _emulated, _channels,
)  # fmt: skip
