"""Which operators an accelerator lacks, and where in the network they stand.

An activation stands after every layer: one that the accelerator lacks cuts the graph into pieces and is refused. Any
other operator is refused too, unless the vendor's compiler gives it to the processor (`falls_back`).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from .finding import Finding
from .graph_facts import GraphFacts, Node
from .parts import Accelerator
from .profile import Profile

SHOWN = 3  # names quoted in one finding
# Operators that only say how numbers are stored, or that every engine folds away.
ALWAYS = frozenset({"QuantizeLinear", "DequantizeLinear", "Constant", "Identity"})
# Elementwise functions of one tensor that networks put between layers; Clip is ReLU6 and the like.
ACTIVATIONS = frozenset(
    {"Relu", "LeakyRelu", "PRelu", "Clip", "Sigmoid", "HardSigmoid", "HardSwish", "Tanh", "Elu", "Selu", "Celu", "Gelu",
     "Mish", "Swish", "Softplus", "Softsign", "ThresholdedRelu", "Erf"}
)  # fmt: skip


def judge_operators(profile: Profile, facts: GraphFacts) -> list[Finding]:
    """Name the operators that the device lacks, with the modules that they come from."""
    unit = _judged(profile, facts)
    if unit is None or not facts.nodes:
        return []
    return [
        _finding(profile, unit, facts, operator, nodes)
        for operator, nodes in _by_operator(facts.nodes).items()
        if operator not in ALWAYS and not _has(unit, operator)
    ]


def _judged(profile: Profile, facts: GraphFacts) -> Accelerator | None:
    """Find the accelerator that the graph must suit: its target, or the one that the profile writes ONNX for."""
    portable = facts.engine == "onnxruntime" and profile.export.accelerator
    return target_of(profile, facts) or (profile.accelerator(profile.export.accelerator) if portable else None)


def target_of(profile: Profile, facts: GraphFacts) -> Accelerator | None:
    """Find the accelerator that an artefact runs on; None: the processor, or one that the profile does not name."""
    kind = facts.plugin.lower() if facts.engine == "openvino" and facts.plugin != "CPU" else facts.target
    return profile.accelerator("gpu" if facts.engine == "tensorrt" and kind == "cpu" else kind)


def _has(unit: Accelerator, operator: str) -> bool:
    if operator in ACTIVATIONS and unit.activations:
        return operator in unit.activations
    return not unit.operators or operator in unit.operators


def _by_operator(nodes: Iterable[Node]) -> dict[str, list[Node]]:
    found: dict[str, list[Node]] = {}
    for node in nodes:
        found.setdefault(node.operator, []).append(node)
    return found


def _finding(profile: Profile, unit: Accelerator, facts: GraphFacts, operator: str, nodes: list[Node]) -> Finding:
    tolerated = unit.falls_back and operator not in ACTIVATIONS
    fault = f"operator {operator} of {name_nodes(nodes)}: the {unit.kind.upper()} of {profile.id} does not have it"
    if tolerated:
        return Finding(
            rule="operator",
            severity="warning",
            place=facts.artefact,
            fault=f"{fault}, and the processor computes it",
            mend="each one cuts the graph in two",
        )
    allowed = unit.activations if operator in ACTIVATIONS and unit.activations else unit.operators
    kind = "activations" if allowed is unit.activations else "operators"
    mend = f"build the student from its {kind}: {', '.join(allowed)}"
    return Finding(rule="operator", severity="error", place=facts.artefact, fault=fault, mend=mend)


def name_nodes(nodes: Sequence[Node]) -> str:
    """Name the first few by their modules, or by themselves where no module is known."""
    names = [node.origin or node.name for node in nodes]
    return ", ".join(names[:SHOWN]) + (f" and {len(names) - SHOWN} more" if len(names) > SHOWN else "")
