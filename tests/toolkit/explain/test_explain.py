"""Laws of an explanation: sums are those of the network, reasons are true, what is not known is told."""

from __future__ import annotations

import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from small import silent
from torch import nn

from foveola.export.layer_error import layer_sqnr
from foveola.runtime.errors import UsageError
from foveola.toolkit.compress.sensitivity import SENSITIVITY, Sensitivity
from foveola.toolkit.explain import gather
from foveola.toolkit.explain.find import find_student
from foveola.toolkit.explain.gather import explain_student
from foveola.toolkit.explain.graph import ASKED, BEHIND, LAST, part_of, read_layers
from foveola.toolkit.explain.keep import keep_layers
from foveola.toolkit.explain.record import LAYERS_FILE, Explained, read_explained
from foveola.toolkit.explain.sensitivity import part_slacks
from foveola.toolkit.explain.widths import widths_before
from foveola.toolkit.explain.words import tail_lines
from foveola.toolkit.models.network import Network, load_network
from foveola.toolkit.models.structure import Layer as Resized
from foveola.toolkit.models.structure import Structure


def test_parameters_are_those_of_the_network_with_its_normalisation_folded(tiny_run: Any, explained: Explained) -> None:
    modules = list(load_network(tiny_run.int8).modules())
    convolutions = sum(one.weight.numel() + one.out_channels for one in modules if isinstance(one, nn.Conv2d))
    products = sum(one.weight.numel() + one.out_features for one in modules if isinstance(one, nn.Linear))

    assert explained.parameters == convolutions + products


def test_multiply_adds_are_counted_by_hand_for_a_head(explained: Explained) -> None:
    last = next(layer for layer in explained.layers if layer.module == "heads.square.last")

    # 8 x 8 cells of an image of 64 x 64, 8 channels in, 2 out (the square and what is none), 1 x 1.
    assert last.macs == 8 * 8 * 8 * last.channels
    assert last.parameters == 8 * last.channels + last.channels


def test_parts_sum_up_to_the_whole_and_heads_come_last(explained: Explained) -> None:
    assert sum(part.parameters for part in explained.parts) == explained.parameters
    assert sum(part.macs for part in explained.parts) == explained.macs
    assert [part.kind for part in explained.parts][-3:] == ["head"] * 3
    assert {"decoder", "head bright", "head square", "head things"} <= {part.name for part in explained.parts}
    assert {part.kind for part in explained.parts} == {"input", "backbone", "decoder", "head"}


def test_every_layer_in_float_has_its_reason(explained: Explained) -> None:
    reasons = {layer.module or layer.node: layer.kept_float for layer in explained.kept}

    assert next(layer.kept_float for layer in explained.layers if layer.node == "conv_2") == ASKED
    lasts = {name for name, why in reasons.items() if why == LAST}
    assert lasts == {"heads.bright.linear", "heads.square.last", "heads.things.box_last", "heads.things.score_last"}
    for layer in explained.layers:
        if layer.weighted:
            assert (layer.arithmetic == "float32") == bool(layer.kept_float)


def test_what_the_search_for_mixed_precision_has_put_back_is_told_with_its_reason(
    tiny_run: Any, tmp_path: Path
) -> None:
    step = tmp_path / "int8-cccc"
    shutil.copytree(tiny_run.int8, step)
    record = msgspec.json.decode((step / SENSITIVITY).read_bytes(), type=Sensitivity)
    layers = [
        msgspec.structs.replace(one, why="sensitive", slack={"bright": 1.0, "square": 0.25})
        if one.why == "asked for"
        else one
        for one in record.layers
    ]
    (step / SENSITIVITY).write_bytes(
        msgspec.json.encode(msgspec.structs.replace(record, layers=tuple(layers), images=4))
    )

    found = explain_student(step, "tiny", None, cache=tiny_run.cache, progress=silent)

    kept = next(layer for layer in found.layers if layer.node == "conv_2")
    assert "sensitive: quantised alone it leaves square 0.25 of its margin" in kept.kept_float
    assert kept.slacks == {"bright": 1.0, "square": 0.25}
    assert found.slack_images == 4


