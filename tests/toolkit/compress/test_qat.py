"""Quantisation-aware training ships as the graph that quantisation alone would have written, with learned ranges."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper
from small import SPEC, STUDENT, TASKS, TEACHER, silent, squares

from foveola.devices.profile import load_profile
from foveola.export.calibrate import read_ranges
from foveola.export.fake_quant import QuantisedGraph
from foveola.export.quantize import calibrate_graph
from foveola.export.torch_graph import TorchGraph
from foveola.runtime.engine import open_session
from foveola.runtime.errors import FoveolaError
from foveola.runtime.manifest import OnnxRuntimeOptions
from foveola.runtime.task import Task
from foveola.toolkit.answers import RawAnswers
from foveola.toolkit.compress import qat
from foveola.toolkit.compress.go_on import Guide
from foveola.toolkit.compress.lessons import write_taught
from foveola.toolkit.compress.qat import QatRecord, Rounding, train_quantised
from foveola.toolkit.compress.qat_judge import Judge, Worth, decibels
from foveola.toolkit.compress.qat_network import GraphNetwork, Quantised, export_float, folded_copy, shared_weights
from foveola.toolkit.compress.quantise import FLOAT_GRAPH, INT8_GRAPH, RANGES, quantise_student
from foveola.toolkit.data.dataset import Dataset
from foveola.toolkit.finished import read_history, read_locked, teacher_answers
from foveola.toolkit.fresh import new_network
from foveola.toolkit.knobs import Lessons, Plan, Shape
from foveola.toolkit.models.network import Architecture, Network, load_network, save_network
from foveola.toolkit.stages.qat import Qat

PLAN = Plan(epochs=2, batch_size=4, learning_rate=1e-3)
ROUNDING = Rounding(opset=20, min_images=2)
THREE = tuple(task for task in TASKS if task.name in ("signs", "square", "things"))
FAMILIES = (
    "mobilenetv4_conv_small", "mobilenetv3_small_100", "efficientnet_lite0", "repvgg_a0", "mobileone_s0", "fastvit_t8",
    "resnet18",
)  # fmt: skip


def lively(network: Network) -> Network:
    """Statistics of normalisation as a training leaves them; answers of a deep network neither die nor explode then."""
    images = torch.rand(8, 1, SPEC.height, SPEC.width, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        network.train()
        for _ in range(12):
            network(images)
    return network.eval()


def student_of(tasks: tuple[Task, ...], backbone: str = STUDENT.backbone) -> Network:
    torch.manual_seed(1)
    return lively(Network(Architecture(role="student", backbone=backbone, input=SPEC, tasks=tasks, width=16)))


def check_family(backbone: str, folder: Path) -> None:
    """Folded, exported and run in torch a family answers as ONNX Runtime does, and its weights can go back."""
    network = student_of(THREE, backbone)
    folded = folded_copy(network)
    path = folder / "float.onnx"
    export_float(folded, path, 20)
    model = onnx.load(path)
    shared = shared_weights(folded, model)
    graph = TorchGraph(model, trained=lambda name: name in shared).eval()
    images = torch.rand(2, 1, SPEC.height, SPEC.width)

    with torch.no_grad():
        before, after, answers = network(images), folded(images), graph(images)

    session = open_session(OnnxRuntimeOptions(graph="float.onnx"), {"float.onnx": path.read_bytes()})
    for place, image in enumerate(images):
        for name, real in session.run(image[None].numpy()).items():
            found = answers[name][place : place + 1].numpy()
            np.testing.assert_allclose(found, real, rtol=0, atol=1e-4 * max(1.0, float(np.abs(real).max())))
    for name, wanted in before.items():
        torch.testing.assert_close(after[name], wanted, rtol=0, atol=1e-3 * max(1.0, float(wanted.abs().max())))
    layers = {node.input[1] for node in model.graph.node if node.op_type in ("Conv", "Gemm", "MatMul")}
    assert layers <= shared
    assert not any(node.op_type == "BatchNormalization" for node in model.graph.node)


def test_a_family_runs_in_torch_as_its_graph_does(tmp_path: Path) -> None:
    check_family("mobilenetv3_small_100", tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("backbone", FAMILIES)
def test_every_family_runs_in_torch_as_its_graph_does(backbone: str, tmp_path: Path) -> None:
    check_family(backbone, tmp_path)


def test_a_folded_copy_is_rebuilt_from_its_record(tmp_path: Path) -> None:
    network = student_of(THREE)
    folded = folded_copy(network)
    assert folded.architecture.structure.folded
    assert not network.architecture.structure.folded
    save_network(folded, tmp_path)

    images = torch.rand(2, 1, 64, 64)
    with torch.no_grad():
        first, again = folded(images), load_network(tmp_path)(images)

    assert all(torch.equal(first[name], again[name]) for name in first)


def test_folding_twice_changes_nothing_more() -> None:
    once = folded_copy(student_of(THREE, "fastvit_t8"))

    assert once.architecture.structure.merged
    assert folded_copy(once).architecture == once.architecture


class Road(msgspec.Struct, frozen=True):
    """A data set, an untrained student of it, and a teacher's part."""

    data: Dataset
    student: Path
    guide: Guide
    cache: Path


