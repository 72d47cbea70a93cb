"""Graphs that the device cannot take are made anew on the same calibration images, and only those."""

from __future__ import annotations

import shutil
from pathlib import Path

import msgspec
import numpy as np
import onnx
import pytest
from numpy.typing import NDArray

from foveola.devices.profile import Profile, load_profile
from foveola.export.quantize import quantize_onnx
from foveola.export.saturation.integer_layers import unproved_layers
from foveola.runtime.errors import FoveolaError
from foveola.runtime.manifest import Calibration
from foveola.toolkit.compress.quantise import CALIBRATION
from foveola.toolkit.data.dataset import Dataset
from foveola.toolkit.variants.sources import NOT_CALIBRATED, find_sources
from foveola.toolkit.variants.write import Sources

from .conftest import Student


def sources(
    student: Student, device: str | Profile, folder: Path, *, of: Path | None = None, data: Dataset | None = None
) -> tuple[Sources, Calibration]:
    folder.mkdir(exist_ok=True)
    profile = load_profile(device) if isinstance(device, str) else device
    return find_sources(of or student.folder, student.network, data or student.data, profile, folder, student.cache)


def opset(path: Path) -> int:
    (entry,) = onnx.load(path).opset_import
    return int(entry.version)


def digest_of(student: Student) -> Calibration:
    return msgspec.json.decode((student.folder / CALIBRATION).read_bytes(), type=Calibration)


def test_a_device_like_the_recipe_s_takes_the_step_s_own_graphs(student: Student, tmp_path: Path) -> None:
    found, record = sources(student, "generic-x86", tmp_path)

    assert (found.float_graph, found.int8_graph) == (student.folder / "float.onnx", student.folder / "model.onnx")
    assert list(tmp_path.iterdir()) == []
    assert record == digest_of(student)


@pytest.fixture(scope="module")
def older(student: Student, tmp_path_factory: pytest.TempPathFactory) -> tuple[Sources, Calibration]:
    """For a device of opset 18."""
    return sources(student, "rk3588", tmp_path_factory.mktemp("older"))


def test_an_older_opset_makes_both_graphs_anew_on_the_same_images(
    student: Student, older: tuple[Sources, Calibration]
) -> None:
    found, record = older

    assert found.int8_graph is not None
    assert student.folder not in (found.float_graph.parent, found.int8_graph.parent)
    assert opset(found.float_graph) == opset(found.int8_graph) == 18
    assert record == digest_of(student)
    calibrated = _prepared(student, student.data.subset("calibration"))
    assert [image.tobytes() for image in found.images()] == [image.tobytes() for image in calibrated]
    for path in (found.float_graph, found.int8_graph):
        onnx.checker.check_model(onnx.load(path), full_check=True)


def _prepared(student: Student, data: Dataset) -> list[NDArray[np.float32]]:
    from foveola.toolkit.data.arrays import prepare_arrays

    arrays = prepare_arrays(data, student.network.input)
    return [np.array(arrays.images[i : i + 1]) for i in range(len(arrays))]


def test_a_graph_made_anew_has_the_same_integers_and_scales(
    student: Student, older: tuple[Sources, Calibration]
) -> None:
    found, _ = older

    assert found.int8_graph is not None
    before, after = (onnx.load(path) for path in (student.folder / "model.onnx", found.int8_graph))
    integers = [
        [one.raw_data for one in model.graph.initializer if one.data_type == onnx.TensorProto.INT8]
        for model in (before, after)
    ]
    assert len(integers[0]) > 20
    assert integers[0] == integers[1]


def test_a_processor_that_saturates_gets_weights_that_are_proved(student: Student, tmp_path: Path) -> None:
    found, _ = sources(student, "x86-avx2-legacy", tmp_path)

    assert found.int8_graph is not None
    assert found.int8_graph.parent == tmp_path
    assert found.float_graph == student.folder / "float.onnx"
    assert unproved_layers(student.folder / "model.onnx")
    assert unproved_layers(found.int8_graph) == ()
    assert found.weight_bits == 7


