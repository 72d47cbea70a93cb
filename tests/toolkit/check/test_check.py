"""`foveola check`: which step of making costs what, where two engines part, and what is said of what is absent."""

from __future__ import annotations

import json
import math
import shutil
from io import BytesIO
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import onnx
import pytest
import small
import torch
from click.testing import CliRunner
from numpy.typing import NDArray
from onnx import numpy_helper
from PIL import Image

from foveola.export.onnx_graph import export_onnx
from foveola.export.openvino_ir import write_ir
from foveola.export.quantize import quantize_onnx
from foveola.runtime.bundle import read_unverified, write_bundle
from foveola.runtime.errors import FoveolaError, MissingPartError, UsageError
from foveola.runtime.image import decode_image, prepare
from foveola.runtime.manifest import (
    FORMAT,
    Calibration,
    Manifest,
    OnnxRuntimeOptions,
    OpenVinoOptions,
    Provenance,
    TaskOutput,
    encode_manifest,
)
from foveola.runtime.predict import Predictor
from foveola.runtime.selftest import make_golden
from foveola.runtime.task import Task
from foveola.toolkit.check.inputs import read_inputs
from foveola.toolkit.check.run import Check, check_bundle
from foveola.toolkit.check.student import Student, find_student
from foveola.toolkit.check.words import check_lines
from foveola.toolkit.commands.table import foveola as main
from foveola.toolkit.data.hashing import file_sha256
from foveola.toolkit.models.network import Architecture, Network, save_network

TASKS = (
    Task(name="bright", kind="binary", classes=("no", "yes")),
    Task(name="corner", kind="multiclass", classes=("a", "b", "c")),
    Task(name="side", kind="regression", classes=("side",), unit="px"),
)
OUTPUTS = tuple(
    TaskOutput(task=task, tensors=(task.name,), mean=(1.0,) * regression, std=(1.0,) * regression)
    for task in TASKS
    for regression in [task.kind == "regression"]
)


def images(count: int) -> list[NDArray[np.float32]]:
    random = np.random.default_rng(3)
    return [random.random((1, 1, 64, 64), dtype=np.float32) for _ in range(count)]