@pytest.fixture(scope="module")
def road(tmp_path_factory: pytest.TempPathFactory) -> Road:
    folder = tmp_path_factory.mktemp("road")
    (folder / "student").mkdir()
    data = squares(folder / "data")
    save_network(lively(new_network("student", data, STUDENT, 0)), folder / "student")
    write_taught(folder / "student", "0" * 64)
    teacher = new_network("teacher", data, TEACHER, 0).eval()
    answers = teacher_answers(teacher, data.subset("train"), cache=folder / "cache")
    answers = RawAnswers(answers.raw, {name: [one[:3] for one in many] for name, many in answers.boxes.items()}, None)
    guide = Guide(answers=answers, input=SPEC, scale=teacher.target_scale, lessons=Lessons(hint_weight=0.0))
    return Road(data, folder / "student", guide, folder / "cache")


def train(
    road: Road, folder: Path, *, plan: Plan = PLAN, report: Any = silent, **knobs: Any
) -> tuple[QatRecord, list[str]]:
    folder.mkdir(exist_ok=True)
    said: list[str] = []
    given = {"guide": road.guide, "rounding": ROUNDING} | knobs
    rounding = given.pop("rounding")
    record = train_quantised(
        road.student, road.data, plan, rounding, folder=folder, cache=road.cache, seed=3, report=report,
        say=said.append, **given,
    )  # fmt: skip
    return record, said


def quantise(road: Road, student: Path, folder: Path) -> None:
    folder.mkdir()
    quantise_student(
        student, road.data, split="calibration", images=256, min_images=2, method="minmax", opset=20, weight_bits=8,
        folder=folder, cache=road.cache, progress=silent,
    )  # fmt: skip


