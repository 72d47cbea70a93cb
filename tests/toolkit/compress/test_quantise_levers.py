"""Quantisation step by step: levers are kept where they pay, sensitive layers go back to float, ranges are taken."""

from __future__ import annotations

import hashlib
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper
from small import SPEC, TASKS, silent, squares

from foveola.devices.profile import load_profile
from foveola.export import rounding
from foveola.export.calibrate import Range, read_ranges, write_ranges
from foveola.export.layer_error import overall
from foveola.export.onnx_graph import export_onnx
from foveola.export.placement import LAYERS
from foveola.runtime.errors import FoveolaError
from foveola.runtime.manifest import Calibration
from foveola.toolkit.compress.lessons import write_taught
from foveola.toolkit.compress.levers import LEVERS, Levers, lever_lines
from foveola.toolkit.compress.quantise import CALIBRATION, INT8_GRAPH, RANGES, quantise_student
from foveola.toolkit.compress.sensitivity import SENSITIVITY, Sensitivity
from foveola.toolkit.data.arrays import prepare_arrays
from foveola.toolkit.data.dataset import Dataset
from foveola.toolkit.fresh import new_network
from foveola.toolkit.knobs import Shape
from foveola.toolkit.models.network import save_network
from foveola.toolkit.stages.artefact import Quantize

TINY = Shape(backbone="test_efficientnet", input=SPEC, width=8)
ASKED = tuple(task for task in TASKS if task.name in ("bright", "side", "square"))
Road = tuple[Dataset, Path]


@pytest.fixture(scope="module")
def road(tmp_path_factory: pytest.TempPathFactory) -> Road:
    root = tmp_path_factory.mktemp("levers")
    (root / "student").mkdir()
    data = squares(root / "data", ASKED)
    with torch.random.fork_rng():
        network = new_network("student", data, TINY, 0).train()
        pictures = prepare_arrays(data.subset("train"), SPEC, cache=root / "cache").images
        with torch.no_grad():
            for _ in range(5):
                network(torch.from_numpy(np.array(pictures)))
    save_network(network.eval(), root / "student")
    write_taught(root / "student", "0" * 64)
    (root / "student" / "pruned.json").write_text("{}")
    return data, root / "student"


def quantise(road: Road, folder: Path, *, student: Path | None = None, **knobs: Any) -> list[str]:
    folder.mkdir()
    said: list[str] = []
    settings: dict[str, Any] = {"method": "minmax", "weight_bits": 8} | knobs
    quantise_student(
        student or road[1], road[0], split="calibration", images=2, min_images=2, opset=20,
        folder=folder, cache=road[1].parent / "cache", progress=silent, log=said.append, **settings,
    )  # fmt: skip
    return said


