"""The check of a bundle: the same images through torch and every engine, and where they part.

Two views of the same answers:

- `against`: each of the bundle's artefacts beside the reference, which is the student in torch, or without one the
  first engine. These are the figures that count.
- `chain`: from torch over the float graph, exported anew, to each artefact, one step of making after the other. Each
  link says what that step cost: `export`, `precision` (quantisation, or another float type), or `engine` (the same
  numbers, computed by another). The layer at which sides part is looked for here.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from itertools import pairwise
from math import inf
from pathlib import Path
from typing import Literal, get_args

import msgspec
from onnx import ModelProto

from ...export.bisect import QUANTISERS, Step, steps_of
from ...runtime.bundle import Bundle, read_unverified
from ...runtime.engine import engine_of
from ...runtime.errors import FoveolaError, MissingPartError, UsageError
from ...runtime.manifest import EngineName, EngineOptions, OnnxRuntimeOptions, TensorRtOptions
from ...runtime.tensorrt.plan import ENGINES_VARIABLE
from .inputs import read_inputs
from .links import Link, compare_sides, find_parting
from .sides import EngineSide, Input, Side, TorchSide, engine_side, float_side
from .student import Student, find_student

Kind = Literal["export", "precision", "engine"]
Pair = tuple[Side, Side]
UNNAMED = "no signature is asked for here, so name the folder of its engines yourself (--built DIR)"


class ChainLink(msgspec.Struct, frozen=True, kw_only=True):
    """One step of making: what it is, and the two sides of it."""

    kind: Kind
    link: Link


class Check(msgspec.Struct, frozen=True, kw_only=True):
    """The outcome.

    Args:
        bundle: its name.
        version: of the bundle.
        digest: of the bundle.
        images: that were compared.
        student: folder of the student; empty where none was found.
        reference: what the artefacts were held against.
        against: each artefact beside the reference.
        chain: see above.
        notes: what was left out, and why.
    """

    bundle: str
    version: str
    digest: str
    images: int
    student: str
    reference: str
    against: tuple[Link, ...]
    chain: tuple[ChainLink, ...]
    notes: tuple[str, ...]

    @property
    def flips(self) -> int:
        """Decisions in which an artefact differs from the reference: of the artefact with most of them."""
        return max((link.flips for link in self.against), default=0)


def check_bundle(
    path: Path,
    *,
    images: Sequence[Path] = (),
    data: Path | None = None,
    limit: int = 32,
    student: Path | None = None,
    engines: Sequence[str] = (),
    engines_folder: Path | None = None,
    tolerance: float | None = None,
    bisect: bool | None = None,
    layers: bool | None = None,
    progress: Callable[[str], None] = lambda _: None,
) -> Check:
    """Hold a bundle's artefacts against torch and against each other.

    Args:
        path: of the bundle; its signature is not asked for, since a bundle is checked before it is signed as well.
        images: image files; by default the bundle's golden ones.
        data: folder of images.
        limit: at most so many of the folder.
        student: folder of the student; by default it is looked for beside the bundle's own folder.
        engines: only these; by default all that are installed.
        engines_folder: where engines that TensorRT has built lie.
        tolerance: relative distance up to which two sides count as equal; by default that of the self-test.
        bisect: look for the layer: always, never, or (None) where two sides do not agree.
        layers: measure every layer and not only those that a bisection needs: always, never, or (None) where the
            bisection finds a slow drift.
        progress: told what is done next.

    Raises:
        UsageError: an engine that there is not, or a tolerance that is no number.
        MissingPartError: an engine that was asked for is not installed.
        FoveolaError: nothing to compare, an image or a student that does not fit.
    """
    if tolerance is not None and not 0 <= tolerance < inf:  # nor NaN
        raise UsageError("--tolerance", f"{tolerance} is no distance", "give a number, 0 or more")
    bundle = read_unverified(path)
    inputs = read_inputs(bundle, images, data, limit)
    folder = find_student(path, bundle.manifest, student)
    artefacts, notes = _artefacts(bundle, engines, engines_folder)
    found = Student(folder, bundle) if folder else None
    if found is None:
        digest = bundle.manifest.provenance.student_digest[:12]
        notes.append(f"torch left out: no folder beside the bundle's holds student {digest}; --student names one")
    graphs = _Graphs(bundle, found)
    road = _Road(bundle, found, graphs, artefacts)
    if len(road.sides) < 2:
        mend = "give --student, or install another engine"
        raise FoveolaError(path.name, f"nothing to hold {road.sides[0].name} against", mend)
    links: dict[Pair, Link] = {}
    for first, second in dict.fromkeys([*road.against, *road.chain]):
        progress(f"{first.name} beside {second.name}")
        links[first, second] = compare_sides(first, second, inputs, bundle.manifest.outputs, tolerance=tolerance)
    for first, second in road.chain:
        link = links[first, second]
        if bisect or layers or (bisect is None and not link.agrees):
            progress(f"where {second.name} parts from {first.name}")
            links[first, second] = _part(link, first, second, graphs, inputs, layers)
    return Check(
        bundle=bundle.manifest.name,
        version=bundle.manifest.version,
        digest=bundle.digest,
        images=len(inputs),
        student=str(folder or ""),
        reference=road.sides[0].name,
        against=tuple(links[pair] for pair in road.against),
        chain=tuple(ChainLink(kind=_kind(*pair), link=links[pair]) for pair in road.chain),
        notes=tuple(notes + graphs.notes),
    )


class _Graphs:
    """The steps of the student's graph and of the bundle's, which are the same where one exporter wrote both."""

    def __init__(self, bundle: Bundle, student: Student | None) -> None:
        self.notes: list[str] = []
        anew = ModelProto.FromString(student.graph) if student else None
        own = next((o.graph for o in bundle.manifest.engines if isinstance(o, OnnxRuntimeOptions)), "")
        shipped = ModelProto.FromString(bundle.members[own]) if own else None
        self.same = anew is None or shipped is None or _nodes(anew) == _nodes(shipped)
        origins = student.origins if student else {}
        self.anew: tuple[Step, ...] = steps_of(anew, origins) if anew else ()
        self.shipped: tuple[Step, ...] = steps_of(shipped, origins if self.same else {}) if shipped else self.anew
        self.is_shipped = shipped is not None and student is not None and bundle.members[own] == student.graph
        if not self.same:
            self.notes.append("the bundle's graph has other nodes than this exporter writes; its modules are not known")


class _Road:
    """Which sides there are, and which of them are held against each other."""

    def __init__(
        self, bundle: Bundle, student: Student | None, graphs: _Graphs, artefacts: Sequence[EngineSide]
    ) -> None:
        start: list[Side] = []
        if student is not None:
            start.append(TorchSide(student, graphs.anew))
            if not graphs.is_shipped:  # a float32 bundle ships that very graph
                start.append(float_side(student, bundle))
        self.sides: list[Side] = [*start, *artefacts]
        self.against: list[Pair] = [(self.sides[0], side) for side in artefacts if side is not self.sides[0]]
        self.chain: list[Pair] = list(pairwise(start))
        done: list[Side] = list(start[-1:])
        for side in artefacts:
            like = [one for one in done if isinstance(one, EngineSide) and one.lineage == side.lineage]
            if done:
                self.chain.append((like[-1] if like else done[0], side))
            done.append(side)


def _artefacts(bundle: Bundle, engines: Sequence[str], folder: Path | None) -> tuple[list[EngineSide], list[str]]:
    """Open the artefacts; one that cannot be opened is told, and is an error where it was asked for by name."""
    offered = {engine_of(options): options for options in bundle.manifest.engines}
    for name in engines:
        if name not in get_args(EngineName):
            raise UsageError(f"engine {name!r}", "there is no such engine", f"take {', '.join(offered)}")
        if name not in offered:
            fault = f"{bundle.manifest.name} has no artefact for it"
            raise FoveolaError(f"engine {name!r}", fault, f"take {', '.join(offered)}")
    sides, notes = [], []
    for name, options in offered.items():
        if engines and name not in engines:
            continue
        if isinstance(options, TensorRtOptions) and folder is None and not os.environ.get(ENGINES_VARIABLE):
            # An engine is native code, and nobody vouches for this bundle: none is taken because it lies beside it.
            notes.append(f"{name} left out: {UNNAMED}")
            continue
        try:
            sides.append(engine_side(bundle, options, folder))
        except FoveolaError as error:
            if engines or not _may_lack(options, error):
                raise
            notes.append(f"{name} left out: {error}")
    if not sides:
        raise MissingPartError(bundle.manifest.name, "no engine of this bundle can be opened", "; ".join(notes))
    return sides, notes


def _may_lack(options: EngineOptions, error: FoveolaError) -> bool:
    """Tell whether an artefact may be left out: its engine is not here, or TensorRT has built none yet."""
    return isinstance(error, MissingPartError) or isinstance(options, TensorRtOptions)


def _part(link: Link, first: Side, second: Side, graphs: _Graphs, inputs: Sequence[Input], layers: bool | None) -> Link:
    fresh = isinstance(first, TorchSide)
    if not fresh and first.name.endswith("anew") and not graphs.same:
        return msgspec.structs.replace(link, note="the two graphs number their nodes otherwise; no layer is compared")
    steps = graphs.anew if fresh else graphs.shipped
    return find_parting(link, first, second, steps, inputs, layers=layers)


def _kind(first: Side, second: Side) -> Kind:
    if isinstance(first, TorchSide):
        return "export"
    ours, theirs = (one.lineage for one in (first, second) if isinstance(one, EngineSide))
    return "engine" if ours == theirs else "precision"


def _nodes(model: ModelProto) -> list[tuple[str, str]]:
    """Names and operators of a graph; quantisers and the two nodes that turn 16-bit words into floats left out."""
    return [
        (node.name, node.op_type)
        for node in model.graph.node
        if node.op_type not in QUANTISERS and not node.name.startswith("image.")
    ]
