"""One form on its way: written, held against the device's rules, opened, asked, judged.

Shapes: N validation images, (1, C, H, W) an input.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from importlib import metadata
from pathlib import Path

import msgspec
import numpy as np
import onnx
import torch
from numpy.typing import NDArray

from ...devices.finding import Finding
from ...devices.profile import Profile
from ...devices.roofline import LayerWork
from ...devices.rules import judge_graph
from ...export.compare import compare_engines
from ...export.graph_facts import graph_facts, layer_work
from ...export.nncf_int8 import Slack
from ...export.tensorrt.kit import reference_options
from ...runtime.box_map import comparable, comparable_outputs
from ...runtime.engine import Session, is_installed, open_session
from ...runtime.errors import FoveolaError, MissingPartError
from ...runtime.manifest import OpenVinoOptions, TaskOutput, TensorRtOptions
from ..answers import RawAnswers
from ..data.arrays import Arrays
from ..models.dense_teacher import as_graph
from ..models.network import Network
from .candidates import Candidate
from .pick import UNOPENED, UNWRITABLE, Variant, causes
from .slack import ask, slacks, worst
from .timing import Timing
from .write import Sources, write_variant

Raw = dict[str, NDArray[np.float32]]
Pairs = Sequence[tuple[NDArray[np.float32], Raw]]  # inputs with torch's raw outputs
# Operations that engines compute on integers where they stand between quantisers.
INTEGER = frozenset({"Add", "Clip", "Concat", "Conv", "Gemm", "MatMul", "MaxPool", "Mul", "Relu", "Reshape", "Resize"})


class Form(msgspec.Struct, eq=False):
    """One candidate on its way: written, opened, asked."""

    candidate: Candidate
    members: dict[str, bytes]
    layers: tuple[LayerWork, ...]
    findings: tuple[Finding, ...]
    conversions: int
    session: Session | None = None  # None: no engine here can run it
    answers: RawAnswers | None = None  # to all validation images
    timing: Timing = Timing()


def write_form(
    candidate: Candidate, sources: Sources, folder: Path, control: Slack | None, device: Profile, *, here: bool = False
) -> Form:
    """Write a form into a folder of its own and hold its graph against the device's rules.

    A form that cannot be written is one that lost, with its reason; the others go on. `here` says that this machine is
    such a device, so that the engines' versions here are those of the device.
    """
    own = folder / candidate.name.replace(" ", "-")
    own.mkdir()
    try:
        members = write_variant(candidate, sources, own, control)
    except MissingPartError:
        raise
    except FoveolaError as error:
        sources.images()  # where these are gone, that is told instead: it is no fault of the form
        return Form(candidate, {}, (), (_refused(candidate, UNWRITABLE, error),), 0)
    graph = own / ("tensorrt.onnx" if isinstance(candidate.options, TensorRtOptions) else "model.onnx")
    origins: Mapping[str, str] = {}
    version = _version(candidate) if here else ""
    findings = _findings(candidate, graph, origins, device, version)
    if any(one.severity == "error" for one in findings):
        origins = sources.origins()
        findings = _findings(candidate, graph, origins, device, version)
    # NNCF's integers are in OpenVINO's own format; they ask as much of a machine as those of the portable graph.
    alike = sources.int8_graph if candidate.quantiser == "nncf" and sources.int8_graph else graph
    return Form(candidate, members, layer_work(alike), findings, _conversions(alike))


def _refused(candidate: Candidate, rule: str, error: FoveolaError) -> Finding:
    return Finding(rule=rule, severity="error", place=candidate.name, fault=error.fault, mend=error.mend)


def _version(candidate: Candidate) -> str:
    """The engine's version on this machine; empty where it is not installed."""
    try:
        return metadata.version(candidate.engine)
    except metadata.PackageNotFoundError:
        return ""


