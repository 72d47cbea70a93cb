"""Where two computations of one network part: the first layer whose inputs agree and whose output does not.

Laws:

- a tensor parts where its distance (`compare.distance`) is above the tolerance, and where one side has NaN;
- on a branching network "later in the file" does not mean "computed from it". The search walks over the tensors through
  which every path to the parted one leads, halves that chain, and goes on inside a branch only where a branch parted:
  about log2(n) measurements, each of which may cost a compilation;
- what is reported has been measured: every input of that layer agrees, and its output parts;
- where an engine computes several steps at once (a layer, its activation, its quantiser), tensors between them are no
  points of the search. They are looked at afterwards (`bare`), to name the step among them.

A difference may grow slowly over many layers, as rounding does. `Parting.kind` tells that from a fault: a `jump` is a
layer at which the distance becomes at least `JUMP` times what it was, or what rounding makes it anyway. Under a drift a
fault can hide whose trace has faded at the output; `growth` measures every layer, and `sharpest` finds the one at which
the distance jumps.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Literal

import msgspec
from onnx import ModelProto

from .onnx_graph import Origins
from .placement import LAYERS, RECTIFIERS

QUANTISERS = frozenset({"QuantizeLinear", "DequantizeLinear"})
JUMP = 3.0

Measure = Callable[[str], float]


class Step(msgspec.Struct, frozen=True, kw_only=True):
    """One operation of the network, quantisers left out; tensors have their names in the float graph."""

    node: str
    operator: str
    module: str  # of the network in torch; empty where it is not known
    output: str
    inputs: tuple[str, ...]  # those that depend on the image


class Growth(msgspec.Struct, frozen=True, kw_only=True):
    """The distance at a layer beside the largest one at its inputs; 0 at the image."""

    step: Step
    tensor: str  # at which it was measured: the layer's own output, or what is computed at once with it
    before: float
    at: float


class Parting(msgspec.Struct, frozen=True, kw_only=True):
    """Where two computations part.

    Args:
        output: the output of the network from which the search went back.
        node: name of the operation in the graph.
        operator: its kind.
        module: where it comes from in torch; empty where that is not known.
        tensor: the first tensor that parts.
        before: largest distance at its inputs.
        at: distance at the tensor; infinite where only one side has NaN.
        kind: `jump` or `drift`, see above.
        fused: the operation agrees by itself; it parts only computed together with what follows it, in integers.
        tolerance: above it tensors part.
        measured: tensors that were measured.
    """

    output: str
    node: str
    operator: str
    module: str
    tensor: str
    before: float
    at: float
    kind: Literal["jump", "drift"]
    fused: bool
    tolerance: float
    measured: int


def steps_of(model: ModelProto, origins: Origins) -> tuple[Step, ...]:
    """Give a graph's operations in order.

    Args:
        model: float or QDQ graph, nodes in topological order.
        origins: module of each node, from `export_onnx`; may be empty.
    """
    plain: dict[str, str] = {value.name: value.name for value in model.graph.input}  # with a quantiser -> without
    steps = []
    for node in model.graph.node:
        inputs = tuple(dict.fromkeys(plain[name] for name in node.input if name in plain))
        if not inputs:
            continue  # works on constants alone
        if node.op_type in QUANTISERS:
            plain[node.output[0]] = inputs[0]
            continue
        plain |= {name: name for name in node.output if name}
        module = origins.get(node.name, "")
        steps += [
            Step(node=node.name, operator=node.op_type, module=module, output=name, inputs=inputs)
            for name in node.output
            if name
        ]
    return tuple(steps)


def points_of(steps: Sequence[Step], common: Collection[str], quantised: Collection[str]) -> frozenset[str]:
    """Choose the tensors at which both graphs can be cut without a change in what is computed before them.

    Args:
        steps: of the graph.
        common: tensors at which both can be cut.
        quantised: tensors behind which one of the two has a quantiser. A tensor that only goes on to a rectifier and
            its quantiser is computed with them.
    """
    readers: dict[str, list[Step]] = {}
    for step in steps:
        for name in step.inputs:
            readers.setdefault(name, []).append(step)

    def inside(name: str) -> bool:
        ahead = readers.get(name, [])
        return bool(ahead) and all(one.operator in RECTIFIERS and one.output in quantised for one in ahead)

    return frozenset(name for name in common if name in quantised or not inside(name))


def first_parting(
    steps: Sequence[Step],
    output: str,
    measure: Measure,
    points: Collection[str],
    *,
    tolerance: float,
    floor: float = 0.0,
    bare: Mapping[str, Callable[[], float]] | None = None,
) -> Parting | None:
    """Find the first operation at which two computations part; None where they agree at `output`.

    Args:
        steps: of the graph, in topological order.
        output: the tensor from which the search goes back.
        measure: distance at a point; called once for each at most.
        points: tensors that can be measured, `output` among them.
        tolerance: above it tensors part.
        floor: distances below count as this, where jumps are told from drifts.
        bare: distance at tensors between the points and before a point's quantiser, where that can be measured.
    """
    search = _Search(steps, points, measure, tolerance)
    if not search.parts(output):
        return None
    tensor = search.first(output)
    step, fused, extra = _inside(search.segment(tensor), bare or {}, tolerance)
    before, at = search.before(tensor), search.known[tensor]
    grown = Growth(step=step, tensor=tensor, before=before, at=at)
    return parting_at(grown, output, tolerance, floor=floor, fused=fused, measured=len(search.known) + extra)


def parting_at(grown: Growth, output: str, tolerance: float, *, floor: float, fused: bool, measured: int) -> Parting:
    """Give a layer as the place where two computations part; see `Parting`."""
    return Parting(
        output=output,
        node=grown.step.node,
        operator=grown.step.operator,
        module=grown.step.module,
        tensor=grown.tensor,
        before=grown.before,
        at=grown.at,
        kind="jump" if grown.at >= JUMP * max(grown.before, floor) else "drift",
        fused=fused,
        tolerance=tolerance,
        measured=measured,
    )


def growth(steps: Sequence[Step], measure: Measure, points: Collection[str]) -> tuple[Growth, ...]:
    """Measure every point, not only those that a bisection needs."""
    search = _Search(steps, points, measure, 0.0)
    names = [step.output for step in steps if step.output in search.points]
    return tuple(
        Growth(step=_layer(search.segment(name)), tensor=name, before=search.before(name), at=search.at(name))
        for name in names
    )


def sharpest(layers: Sequence[Growth], floor: float) -> Growth | None:
    """Find the layer at which the distance jumps most; None where it jumps nowhere.

    Args:
        layers: in the order of the graph; of several that are lost in NaN the first counts.
        floor: distances below count as this; a rounding beside none is no jump.
    """
    best = max(layers, key=lambda one: _jump(one, floor), default=None)
    return best if best is not None and _jump(best, floor) >= JUMP else None


def _jump(one: Growth, floor: float) -> float:
    """How many times as large the distance becomes at a layer; 0 where there is none, or where all was lost before."""
    if one.at == 0 or one.before == math.inf:
        return 0.0
    before = max(one.before, floor)
    return one.at / before if before else math.inf


def _inside(segment: list[Step], bare: Mapping[str, Callable[[], float]], tolerance: float) -> tuple[Step, bool, int]:
    """Name the step of a segment that parts by itself, else its layer; whether none did; and what was measured."""
    looked = 0
    for step in segment:
        if step.output in bare:
            looked += 1
            if bare[step.output]() > tolerance:
                return step, False, looked
    return _layer(segment), looked > 0, looked


def _layer(segment: list[Step]) -> Step:
    """The operation after which people call a segment: its layer, or else its end."""
    return next((step for step in segment if step.operator in LAYERS), segment[-1])


class _Search:
    def __init__(self, steps: Sequence[Step], points: Collection[str], measure: Measure, tolerance: float) -> None:
        self.steps = {step.output: step for step in steps}
        self.place = {step.output: index for index, step in enumerate(steps)}
        self.points = frozenset(points) & self.steps.keys()
        self.measure, self.tolerance = measure, tolerance
        self.known: dict[str, float] = {}

    def at(self, tensor: str) -> float:
        if tensor not in self.known:
            self.known[tensor] = self.measure(tensor)
        return self.known[tensor]

    def parts(self, tensor: str) -> bool:
        return not self.at(tensor) <= self.tolerance  # NaN parts

    def before(self, tensor: str) -> float:
        return max((self.at(name) for name in self.parents(tensor)), default=0.0)

    def segment(self, tensor: str) -> list[Step]:
        """Give the steps between the points before a tensor and the tensor, in order."""
        found: set[str] = set()
        waiting = [tensor]
        while waiting:
            name = waiting.pop()
            if name in self.steps and name not in found and (name == tensor or name not in self.points):
                found.add(name)
                waiting += self.steps[name].inputs
        return [self.steps[name] for name in sorted(found, key=self.place.__getitem__)]

    def parents(self, tensor: str) -> list[str]:
        """Give the points from which a tensor is computed, with none between, in order."""
        read = {name for step in self.segment(tensor) for name in step.inputs}
        return sorted((read & self.points) - {tensor}, key=self.place.__getitem__)

    def reads_image(self, tensor: str) -> bool:
        return any(name not in self.steps for step in self.segment(tensor) for name in step.inputs)

    def first(self, tensor: str) -> str:
        """Go back from a tensor that parts to one whose parents all agree."""
        agreed: set[str] = set()
        while True:
            chain = self.chain(tensor, agreed)
            low, high = -1, len(chain) - 1  # agrees, parts
            while high - low > 1:
                middle = (low + high) // 2
                if self.parts(chain[middle]):
                    high = middle
                else:
                    low = middle
                    agreed.add(chain[middle])
            tensor = chain[high]
            parted = next((name for name in self.parents(tensor) if name not in agreed and self.parts(name)), None)
            if parted is None:
                return tensor
            agreed |= {name for name in self.known if not self.parts(name)}
            tensor = parted

    def chain(self, tensor: str, agreed: set[str]) -> list[str]:
        """Give the points through which every path to a tensor leads, from the image or what agrees, in order."""
        targets: dict[str, list[str]] = {"": []}  # point -> points computed from it; "": all that agrees
        waiting, seen = [tensor], {tensor}
        while waiting:
            name = waiting.pop()
            targets.setdefault(name, [])
            parents = self.parents(name)
            sources = [one for one in parents if one not in agreed]
            for source in sources:
                targets.setdefault(source, []).append(name)
            if len(sources) < len(parents) or self.reads_image(name):
                targets[""].append(name)
            new = [one for one in sources if one not in seen]
            seen.update(new)
            waiting += new
        chain = []
        furthest = max(self.place[name] for name in targets.pop(""))
        for name in sorted(targets, key=self.place.__getitem__):
            if furthest <= self.place[name]:
                chain.append(name)
            furthest = max([furthest, *(self.place[one] for one in targets[name])])
        return chain
