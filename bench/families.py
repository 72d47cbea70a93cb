"""Student families through the whole road: the same teacher, data and epochs for each, and one table.

    python bench/families.py run OUT                                     # phantoms; goes on where it was stopped
    python bench/families.py run OUT --of chest-xray --set data.root=PATH/TO/cxr --set steps.teacher.backbone=resnet18
    python bench/families.py run OUT --epochs 2 --only mobilenetv4       # a short trial
    python bench/families.py table OUT                                   # times all of them in turn, writes table.md

OUT is a folder of runs: a teacher that a run of the same recipe left there is used again. Each family is distilled and
quantised by the recipe's own steps, with its backbone put in; scores are those of the test split (AUC, Dice, mAP50,
1 - error / constant's error), slack is what is left of the margins towards the teacher, 1 for as good, 0 for all used.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import onnx

from foveola.devices.profile import Profile, load_profile, options_for, profile_ids
from foveola.devices.rules import judge_graph
from foveola.export.graph_facts import graph_facts, layer_work
from foveola.export.onnx_graph import export_onnx
from foveola.export.openvino_ir import write_ir
from foveola.export.placement import LAYERS
from foveola.export.quantize import quantize_onnx
from foveola.runtime.engine import Session, open_session
from foveola.runtime.errors import FoveolaError
from foveola.runtime.manifest import EngineName, OnnxRuntimeOptions, OpenVinoOptions
from foveola.toolkit.answers import RawAnswers, rescaled
from foveola.toolkit.compress.lessons import cached_answers
from foveola.toolkit.data.arrays import Arrays, prepare_arrays
from foveola.toolkit.models.dense_teacher import as_graph
from foveola.toolkit.models.network import Network, load_network
from foveola.toolkit.models.outputs import graph_outputs
from foveola.toolkit.pipeline import StepOutcome, run
from foveola.toolkit.progress import PlainProgress
from foveola.toolkit.recipe import Recipe, find_recipe, parse_recipe, read_recipe
from foveola.toolkit.score import score_answers
from foveola.toolkit.stages.data import dataset_of
from foveola.toolkit.stages.table import STAGES
from foveola.toolkit.teachers.load import read_input, read_scale
from foveola.toolkit.variants.candidates import Candidate, candidates
from foveola.toolkit.variants.slack import ask, slacks
from foveola.toolkit.variants.timing import measure
from foveola.toolkit.work import Work

SLIM = {"stage": "prune", "of": "student", "teacher": "teacher", "ratio": 0.5}
# Family -> backbone, and the steps between student and int8.
FAMILIES: dict[str, tuple[str, dict[str, dict[str, Any]]]] = {
    "mobilenetv4": ("mobilenetv4_conv_small", {}),
    "mobilenetv3-small": ("mobilenetv3_small_100", {}),
    "mobilenetv3-large": ("mobilenetv3_large_100", {}),
    "efficientnet-lite": ("efficientnet_lite0", {}),
    "repvgg": ("repvgg_a0", {}),
    "mobileone": ("mobileone_s0", {}),
    "fastvit": ("fastvit_t8", {}),
    "resnet18-pruned": ("resnet18", {"slim": SLIM}),
}
ENGINES: tuple[EngineName, ...] = ("onnxruntime", "openvino")


class Side(msgspec.Struct, frozen=True, kw_only=True):
    """One form on one engine, or the teacher."""

    scores: dict[str, float]
    slack: dict[str, float] = {}


class Row(msgspec.Struct, frozen=True, kw_only=True):
    """One family's line; times are measured later, all families in turn."""

    family: str
    backbone: str
    step: str  # digest of the int8 step
    graphs: str  # its folder
    epochs: int
    parameters: int
    macs: int
    bytes: dict[str, int]  # form -> bytes of the graph
    layers: int
    float_layers: list[str]  # with the module that each comes from
    agreement: float  # share of decisions (logits above zero) on which the two engines' int8 differ
    teacher: Side
    sides: dict[str, Side]  # "onnxruntime int8" -> ...
    excluded: dict[str, list[str]]  # device -> rule and fault of each form that it refuses, where it refuses something