def test_noise_is_that_of_the_graphs(tiny_run: Any, explained: Explained) -> None:
    known = {layer.node for layer in explained.layers if layer.sqnr_db is not None}

    assert known == {layer.node for layer in explained.layers if layer.weighted}
    images = [np.full((1, 1, 64, 64), value, np.float32) for value in (0.2, 0.8)]
    assert known == layer_sqnr(tiny_run.int8 / "float.onnx", tiny_run.int8 / "model.onnx", images).keys()


def test_times_are_measured_of_both_graphs(explained: Explained) -> None:
    assert explained.timed is not None
    assert explained.timed.ms > 0
    assert explained.timed.float_ms is not None
    weighted = [layer for layer in explained.layers if layer.weighted]
    assert all((layer.ms or 0) > 0 for layer in weighted)
    assert all((layer.float_ms or 0) > 0 for layer in weighted)


def test_sensitivities_are_told_for_each_part_that_has_integers_and_each_task(explained: Explained) -> None:
    with_integers = {layer.part for layer in explained.layers if layer.weighted and layer.arithmetic == "int8"}
    told = {part.name: part.slacks for part in explained.parts if part.slacks}

    assert told.keys() == with_integers
    assert all(slacks.keys() == {"bright", "square", "things"} for slacks in told.values())
    assert explained.slack_images == 4


def test_a_head_that_is_quantised_alone_leaves_the_other_tasks_as_they_are(explained: Explained) -> None:
    slacks = next(part.slacks for part in explained.parts if part.name == "head square")

    assert (slacks["bright"], slacks["things"]) == (1.0, 1.0)


def test_no_part_is_begun_after_the_limit(tiny_run: Any) -> None:
    network, val = (
        load_network(tiny_run.int8),
        gather._some(tiny_run.data, "val", 2, load_network(tiny_run.int8), tiny_run.cache),
    )
    assert val is not None

    found = part_slacks(
        tiny_run.int8 / "float.onnx", {"some": ["conv_4"]}, network, [], val, limit_s=-1.0, progress=silent
    )

    assert found == {}


def test_a_student_in_float_has_its_layers_and_no_noise(tiny_run: Any, explained: Explained) -> None:
    found = explain_student(tiny_run.student, "float", tiny_run.data, cache=tiny_run.cache, progress=silent)

    assert not found.quantised
    assert [layer.node for layer in found.layers] == [layer.node for layer in explained.layers]
    assert [layer.part for layer in found.layers] == [layer.part for layer in explained.layers]
    assert all(layer.sqnr_db is None and not layer.kept_float for layer in found.layers)
    assert found.timed is not None
    assert found.timed.float_ms is None


def test_without_images_what_needs_them_is_left_out_and_told(tiny_run: Any, tmp_path: Path) -> None:
    step = tmp_path / "int8-dddd"
    shutil.copytree(tiny_run.int8, step)
    (step / SENSITIVITY).unlink()  # a step that was made before there was such a record

    found = explain_student(step, "tiny", None, cache=tiny_run.cache, progress=silent)

    assert found.sqnr_images == found.slack_images == 0
    assert any("no images are known" in note for note in found.notes)
    assert found.timed is not None


@pytest.mark.parametrize(
    ("module", "part"),
    [
        ("backbone.conv_stem", "backbone conv_stem"),
        ("backbone.blocks.2.0.dw_start.conv", "backbone blocks.2"),
        ("backbone.layer1.0.conv1", "backbone layer1"),
        ("backbone.stages_1.blocks.3.conv", "backbone stages_1"),
        ("decoder.lateral.32.0", "decoder"),
        ("heads.findings.linear", "head findings"),
        ("normalise.mean", "input"),
        ("", "input"),
    ],
)
def test_modules_belong_to_parts(module: str, part: str) -> None:
    assert part_of(module) == part