def test_weights_fitted_for_a_processor_that_saturates_are_not_taken_where_all_bits_are_safe(
    student: Student, tmp_path: Path
) -> None:
    legacy, _ = sources(student, "x86-avx2-legacy", tmp_path / "legacy")
    step = tmp_path / "step"
    shutil.copytree(student.folder, step)
    assert legacy.int8_graph is not None
    shutil.copy(legacy.int8_graph, step / "model.onnx")
    record = msgspec.json.decode((step / "saturation.json").read_bytes())
    (step / "saturation.json").write_bytes(msgspec.json.encode({**record, "weight_bits": 7, "overflow": "fit"}))

    found, _ = sources(student, "generic-x86", tmp_path / "wide", of=step)

    assert found.int8_graph is not None
    assert found.int8_graph.read_bytes() == (student.folder / "model.onnx").read_bytes()


def test_a_step_from_before_the_lint_is_judged_by_its_weights(student: Student, tmp_path: Path) -> None:
    step = tmp_path / "step"
    shutil.copytree(student.folder, step)
    (step / "saturation.json").unlink()

    wide, _ = sources(student, "generic-x86", tmp_path / "wide", of=step)
    legacy, _ = sources(student, "x86-avx2-legacy", tmp_path / "legacy", of=step)

    assert wide.int8_graph == step / "model.onnx"
    assert legacy.int8_graph is not None
    assert legacy.int8_graph.parent == tmp_path / "legacy"


def test_layers_that_were_kept_in_float_stay_so_in_a_graph_made_anew(
    student: Student, older: tuple[Sources, Calibration], tmp_path: Path
) -> None:
    def layers(path: Path) -> list[str]:
        return [node.name for node in onnx.load(path).graph.node if node.op_type in ("Conv", "Gemm", "MatMul")]

    step = tmp_path / "step"
    shutil.copytree(student.folder, step)
    kept = layers(step / "float.onnx")[3]
    quantize_onnx(
        step / "float.onnx", step / "model.onnx", _prepared(student, student.data.subset("calibration")),
        float_layers=[kept], min_images=2,
    )  # fmt: skip

    found, _ = sources(student, "x86-avx2-legacy", tmp_path / "new", of=step)

    assert found.int8_graph is not None
    assert kept in found.float_layers
    graph = onnx.load(found.int8_graph).graph
    constants = {tensor.name for tensor in graph.initializer if tensor.data_type == onnx.TensorProto.FLOAT}
    integers = {node.name for node in graph.node if node.op_type in ("Conv", "Gemm", "MatMul")} - {
        node.name for node in graph.node if len(node.input) > 1 and node.input[1] in constants
    }
    assert kept not in integers
    assert len(integers) > 10
    # Another opset may name them otherwise; they stand in one order.
    assert len(layers(older[0].float_graph)) == len(layers(student.folder / "float.onnx"))
    assert kept not in older[0].float_layers


def test_without_the_calibration_images_nothing_is_made_anew(student: Student, tmp_path: Path) -> None:
    lost = student.data.take([i for i, one in enumerate(student.data.samples) if one.split != "calibration"])

    with pytest.raises(FoveolaError, match="the 2 images that calibrated the student are not among its data") as no:
        sources(student, "x86-avx2-legacy", tmp_path, data=lost)

    assert "\n" not in str(no.value)
    assert "quantise the student anew" in str(no.value)


def test_other_images_in_their_place_are_no_calibration_images(student: Student, tmp_path: Path) -> None:
    samples = list(student.data.samples)
    place = next(i for i, one in enumerate(samples) if one.split == "calibration")
    samples[place] = msgspec.structs.replace(samples[place], sha256="f" * 64)
    changed = msgspec.structs.replace(student.data, samples=tuple(samples))

    with pytest.raises(FoveolaError, match="are not among its data"):
        sources(student, "x86-avx2-legacy", tmp_path, data=changed)


def test_a_student_in_float_has_images_to_be_typed_by_and_no_calibration(student: Student, tmp_path: Path) -> None:
    step = tmp_path / "step"
    shutil.copytree(student.float_folder, step)
    shutil.copy(student.folder / "float.onnx", step)

    found, record = sources(student, "generic-x86", tmp_path / "new", of=step)

    assert record is NOT_CALIBRATED
    assert found.int8_graph is None
    assert len(found.images()) == len(student.data.subset("calibration")) == 2