def main() -> int:
    """Run a command."""
    given = _arguments()
    if given.command == "table":
        return table(given.out, given.rounds)
    for family in given.only or FAMILIES:
        try:
            row = one(family, given)
        except FoveolaError as error:
            print(f"{family}: {error}", file=sys.stderr)
            continue
        worst = min(row.sides["onnxruntime int8"].slack.items(), key=lambda pair: pair[1])
        print(f"{family}: int8 {row.bytes['int8'] / 1e6:.2f} MB, least slack {worst[1]:.2f} ({worst[0]})")
    return 0


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    running = commands.add_parser("run", help="distil, quantise and score families")
    running.add_argument("out", type=Path, help="folder of runs")
    running.add_argument("--of", default="demo", help="recipe whose data, tasks, teacher and student are taken")
    running.add_argument("--epochs", type=int, help="of each student; by default the recipe's")
    running.add_argument("--only", action="append", choices=list(FAMILIES), help="this family; may be repeated")
    running.add_argument("--set", action="append", default=[], dest="changes", help="a change of the recipe")
    timing = commands.add_parser("table", help="time all finished families in turn and write table.md")
    timing.add_argument("out", type=Path)
    timing.add_argument("--rounds", type=int, default=15)
    return parser.parse_args()


def one(family: str, given: argparse.Namespace) -> Row:
    """Take one family along the road and write its line; a line of the same steps is used again."""
    recipe = family_recipe(family, given.of, given.epochs, given.changes)
    done = {step.step: step for step in run(recipe, given.out, PlainProgress(sys.stderr)).steps}
    path = given.out / "families" / f"{given.of}-{family}.json"
    if path.exists() and (kept := msgspec.json.decode(path.read_bytes(), type=Row)).step == done["int8"].digest:
        return kept
    row = look(family, recipe, done, given.out)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(msgspec.json.format(msgspec.json.encode(row), indent=1) + b"\n")
    return row


def family_recipe(family: str, of: str, epochs: int | None, changes: Sequence[str]) -> Recipe:
    """The recipe's data, tasks and teacher, and the family's own way from student to int8."""
    path = find_recipe(of)
    read = read_recipe(path, STAGES, changes)
    backbone, between = FAMILIES[family]
    steps = {step.name: {"stage": step.kind, **_fields(step.stage)} for step in read.steps}
    student = steps["student"] | {"backbone": backbone} | ({"epochs": epochs} if epochs else {})
    road = {"teacher": steps["teacher"], "student": student, **between}
    road["int8"] = steps["int8"] | {"of": next(reversed(road))}
    data = {"stage": read.data.kind, **_fields(read.data.stage)}
    tasks = {task.name: {k: v for k, v in _fields(task).items() if k != "name"} for task in read.tasks}
    whole = {"name": read.name, "device": read.device, "seed": read.seed, "data": data, "tasks": tasks, "steps": road}
    return parse_recipe(json.dumps(whole).encode(), STAGES, place=f"{of} with {backbone}", folder=read.folder)


def _fields(one: msgspec.Struct) -> dict[str, Any]:
    fields: dict[str, Any] = msgspec.json.decode(msgspec.json.encode(msgspec.structs.asdict(one)))
    return {name: value for name, value in fields.items() if value is not None}


def look(family: str, recipe: Recipe, done: Mapping[str, StepOutcome], out: Path) -> Row:
    """Score both forms on both engines on the test split, and ask every device."""
    folder, cache = done["int8"].folder, out / recipe.name / "cache"
    network, test = load_network(folder), dataset_of(_work(recipe, done)).subset("test")
    arrays = prepare_arrays(test, network.input, cache=cache)
    taught = cached_answers(done["teacher"].folder, done["teacher"].digest, test, cache, lambda *_: None)
    reference = as_seen_by(network, taught, done["teacher"].folder)
    answers = {name: ask(one.run, network, arrays.images) for name, one in sessions(folder, recipe.device).items()}
    origins, graph = _origins(network, folder)
    quantised = _quantised(folder / "model.onnx")
    student = next(step.stage for step in recipe.steps if step.name == "student")
    return Row(
        family=family,
        backbone=network.architecture.backbone,
        step=done["int8"].digest,
        graphs=str(folder.resolve()),
        epochs=getattr(student, "epochs", 0),
        parameters=sum(p.numel() for p in as_graph(network).parameters()),
        macs=sum(layer.macs for layer in layer_work(folder / "float.onnx")),
        bytes={"float32": (folder / "float.onnx").stat().st_size, "int8": (folder / "model.onnx").stat().st_size},
        layers=len(graph),
        float_layers=[f"{name} ({origins.get(name, '')})" for name in graph if name not in quantised],
        agreement=_apart(answers["onnxruntime int8"], answers["openvino int8"]),
        teacher=Side(scores=score_answers(network.tasks, reference, arrays, network.target_scale).by_task),
        sides={name: _side(network, reference, found, arrays) for name, found in answers.items()},
        excluded=excluded(network),
    )