def test_what_computes_with_a_heads_answers_says_so(tmp_path: Path) -> None:
    shape = (2, 2, 1, 1)
    weights = [numpy_helper.from_array(np.ones(shape, np.float32), f"{name}.weight") for name in ("a", "b", "c")]
    nodes = [
        helper.make_node("Conv", ["image", "a.weight"], ["conv_0.out"], name="conv_0"),
        helper.make_node("Conv", ["conv_0.out", "b.weight"], ["first"], name="conv_1"),
        helper.make_node("Sigmoid", ["first"], ["sigmoid_2.out"], name="sigmoid_2"),
        helper.make_node("Conv", ["sigmoid_2.out", "c.weight"], ["second"], name="conv_3"),
    ]
    ends = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 2, 4, 4]) for name in ("image", "first", "second")
    ]
    graph = helper.make_graph(nodes, "heads", ends[:1], ends[1:], weights)
    path = tmp_path / "float.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9), path)

    found = read_layers(path, path, modules={})  # a graph without quantisers: all is float

    assert [layer.kept_float for layer in found if layer.weighted] == [BEHIND, LAST, LAST]
    assert [layer.part for layer in found] == ["a", "b", "b", "c"]


def test_widths_before_pruning_are_those_of_the_architecture(tiny_run: Any) -> None:
    network = load_network(tiny_run.student)
    path, layer = next(
        (name, one)
        for name, one in network.named_modules()
        if name.startswith("heads.square") and hasattr(one, "weight")
    )
    weight = layer.weight
    assert isinstance(weight, torch.Tensor)
    shape = tuple(weight.shape)
    resized = {path: Resized(tensors={"weight": (3, *shape[1:])})}
    architecture = msgspec.structs.replace(network.architecture, structure=Structure(resized=resized))

    assert widths_before(architecture) == {path: shape[0]}
    assert widths_before(network.architecture) == {}


def test_pruned_layers_tell_what_they_were(tiny_run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gather, "widths_before", lambda architecture: {"heads.square.last": 99})
    monkeypatch.setattr(gather, "pruning_of", lambda folder, architecture: "half of the channels")

    found = explain_student(tiny_run.int8, "tiny", None, cache=tiny_run.cache, deep=False, progress=silent)

    assert [(layer.module, layer.pruned_from) for layer in found.pruned] == [("heads.square.last", 99)]
    assert "pruned: half of the channels" in tail_lines(found)


def test_an_export_keeps_the_cheap_parts_and_nothing_of_a_student_in_float(tiny_run: Any, tmp_path: Path) -> None:
    kept = keep_layers(
        tiny_run.int8, "tiny", tiny_run.data, device="generic-x86", folder=tmp_path, cache=tiny_run.cache
    )

    assert kept is not None
    assert read_explained(tmp_path / LAYERS_FILE) == kept
    assert kept.foreseen is None
    assert all(not part.slacks for part in kept.parts)
    none = keep_layers(
        tiny_run.student, "tiny", tiny_run.data, device="generic-x86", folder=tmp_path, cache=tiny_run.cache
    )
    assert none is None


def test_a_record_of_another_version_counts_as_none(tmp_path: Path) -> None:
    (tmp_path / LAYERS_FILE).write_text('{"format": 9}')

    assert read_explained(tmp_path / LAYERS_FILE) is None
    assert read_explained(tmp_path / "none.json") is None


def test_of_a_run_the_step_nearest_to_the_device_is_taken_with_the_runs_images(tiny_run: Any) -> None:
    found = find_student("tiny", tiny_run.runs)

    assert found.folder == tiny_run.int8
    assert found.dataset is not None
    assert Counter(task.name for task in found.dataset.tasks) == Counter(["bright", "square", "things"])
    assert find_student(str(tiny_run.student), tiny_run.runs).folder == tiny_run.student