def _findings(
    candidate: Candidate, graph: Path, origins: Mapping[str, str], device: Profile, version: str
) -> tuple[Finding, ...]:
    """What the device's rules say of a form."""
    options = candidate.options
    facts = graph_facts(
        graph,
        engine=candidate.engine,
        arithmetic=candidate.arithmetic,
        origins=origins,
        artefact=candidate.name,
        plugin=options.plugin if isinstance(options, OpenVinoOptions) else "CPU",
        inference_precision=options.inference_precision if isinstance(options, OpenVinoOptions) else None,
        target=candidate.target,
        saturation_safe=candidate.quantiser == "nncf",  # of the portable graph the facts prove it themselves
    )
    return judge_graph(device, msgspec.structs.replace(facts, engine_version=version or None))


def _conversions(graph: Path) -> int:
    """Dequantisers whose result some float operation reads."""
    nodes = onnx.load(graph).graph.node
    readers: dict[str, list[str]] = {}
    for node in nodes:
        for name in node.input:
            readers.setdefault(name, []).append(node.op_type)
    return sum(
        node.op_type == "DequantizeLinear" and any(one not in INTEGER for one in readers.get(node.output[0], []))
        for node in nodes
    )


def open_form(form: Form, network: Network, val: Arrays, *, here: bool = True) -> None:
    """Open a form where its engine is here, and ask it about all validation images.

    A form that its engine refuses is out where this machine is such a device (`here`); elsewhere it is not judged.
    """
    options = form.candidate.options
    if not form.members:
        return
    if form.candidate.target != "cpu":
        if not isinstance(options, TensorRtOptions):
            return
        # The typed graph in ONNX Runtime: what the engine should answer, but for its own roundings.
        options = reference_options(options)
    elif not is_installed(form.candidate.engine):
        return
    try:
        form.session = open_session(options, form.members)
    except MissingPartError:
        raise
    except FoveolaError as error:  # one form that an engine refuses ends no export; the account says it
        found = _refused(form.candidate, UNOPENED, error)
        form.findings = (*form.findings, found if here else msgspec.structs.replace(found, severity="warning"))
        return
    form.answers = ask(form.session.run, network, val.images)


def torch_raw(network: Network, val: Arrays, count: int) -> Pairs:
    """Torch's raw outputs for the first images."""
    graph, pairs = as_graph(network), []
    for i in range(min(count, len(val))):
        x = np.array(val.images[i : i + 1])
        with torch.inference_mode():
            pairs.append((x, {name: raw.numpy() for name, raw in graph(torch.from_numpy(x)).items()}))
    return pairs


def judge_form(
    form: Form,
    network: Network,
    reference: RawAnswers,
    outputs: Sequence[TaskOutput],
    val: Arrays,
    pairs: Pairs,
    device: Profile,
) -> Variant:
    """Sum up what was found out about a form; `outputs` decide at thresholds that were locked on `reference`."""
    candidate, session = form.candidate, form.session
    found = Variant(
        name=candidate.name,
        engine=candidate.engine,
        arithmetic=candidate.arithmetic,
        quantiser=candidate.quantiser,
        size_bytes=sum(map(len, form.members.values())),
        timing=form.timing,
        causes=causes(candidate.arithmetic, form.layers, device, form.conversions),
        findings=form.findings,
    )
    if session is None or form.answers is None:
        return found
    name, slack = worst(slacks(network, reference, form.answers, val))

    def both() -> Iterator[tuple[Raw, Raw]]:
        for x, raw in pairs:
            yield comparable(outputs, raw, network.input), comparable(outputs, session.run(x), network.input)

    compared = compare_engines(candidate.engine, both(), comparable_outputs(outputs)).outputs
    decisions = sum(one.decisions for one in compared)
    return msgspec.structs.replace(
        found,
        slack=slack,
        worst_task=name,
        flips=1000 * sum(one.flips for one in compared) / max(decisions, 1),
        difference=max(one.largest for one in compared),
    )