def _work(recipe: Recipe, done: Mapping[str, StepOutcome]) -> Work:
    data = done["data"]
    return Work(
        step="data", digest=data.digest, folder=data.folder, inputs={}, digests={}, data=data.folder,
        cache=data.folder, recipe=recipe, reporter=PlainProgress(sys.stderr),
    )  # fmt: skip


def as_seen_by(network: Network, taught: RawAnswers, teacher: Path) -> RawAnswers:
    """A teacher's answers in a student's units: pixels of its input, its own standardisation."""
    scale = network.input.width / read_input(teacher).width
    boxes = {
        name: [one * np.array([scale] * 4 + [1, 1], np.float32) for one in many] for name, many in taught.boxes.items()
    }
    return rescaled(RawAnswers(taught.raw, boxes), read_scale(teacher), network.target_scale)


def _side(network: Network, reference: RawAnswers, found: RawAnswers, arrays: Arrays) -> Side:
    scores = score_answers(network.tasks, found, arrays, network.target_scale).by_task
    return Side(scores=scores, slack=slacks(network, reference, found, arrays))


def _apart(one: RawAnswers, other: RawAnswers) -> float:
    """Share of decisions (logits above zero) that differ between two engines."""
    pairs = [(one.raw[name] > 0, other.raw[name] > 0) for name in one.raw]
    total = sum(a.size for a, _ in pairs)
    return sum(int((a != b).sum()) for a, b in pairs) / max(total, 1)


def sessions(folder: Path, device: str) -> dict[str, Session]:
    """Both forms of an int8 step on both engines, as the device runs them."""
    found: dict[str, Session] = {}
    graphs = {"float32": folder / "float.onnx", "int8": folder / "model.onnx"}
    for options in options_for(load_profile(device), ENGINES):
        for form, graph in graphs.items():
            if isinstance(options, OnnxRuntimeOptions):
                session = open_session(options, {options.graph: graph.read_bytes()})
                found[f"onnxruntime {form}"] = session
                continue
            assert isinstance(options, OpenVinoOptions)
            with tempfile.TemporaryDirectory() as scratch:
                write_ir(graph, Path(scratch) / options.graph)
                members = {name: (Path(scratch) / name).read_bytes() for name in options.files}
            found[f"openvino {form}"] = open_session(options, members)
    return found


def _origins(network: Network, folder: Path) -> tuple[Mapping[str, str], list[str]]:
    """Module of each node of the float graph, and its layers in order."""
    model = onnx.load(folder / "float.onnx")
    opset = next(int(one.version) for one in model.opset_import if not one.domain)
    with tempfile.TemporaryDirectory() as scratch:
        path = Path(scratch) / "again.onnx"
        origins = export_onnx(as_graph(network), network.input, graph_outputs(network), path, opset=opset)
    weights = {tensor.name for tensor in model.graph.initializer}
    layers = [node for node in model.graph.node if node.op_type in LAYERS and node.input[1] in weights]
    return origins, [node.name for node in layers]


def _quantised(path: Path) -> set[str]:
    """Names of the layers whose weights are integers."""
    graph = onnx.load(path).graph
    stored = {tensor.name for tensor in graph.initializer}
    back = {
        node.output[0]: node for node in graph.node if node.op_type == "DequantizeLinear" and node.input[0] in stored
    }
    return {node.name for node in graph.node if node.op_type in LAYERS and node.input[1] in back}


def excluded(network: Network) -> dict[str, list[str]]:
    """What every device refuses, form by form: the rule, and the fault in its words."""
    found: dict[str, list[str]] = {}
    with tempfile.TemporaryDirectory() as scratch:
        for name in profile_ids():
            device = load_profile(name)
            graphs = _written(network, device, Path(scratch))
            refused = [
                line
                for candidate in candidates(device, (), quantised=True, nncf=False)
                for line in _refusals(candidate, device, graphs)
            ]
            if refused:
                found[name] = refused
    return found


def _written(network: Network, device: Profile, scratch: Path) -> dict[str, Path]:
    """The float graph and an int8 one at the device's opset; only operators, shapes and types are judged."""
    opset = device.export.opset
    plain, integer = scratch / f"{opset}.onnx", scratch / f"{opset}-int8.onnx"
    if not plain.exists():
        export_onnx(as_graph(network), network.input, graph_outputs(network), plain, opset=opset)
        spec = network.input
        flat = [np.full((1, spec.channels, spec.height, spec.width), x, np.float32) for x in (0.0, 0.5, 1.0)]
        quantize_onnx(plain, integer, flat, weight_bits=7, overflow="fit", min_images=1)
    return {"float32": plain, "float16": plain, "int8": integer}