def test_images_can_be_named(tiny_run: Any, tmp_path: Path) -> None:
    step = tmp_path / "lonely-eeee"
    shutil.copytree(tiny_run.int8, step)

    assert find_student(str(step), tiny_run.runs).dataset is None
    named = find_student(str(step), tiny_run.runs, data=tiny_run.data.root)
    assert named.dataset is not None


@pytest.mark.parametrize(
    ("named", "words"),
    [("tinny", "did you mean 'tiny'"), ("empty", "holds no finished student")],
)
def test_a_student_that_is_not_there_is_told_in_one_line(tiny_run: Any, named: str, words: str) -> None:
    (tiny_run.runs / "empty").mkdir(exist_ok=True)

    with pytest.raises(UsageError, match=words) as told:
        find_student(named, tiny_run.runs)
    assert "\n" not in str(told.value)


def test_a_step_without_a_network_is_none_of_a_student(tiny_run: Any, tmp_path: Path) -> None:
    step = tmp_path / "data-ffff"
    step.mkdir()
    shutil.copy(tiny_run.int8 / "step.json", step / "step.json")

    with pytest.raises(UsageError, match="is no student's step"):
        find_student(str(step), tiny_run.runs)


def test_the_shares_of_this_machine_are_measured_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from foveola.devices.efficiency import Efficiency
    from foveola.devices.profile import load_profile
    from foveola.toolkit.explain import machine

    counted: list[Any] = []

    def measured(options: Any, *_: object) -> Efficiency:
        counted.append(options)
        return Efficiency(
            machine="m", engine="onnxruntime", threads=1, peaks={}, bandwidth_gb_s=1.0, reaches=(), overhead={},
            networks=(), error=0.0, worst_error=0.0,
        )  # fmt: skip

    monkeypatch.setattr(machine, "measure_machine", measured)
    device = load_profile("generic-x86")

    first, second = machine.calibrated(device, tmp_path / "new"), machine.calibrated(device, tmp_path / "new")

    assert first == second
    assert len(counted) == 1
    (kept,) = (tmp_path / "new").glob("efficiency-*.json")
    kept.write_text("{}")  # of another version
    assert machine.calibrated(device, tmp_path / "new") == first
    assert len(counted) == 2


def test_probes_are_whole_networks_whose_kinds_cover_those_of_students(tmp_path: Path) -> None:
    from foveola.devices.efficiency import kind_of
    from foveola.export.graph_facts import layer_work
    from foveola.toolkit.explain.probes import probe_networks

    kinds: Counter[str] = Counter()
    for name, model in probe_networks().items():
        onnx.save(model, tmp_path / f"{name}.onnx")
        kinds.update(kind_of(layer) for layer in layer_work(tmp_path / f"{name}.onnx"))

    assert all(kinds[kind] >= 4 for kind in ("dense", "pointwise", "depthwise", "matrix", "elementwise", "activation"))
    assert probe_networks() == probe_networks()


@pytest.mark.slow
def test_a_prediction_with_this_machines_own_peaks_lands_near_its_measured_time(tiny_run: Any, tmp_path: Path) -> None:
    from foveola.devices.profile import load_profile
    from foveola.toolkit.explain.machine import calibrated, foresee

    device = load_profile("generic-x86")
    efficiency = calibrated(device, tmp_path)
    found = foresee(tiny_run.int8 / "model.onnx", efficiency.on_this(device), efficiency)

    assert found is not None
    assert found.source == "calibrated"
    assert 0.01 < found.ms < 10  # no timed test: bench/roofline.py holds predictions against measured times


def test_no_network_is_built_for_a_student_that_was_not_pruned(tiny_run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    architecture = load_network(tiny_run.student).architecture
    monkeypatch.setattr(Network, "__init__", lambda *_: pytest.fail("built"))

    assert widths_before(architecture) == {}