@pytest.fixture(scope="module")
def ptq(road: Road, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The student quantised without training."""
    folder = tmp_path_factory.mktemp("ptq") / "int8"
    quantise(road, road.student, folder)
    return folder


@pytest.fixture(scope="module")
def int8(road: Road, trained: tuple[Path, QatRecord], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The trained student quantised."""
    folder = tmp_path_factory.mktemp("qat") / "int8"
    quantise(road, trained[0], folder)
    return folder


@pytest.fixture(scope="module")
def trained(road: Road, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, QatRecord]:
    """A finished step whose training is kept, whatever it was worth."""
    folder = tmp_path_factory.mktemp("trained")
    worths = [Worth({"bright": 0.2}, 0.5), Worth({"bright": 0.4}, 0.5)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Judge, "worth", lambda self, calibrated: worths.pop(0))
        return folder / "qat", train(road, folder / "qat")[0]


def test_a_kept_training_changes_weights_and_ranges_and_says_why(road: Road, trained: tuple[Path, QatRecord]) -> None:
    folder, record = trained
    start = folded_copy(load_network(road.student)).state_dict()
    end = load_network(folder).state_dict()

    assert record.kept == "trained"
    assert record.why == "those of the training; worst slack 0.20 before it, 0.40 after"
    assert (record.before, record.after) == ({"bright": 0.2}, {"bright": 0.4})
    assert start.keys() == end.keys()
    assert not all(torch.equal(start[name], end[name]) for name in start)
    assert len(read_history(folder)) == PLAN.epochs
    assert set(read_locked(folder)) == {"bright", "signs", "halves", "things"}
    assert not (folder / "checkpoint").exists()


def test_the_int8_graph_has_the_quantisers_of_quantisation_alone_and_the_learned_ranges(
    trained: tuple[Path, QatRecord], ptq: Path, int8: Path
) -> None:
    alone, own = onnx.load(ptq / INT8_GRAPH), onnx.load(int8 / INT8_GRAPH)

    def places(model: onnx.ModelProto) -> set[tuple[str, ...]]:
        return {(node.op_type, *node.input) for node in model.graph.node if "Linear" in node.op_type}

    def types(model: onnx.ModelProto) -> Counter[tuple[int, tuple[int, ...]]]:
        return Counter((one.data_type, tuple(one.dims)) for one in model.graph.initializer)

    assert places(own) == places(alone)
    assert Counter(node.op_type for node in own.graph.node) == Counter(node.op_type for node in alone.graph.node)
    assert types(own) == types(alone)
    stored = {one.name: numpy_helper.to_array(one) for one in own.graph.initializer}
    for name, extent in read_ranges(trained[0] / RANGES).items():
        steps = 127 if extent.low < 0 else 255
        assert float(stored[f"{name}.scale"]) == np.float32(extent.high / steps), name


def test_the_int8_graph_answers_as_the_fake_quantisers_did(
    road: Road, trained: tuple[Path, QatRecord], int8: Path
) -> None:
    folder, record = trained
    calibrated = calibrate_graph(int8 / FLOAT_GRAPH, [], min_images=0, ranges=read_ranges(folder / RANGES))
    graph = QuantisedGraph(calibrated).eval()
    session = open_session(OnnxRuntimeOptions(), {"model.onnx": (int8 / INT8_GRAPH).read_bytes()})
    image = next(iter(np.load(next(iter(road.cache.glob("images-*.npy"))))))[None]

    with torch.no_grad():
        fake = graph(torch.from_numpy(image))["square"].numpy()

    found = decibels([session.run(image)["square"]], [fake])
    assert found is None or found > 15
    assert record.agreement_db is None or np.isfinite(record.agreement_db)


def test_a_training_killed_between_epochs_ends_as_an_uninterrupted_one(
    road: Road, trained: tuple[Path, QatRecord], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class KilledError(Exception):
        pass

    def kill(done: float, total: float, text: str = "") -> None:
        if text.startswith("epoch 1/"):
            raise KilledError

    worths = [Worth({"bright": 0.2}, 0.5), Worth({"bright": 0.2}, 0.5), Worth({"bright": 0.4}, 0.5)]
    monkeypatch.setattr(Judge, "worth", lambda self, calibrated: worths.pop(0))
    with pytest.raises(KilledError):
        train(road, tmp_path / "qat", report=kill)
    train(road, tmp_path / "qat")

    for name in (RANGES, "model.safetensors", "history.json"):
        assert (tmp_path / "qat" / name).read_bytes() == (trained[0] / name).read_bytes(), name


def test_a_training_that_leaves_the_worst_task_worse_changes_nothing(
    road: Road, ptq: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    worths = [Worth({"bright": 0.2}, 0.5), Worth({"bright": 0.1}, 0.9)]
    monkeypatch.setattr(Judge, "worth", lambda self, calibrated: worths.pop(0))
    record, said = train(road, tmp_path / "qat", plan=msgspec.structs.replace(PLAN, epochs=1))

    assert record.kept == "calibration"
    assert said[-1] == "kept: those before the training; worst slack 0.20 before it, 0.10 after"
    start, end = folded_copy(load_network(road.student)).state_dict(), load_network(tmp_path / "qat").state_dict()
    assert all(torch.equal(start[name], end[name]) for name in start)
    own, alone = read_ranges(tmp_path / "qat" / RANGES), read_ranges(ptq / RANGES)
    assert all(own[name].high == pytest.approx(alone[name].magnitude, rel=1e-4) for name in alone)


def test_nothing_is_trained_where_the_slack_is_enough_already(
    road: Road, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Judge, "worth", lambda self, calibrated: Worth({"bright": 0.3}, 0.5))
    monkeypatch.setattr(qat, "fit", None)  # must not be reached

    record, said = train(road, tmp_path / "qat", only_below=0.25)

    assert record.kept == "calibration"
    assert record.after == {}
    assert said[-1] == "kept: without training the worst slack is 0.30, at least 0.25 as asked"
    assert read_history(tmp_path / "qat") == []
    assert (tmp_path / "qat" / "taught.json").exists()


def test_worth_is_measured_on_the_int8_graph_itself(road: Road, tmp_path: Path) -> None:
    network = folded_copy(load_network(road.student))
    export_float(network, tmp_path / "float.onnx", 20)
    images = [np.random.default_rng(0).random((1, 1, 64, 64), np.float32)]
    calibrated = calibrate_graph(tmp_path / "float.onnx", images, min_images=1)
    judge = Judge(network, road.data, weight_bits=8, overflow="fit", cache=road.cache, report=silent)

    worth = judge.worth(calibrated)

    assert set(worth.slacks) == {task.name for task in TASKS}
    assert worth.least == min(worth.slacks.values()) <= 1


def test_the_reference_standard_teaches_alone_where_there_is_no_teacher(road: Road) -> None:
    network = folded_copy(load_network(road.student))
    objective = Quantised(GraphNetwork(network, torch.nn.Identity()), None)  # type: ignore[arg-type]

    assert objective.lessons.soft_weight == 0
    assert not list(objective.parameters())


def test_full_heads_without_a_detector_are_trained_and_a_two_stage_detector_is_refused(
    road: Road, tmp_path: Path
) -> None:
    tasks = (TASKS[1], TASKS[5])
    data = squares(tmp_path / "data", tasks)
    shape = Shape(backbone="resnet10t", input=SPEC, width=16, output_stride=16)
    for name, cases in (("masks", data), ("boxes", road.data)):
        (tmp_path / name).mkdir()
        save_network(new_network("teacher", cases, shape, 0), tmp_path / name)
    masks = msgspec.structs.replace(road, data=data, student=tmp_path / "masks")

    record, _ = train(masks, tmp_path / "qat", plan=msgspec.structs.replace(PLAN, epochs=1), guide=None)

    assert set(record.before) == {"signs", "square"}
    boxes = msgspec.structs.replace(road, student=tmp_path / "boxes")
    with pytest.raises(FoveolaError, match="two-stage detector cannot be trained as a graph; quantize it without"):
        train(boxes, tmp_path / "refused")


def test_decibels_are_of_power() -> None:
    clean = [np.array([1.0, -1.0], np.float32), np.array([1.0, -1.0], np.float32)]

    assert decibels(clean, clean) is None
    assert decibels(clean, [one + np.float32(0.1) for one in clean]) == pytest.approx(20, abs=1e-3)


@pytest.mark.parametrize(
    ("knobs", "what"),
    [
        pytest.param({"weights": "start.safetensors"}, "weights: this training starts from the step", id="checkpoint"),
        pytest.param({"hint_weight": 0.5}, "hint_weight: .* gives no features; leave it out", id="hint"),
        pytest.param({"relation_weight": 1.0}, "relation_weight: .* gives no features", id="relation"),
    ],
)
def test_a_knob_without_effect_is_refused(knobs: dict[str, Any], what: str) -> None:
    work: Any = SimpleNamespace(step="rounded")

    with pytest.raises(FoveolaError, match=what):
        Qat(of="student", **knobs).check_ahead(work)


def test_a_device_without_int8_refuses_the_training_before_it_begins() -> None:
    work: Any = SimpleNamespace(step="rounded", device=load_profile("x86-sse42-legacy"))

    with pytest.raises(FoveolaError, match="rounded: no engine of x86-sse42-legacy computes int8 .*; leave the step"):
        Qat(of="student").check_ahead(work)