def _refusals(candidate: Candidate, device: Profile, graphs: Mapping[str, Path]) -> list[str]:
    options = candidate.options
    facts = graph_facts(
        graphs[candidate.arithmetic],
        engine=candidate.engine,
        arithmetic=candidate.arithmetic,
        artefact=candidate.name,
        plugin=options.plugin if isinstance(options, OpenVinoOptions) else "CPU",
        inference_precision=options.inference_precision if isinstance(options, OpenVinoOptions) else None,
        target=candidate.target,
    )
    if candidate.engine == "tensorrt":  # whose graph is written in the signed form
        facts = msgspec.structs.replace(facts, activations="signed" if facts.activations else None)
    errors = [one for one in judge_graph(device, facts) if one.severity == "error"]
    return [f"{candidate.name}: {one.rule}: {one.fault}" for one in errors]


def table(out: Path, rounds: int) -> int:
    """Time every finished family's forms in turn and write the table."""
    rows = [msgspec.json.decode(path.read_bytes(), type=Row) for path in sorted((out / "families").glob("*-*.json"))]
    if not rows:
        print(f"{out}: no family has been run", file=sys.stderr)
        return 2
    opened: dict[str, Session] = {}
    for row in rows:
        opened |= {f"{row.family} {name}": one for name, one in sessions(Path(row.graphs), "generic-x86").items()}
    times: dict[str, float] = {}
    for size in {_size(Path(row.graphs)) for row in rows}:  # an image of each input size
        those = {name: one for name, one in opened.items() if _size_of(name, rows) == size}
        image = np.random.default_rng(0).random((1, *size), dtype=np.float32)
        times |= {name: one.ms or 0.0 for name, one in measure(those, image, rounds=rounds).items()}
    text = _markdown(rows, times)
    (out / "families" / "table.md").write_text(text, encoding="utf-8")
    print(text)
    return 0


def _size(folder: Path) -> tuple[int, int, int]:
    from foveola.toolkit.models.network import Architecture

    spec = msgspec.json.decode((folder / "model.json").read_bytes(), type=Architecture).input
    return spec.channels, spec.height, spec.width


def _size_of(name: str, rows: Sequence[Row]) -> tuple[int, int, int]:
    return _size(Path(next(row.graphs for row in rows if name.startswith(f"{row.family} "))))


def _markdown(rows: Sequence[Row], times: Mapping[str, float]) -> str:
    tasks = list(rows[0].teacher.scores)
    head = ["family", "parameters M", "MMACs", *(f"{task} float / int8" for task in tasks), "least slack float / int8",
            "float MB", "int8 MB", *(f"{engine} float / int8 ms" for engine in ENGINES), "float layers beside the last",
            "devices that refuse a form"]  # fmt: skip
    lines = [f"| {' | '.join(head)} |", f"|{'---|' * len(head)}"]
    teacher = rows[0].teacher.scores
    lines.append(
        f"| teacher | | | {' | '.join(f'{teacher[task]:.3f}' for task in tasks)} |{' |' * (len(head) - 3 - len(tasks))}"
    )
    for row in rows:
        plain, integer = row.sides["onnxruntime float32"], row.sides["onnxruntime int8"]
        cells = [
            f"{row.family} ({row.backbone}, {row.epochs} epochs)",
            f"{row.parameters / 1e6:.2f}",
            f"{row.macs / 1e6:.0f}",
            *(f"{plain.scores.get(task, 0):.3f} / {integer.scores.get(task, 0):.3f}" for task in tasks),
            f"{min(plain.slack.values()):.2f} / {min(integer.slack.values()):.2f}",
            f"{row.bytes['float32'] / 1e6:.2f}",
            f"{row.bytes['int8'] / 1e6:.2f}",
            *(f"{times[f'{row.family} {e} float32']:.2f} / {times[f'{row.family} {e} int8']:.2f}" for e in ENGINES),
            str(len([one for one in row.float_layers if "heads." not in one])),
            ", ".join(f"{device} ({_rules(faults)})" for device, faults in row.excluded.items()) or "none",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def _rules(faults: Sequence[str]) -> str:
    """`operator HardSwish`: what each fault says, once."""
    said = [fault.split(": ", 2)[1:] for fault in faults]
    return ", ".join(dict.fromkeys(" ".join(words.split()[:2]) if rule == "operator" else rule for rule, words in said))


if __name__ == "__main__":
    sys.exit(main())