@pytest.fixture(scope="module")
def plain(road: Road, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("plain") / "int8"
    quantise(road, folder)
    return folder


@pytest.fixture(autouse=True)
def written_once(road: Road, monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> None:
    """The float graph of one network is always the same; the exporter takes most of a test's time."""
    from foveola.toolkit.compress import quantise as module

    export, kept = export_onnx, road[1].parent / "graphs"
    kept.mkdir(exist_ok=True)

    def once(network: Any, spec: Any, names: Any, path: Path, *, opset: int) -> Any:
        weights = b"".join(value.numpy().tobytes() for value in network.state_dict().values())
        own = kept / hashlib.sha256(weights).hexdigest()
        if not own.exists():
            origins = export(network, spec, names, path, opset=opset)
            own.with_suffix(".json").write_bytes(msgspec.json.encode(dict(origins)))
            own.write_bytes(path.read_bytes())
        path.write_bytes(own.read_bytes())
        return msgspec.json.decode(own.with_suffix(".json").read_bytes(), type=dict[str, str])

    monkeypatch.setattr(module, "export_onnx", once)


def sensitivity(folder: Path) -> Sensitivity:
    return msgspec.json.decode((folder / SENSITIVITY).read_bytes(), type=Sensitivity)


def test_every_layer_is_told_with_its_error_and_why_it_is_float(plain: Path) -> None:
    found = sensitivity(plain)

    layers = [node for node in onnx.load(plain / INT8_GRAPH).graph.node if node.op_type in LAYERS]
    assert [one.layer for one in found.layers] == [node.name for node in layers]
    assert all(one.module for one in found.layers)
    assert {one.why for one in found.layers if one.float_} == {"last of a head"}
    assert all(one.sqnr_db < 80 for one in found.layers)
    assert (found.images, found.wanted, found.layers[0].slack) == (0, None, {})


def test_records_of_the_student_go_with_it_and_without_levers_there_is_no_account(plain: Path) -> None:
    assert (plain / "pruned.json").exists()
    assert (plain / "taught.json").exists()
    assert not (plain / LEVERS).exists()
    assert msgspec.json.decode((plain / CALIBRATION).read_bytes(), type=Calibration).method == "minmax"


def test_levers_on_auto_never_leave_more_noise_than_they_found(
    road: Road, plain: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rounding, "STEPS", 10)
    said = quantise(road, tmp_path / "int8", method="auto", equalise="auto", rounding="auto", bias_correction="auto")

    account = msgspec.json.decode((tmp_path / "int8" / LEVERS).read_bytes(), type=Levers)
    tried = [one.name for one in account.levers]
    assert tried == [
        "ranges percentile", "ranges entropy", "ranges mse", "equalise weights", "equalise activations",
        "rounding adaround", "bias correction",
    ]  # fmt: skip
    assert all(one.kept == (one.gain_db >= 0.1) for one in account.levers)
    assert overall(account.after_db) >= overall(account.before_db)
    assert lever_lines(account)[-1] in said
    same = (tmp_path / "int8" / INT8_GRAPH).read_bytes() == (plain / INT8_GRAPH).read_bytes()
    assert same == (not any(one.kept for one in account.levers))
    assert not list((tmp_path / "int8").glob("float.*.onnx"))


def test_a_lever_that_is_asked_for_is_pulled(road: Road, plain: Path, tmp_path: Path) -> None:
    quantise(road, tmp_path / "int8", bias_correction="on")

    account = msgspec.json.decode((tmp_path / "int8" / LEVERS).read_bytes(), type=Levers)
    assert [(one.name, one.kept, one.asked) for one in account.levers] == [("bias correction", True, True)]
    stored = {tensor.name for tensor in onnx.load(tmp_path / "int8" / INT8_GRAPH).graph.initializer}
    assert {name for name in stored if name.endswith(".bias")} - {
        tensor.name for tensor in onnx.load(plain / INT8_GRAPH).graph.initializer
    }
    assert (tmp_path / "int8" / "corrections.safetensors").exists()


def test_layers_go_back_to_float_until_the_worst_task_has_its_slack(road: Road, plain: Path, tmp_path: Path) -> None:
    broken = road[1].parent / "broken"
    if not broken.exists():  # one channel a thousand times larger ruins the grid of its tensor
        from foveola.toolkit.models.network import load_network

        network = load_network(road[1])
        state = network.state_dict()
        (weight,) = (value for name, value in state.items() if name.endswith("conv_stem.weight"))
        with torch.no_grad():
            weight[0] *= 3000
        broken.mkdir()
        save_network(network, broken)
    said = quantise(road, tmp_path / "int8", student=broken, least_slack=1.0, most_float=2)

    found = sensitivity(tmp_path / "int8")
    assert found.images == 4
    assert found.wanted == 1.0
    kept = [one.layer for one in found.layers if one.why == "sensitive"]
    assert len(kept) <= 2
    assert min(found.after.values()) >= min(found.before.values())
    assert all(one.slack.keys() == found.before.keys() for one in found.layers if one.why == "")
    assert min(found.before.values()) < 1.0
    assert any("slack of the worst task" in line for line in said)
    integers = {node.name for node in onnx.load(tmp_path / "int8" / INT8_GRAPH).graph.node}
    assert not {f"{name}.weight.dequantize" for name in kept} & integers


def test_learned_ranges_are_taken_as_they_are(road: Road, plain: Path, tmp_path: Path) -> None:
    taught = tmp_path / "qat"
    taught.mkdir()
    for name in ("model.json", "model.safetensors"):
        (taught / name).write_bytes((road[1] / name).read_bytes())
    learned = {name: Range(2 * one.low, 2 * one.high) for name, one in read_ranges(plain / RANGES).items()}
    write_ranges(learned, taught / RANGES)

    said = quantise(road, tmp_path / "int8", student=taught, method="mse")

    assert read_ranges(tmp_path / "int8" / RANGES) == learned
    scales = [
        {t.name: numpy_helper.to_array(t) for t in onnx.load(folder / INT8_GRAPH).graph.initializer}
        for folder in (plain, tmp_path / "int8")
    ]
    for name, scale in scales[0].items():
        if name.removesuffix(".scale") in learned:
            np.testing.assert_allclose(scales[1][name], 2 * scale, rtol=1e-6, err_msg=name)
    record = msgspec.json.decode((tmp_path / "int8" / CALIBRATION).read_bytes(), type=Calibration)
    assert record.method == "learned"
    assert any("learned in training" in line for line in said)


def test_learned_ranges_of_another_graph_are_refused(road: Road, plain: Path, tmp_path: Path) -> None:
    taught = tmp_path / "qat"
    taught.mkdir()
    for name in ("model.json", "model.safetensors"):
        (taught / name).write_bytes((road[1] / name).read_bytes())
    few = dict(list(read_ranges(plain / RANGES).items())[2:])
    write_ranges(few, taught / RANGES)

    with pytest.raises(FoveolaError, match="2 tensors have no learned range"):
        quantise(road, tmp_path / "int8", student=taught)


def test_a_float_layer_that_does_not_exist_is_refused_with_the_nearest(road: Road, plain: Path, tmp_path: Path) -> None:
    first = sensitivity(plain).layers[0].layer

    with pytest.raises(FoveolaError, match=f"did you mean '{first}'"):
        quantise(road, tmp_path / "int8", float_layers=[first + "0"])


def test_a_float_layer_may_be_named_by_its_module(road: Road, tmp_path: Path) -> None:
    quantise(road, tmp_path / "int8", float_layers=["backbone.conv_stem"])

    kept = [one.layer for one in sensitivity(tmp_path / "int8").layers if one.why == "asked for"]
    assert len(kept) == 1
    with pytest.raises(FoveolaError, match="did you mean 'backbone.conv_stem'"):
        quantise(road, tmp_path / "again", float_layers=["backbone.conv_sten"])


def test_a_device_without_int8_refuses_the_step_before_anything_runs() -> None:
    work: Any = SimpleNamespace(step="int8", device=load_profile("x86-sse42-legacy"))

    with pytest.raises(FoveolaError, match="no engine of x86-sse42-legacy computes int8"):
        Quantize(of="student").check_ahead(work)