def pictures() -> list[bytes]:
    found = []
    for image in images(2):
        stream = BytesIO()
        Image.fromarray((image[0, 0] * 255).astype(np.uint8)).save(stream, "PNG")
        found.append(stream.getvalue())
    return found


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of three steps: the student, its int8 graph, and the bundle of both."""
    run = tmp_path_factory.mktemp("run")
    for step in ("student-1", "int8-2", "bundle-3"):
        (run / step).mkdir()
    with torch.random.fork_rng():
        torch.manual_seed(1)
        network = Network(
            Architecture(role="student", backbone="mobilenetv4_conv_small_035", input=small.SPEC, tasks=TASKS, width=16)
        ).train()
        with torch.no_grad():
            for _ in range(5):
                network(torch.from_numpy(np.concatenate(images(8))))
    save_network(network.eval(), run / "student-1")
    export_onnx(network, small.SPEC, [task.name for task in TASKS], run / "int8-2/float.onnx", opset=20)
    quantize_onnx(run / "int8-2/float.onnx", run / "int8-2/model.onnx", images(6), min_images=6)
    pack(run, run / "int8-2/model.onnx", run / "int8-2/model.onnx", "int8")
    return run


def pack(run: Path, graph: Path, for_openvino: Path, arithmetic: Any) -> Path:
    """Write `bundle-3/core.foveola` with one graph for ONNX Runtime and one for OpenVINO."""
    xml = run / "bundle-3/openvino.xml"
    write_ir(for_openvino, xml)
    members = {
        "model.onnx": graph.read_bytes(),
        "openvino.xml": xml.read_bytes(),
        "openvino.bin": xml.with_suffix(".bin").read_bytes(),
    }
    manifest = Manifest(
        format=FORMAT,
        name="squares",
        version="1.0.0",
        device="generic-x86",
        input=small.SPEC,
        outputs=OUTPUTS,
        engines=(
            OnnxRuntimeOptions(arithmetic=arithmetic, threads=1),
            OpenVinoOptions(arithmetic=arithmetic, threads=1),
        ),
        calibration=Calibration(method="none", images=0, min_images=0, images_digest="0" * 64),
        provenance=Provenance(
            recipe="squares",
            recipe_digest="0" * 64,
            data_digest="0" * 64,
            teacher_digest="0" * 64,
            student_digest=file_sha256(run / "student-1/model.safetensors"),
            seed=0,
            versions={},
        ),
    )
    members["manifest.json"] = encode_manifest(manifest)
    path = run / "bundle-3/core.foveola"
    bundle = write_bundle(path, members)
    members["golden.npz"] = make_golden([Predictor(bundle, "onnxruntime")], pictures())
    write_bundle(path, members)
    return path


@pytest.fixture
def run(made: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(made, tmp_path / "run"))


@pytest.fixture(scope="module")
def checked(made: Path) -> Check:
    return check_bundle(made / "bundle-3/core.foveola", layers=False)


def change(source: Path, node: str, *, nan: bool = False) -> Path:
    """The graph with the largest weight of one layer turned round tenfold, or NaN."""
    model = onnx.load(source)
    layer = next(one for one in model.graph.node if one.name == node)
    tensor = next(one for one in model.graph.initializer if one.name == layer.input[1])
    values = numpy_helper.to_array(tensor).copy()
    place = np.unravel_index(np.argmax(np.abs(values)), values.shape)
    values[place] = np.nan if nan else -10 * values[place]
    tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))
    target = source.with_name("changed.onnx")
    onnx.save(model, target)
    return target


def some_layer(graph: Path, number: int) -> str:
    return str([node.name for node in onnx.load(graph).graph.node if node.op_type == "Conv"][number])


def test_a_sound_bundle_is_followed_from_torch_to_each_engine(checked: Check) -> None:
    sides = [(one.kind, one.link.reference, one.link.other) for one in checked.chain]

    assert sides == [
        ("export", "torch float32", "onnxruntime float32, exported anew"),
        ("precision", "onnxruntime float32, exported anew", "onnxruntime int8"),
        ("engine", "onnxruntime int8", "openvino int8"),
    ]
    assert [(link.reference, link.other) for link in checked.against] == [
        ("torch float32", "onnxruntime int8"), ("torch float32", "openvino int8"),
    ]  # fmt: skip
    assert checked.images == 2
    assert checked.notes == ()


def test_the_exporter_adds_nothing_but_rounding(checked: Check) -> None:
    export = checked.chain[0].link

    assert export.agrees
    assert export.parting is None
    assert all(one.relative < 1e-4 for one in export.outputs)


def test_the_figures_are_those_of_the_outputs_themselves(made: Path, checked: Check) -> None:
    bundle = read_unverified(made / "bundle-3/core.foveola")
    student = Student(made / "student-1", bundle)
    predictor = Predictor(bundle, "openvino")
    inputs = [prepare(decode_image(picture), small.SPEC)[0][None] for picture in pictures()]
    ours = np.concatenate([student.run(x)["corner"] for x in inputs]).astype(np.float64)
    theirs = np.concatenate([predictor.run(x)["corner"] for x in inputs]).astype(np.float64)

    (line,) = [one for one in checked.against[1].outputs if one.tensor == "corner"]

    assert line.largest == pytest.approx(np.abs(ours - theirs).max())
    assert line.mean == pytest.approx(np.abs(ours - theirs).mean())
    assert line.relative == pytest.approx(np.sqrt(((ours - theirs) ** 2).mean() / (ours**2).mean()))
    assert line.decisions == 2
    assert line.flips == int((ours.argmax(1) != theirs.argmax(1)).sum())


def test_a_weight_changed_for_one_engine_is_named_with_its_module(run: Path) -> None:
    clean = run / "int8-2/float.onnx"
    node = some_layer(clean, 20)
    path = pack(run, clean, change(clean, node), "float32")

    check = check_bundle(path)

    export, engine = (one.link for one in check.chain)
    assert export.agrees
    assert engine.parting is not None
    assert (engine.parting.node, engine.parting.kind) == (node, "jump")
    assert engine.parting.module.startswith("backbone.")
    assert engine.parting.measured < 20
    assert node in "\n".join(check_lines(check))


def test_nan_in_one_engine_is_named(run: Path) -> None:
    clean = run / "int8-2/float.onnx"
    node = some_layer(clean, 12)
    # In ONNX Runtime's graph: OpenVINO's ReLU makes 0 of NaN.
    path = pack(run, change(clean, node, nan=True), clean, "float32")
    shutil.rmtree(run / "student-1")  # to be quick

    check = check_bundle(path)

    parting = check.chain[-1].link.parting
    assert parting is not None
    assert parting.node == node
    assert "NaN" in "\n".join(check_lines(check))


def test_a_fault_of_the_exporter_is_found_by_watching_torch(made: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clean = made / "int8-2/float.onnx"
    node = some_layer(clean, 9)
    changed = change(clean, node).read_bytes()
    plain = Student.__init__

    def faulty(self: Student, *arguments: Any) -> None:
        plain(self, *arguments)
        self.graph = changed

    monkeypatch.setattr(Student, "__init__", faulty)

    check = check_bundle(made / "bundle-3/core.foveola", layers=False)

    parting = check.chain[0].link.parting
    assert parting is not None
    assert (parting.node, parting.kind) == (node, "jump")


def test_a_float_bundle_is_not_exported_a_second_time(run: Path) -> None:
    clean = run / "int8-2/float.onnx"
    path = pack(run, clean, clean, "float32")

    check = check_bundle(path)

    assert [one.link.other for one in check.chain] == ["onnxruntime float32", "openvino float32"]
    assert all(one.link.agrees for one in check.chain)
    assert check.flips == 0


def test_without_the_student_the_engines_are_held_against_each_other_and_that_is_told(run: Path) -> None:
    shutil.rmtree(run / "student-1")

    check = check_bundle(run / "bundle-3/core.foveola", bisect=False)

    assert check.student == ""
    assert [(one.link.reference, one.link.other) for one in check.chain] == [("onnxruntime int8", "openvino int8")]
    assert "torch left out" in check.notes[0]
    assert "--student" in check.notes[0]


def test_alone_an_engine_has_nothing_to_be_held_against(run: Path) -> None:
    shutil.rmtree(run / "student-1")

    with pytest.raises(FoveolaError, match="nothing to hold onnxruntime int8 against"):
        check_bundle(run / "bundle-3/core.foveola", engines=["onnxruntime"])


def test_another_student_is_refused_by_its_digest(run: Path) -> None:
    weights = run / "student-1/model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"\0")

    with pytest.raises(FoveolaError, match="holds student .*, the bundle was made of"):
        check_bundle(run / "bundle-3/core.foveola", student=run / "student-1")


def test_the_student_is_found_beside_the_bundle_and_nowhere_else(run: Path) -> None:

    path = run / "bundle-3/core.foveola"
    manifest = read_unverified(path).manifest
    lonely = run / "elsewhere" / "deep" / "core.foveola"
    lonely.parent.mkdir(parents=True)
    shutil.copy(path, lonely)

    assert find_student(path, manifest, None) == run.resolve() / "student-1"
    assert find_student(lonely, manifest, None) is None
    other = msgspec.structs.replace(
        manifest, provenance=msgspec.structs.replace(manifest.provenance, student_digest="f" * 64)
    )
    assert find_student(path, other, None) is None


@pytest.mark.parametrize(
    ("engines", "error", "words"),
    [
        (["onyxruntime"], UsageError, "there is no such engine"),
        (["tensorrt"], FoveolaError, "has no artefact for it"),
    ],
    ids=["a mistyped engine", "an engine that the bundle is not for"],
)
def test_an_engine_that_is_not_there_is_refused(made: Path, engines: list[str], error: Any, words: str) -> None:
    with pytest.raises(error, match=words):
        check_bundle(made / "bundle-3/core.foveola", engines=engines)


@pytest.mark.parametrize("tolerance", [math.nan, math.inf, -1.0])
def test_a_tolerance_that_is_no_distance_is_a_wrong_command(made: Path, tolerance: float) -> None:
    with pytest.raises(UsageError, match="is no distance; give a number, 0 or more"):
        check_bundle(made / "bundle-3/core.foveola", tolerance=tolerance)


def test_no_tolerance_at_all_is_one(run: Path) -> None:
    clean = run / "int8-2/float.onnx"
    path = pack(run, clean, change(clean, some_layer(clean, -1)), "float32")

    assert all(one.link.tolerance == 0 for one in check_bundle(path, tolerance=0.0).chain)


def test_an_engine_that_is_not_installed_is_left_out_with_a_word_or_refused_where_asked_for(
    made: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from foveola.runtime import engine

    real = engine.is_installed
    monkeypatch.setattr(engine, "is_installed", lambda name: name != "openvino" and real(name))
    path = made / "bundle-3/core.foveola"

    check = check_bundle(path, bisect=False)

    assert [link.other for link in check.against] == ["onnxruntime int8"]
    assert "openvino left out" in check.notes[0]
    assert "pip install" in check.notes[0]
    with pytest.raises(MissingPartError, match="pip install"):
        check_bundle(path, engines=["openvino"])


def test_images_of_a_folder_are_taken_with_or_without_a_manifest(made: Path, tmp_path: Path) -> None:
    bundle = read_unverified(made / "bundle-3/core.foveola")
    first, second = (tmp_path / name for name in ("a.png", "b.png"))
    for file, picture in zip((first, second), pictures(), strict=True):
        file.write_bytes(picture)

    golden, all_of_it = read_inputs(bundle, [], None, 9), read_inputs(bundle, [], tmp_path, 9)
    one_of_it = read_inputs(bundle, [], tmp_path, 1)
    (tmp_path / "manifest.csv").write_text("file,patient_id\nb.png,p1\n")
    named = read_inputs(bundle, [first], tmp_path, 9)
    (tmp_path / "manifest.csv").write_text("image\nb.png\n")

    assert [len(some) for some in (golden, all_of_it, one_of_it, named)] == [2, 2, 1, 2]
    assert all(np.array_equal(ours, theirs) for ours, theirs in zip(golden, all_of_it, strict=True))
    assert np.array_equal(named[1], golden[1])
    with pytest.raises(FoveolaError, match="has no column 'file'"):
        read_inputs(bundle, [], tmp_path, 9)
    with pytest.raises(FoveolaError, match="holds no image"):
        read_inputs(bundle, [], made, 9)


def test_the_command_writes_one_json_object_and_its_exit_code_counts_flips(run: Path) -> None:
    clean = run / "int8-2/float.onnx"
    path = pack(run, clean, change(clean, some_layer(clean, -1)), "float32")
    shutil.rmtree(run / "student-1")  # to be quick

    told = CliRunner().invoke(main, ["check", str(path), "--json", "--no-bisect"], standalone_mode=False)
    strict = CliRunner().invoke(main, ["check", str(path), "--no-bisect", "--flips", "0"], standalone_mode=False)

    result = json.loads(told.stdout)
    assert result["flips"] == max(sum(one["flips"] for one in link["outputs"]) for link in result["against"])
    assert [one["kind"] for one in result["chain"]] == ["engine"]
    assert told.return_value == 0
    assert strict.return_value == int(result["flips"] > 0)
    assert "step by step" in strict.stdout
