"""`foveola export`: a finished step for another device, by the real command on a tiny run."""

from __future__ import annotations

import io
import json
import re
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click
import numpy as np
import onnx
import pytest
from click.testing import CliRunner

from foveola.runtime.bundle import Bundle, read_unverified
from foveola.runtime.dicom.rule import SourceRule
from foveola.runtime.errors import FoveolaError, UsageError
from foveola.runtime.manifest import TensorRtOptions
from foveola.runtime.selftest import self_test
from foveola.runtime.tensorrt.plan import decode_plan
from foveola.toolkit import pipeline
from foveola.toolkit.commands.run import load_recipe
from foveola.toolkit.commands.table import foveola as main
from foveola.toolkit.variants.adhoc import rules_of

INPUT = "{height: 64, width: 64, channels: 1, window: percentile}"
RECIPE = f"""
name: tiny
device: generic-x86
seed: 3
data: {{stage: phantom, patients: 24, size: 64, shares: {{train: 0.3, val: 0.3, calibration: 0.2, test: 0.2}}}}
tasks:
  view: {{kind: binary, classes: [PA, AP]}}
  boxes: {{kind: detection, classes: [nodule, effusion, opacity]}}
steps:
  teacher: {{stage: train, backbone: resnet10t, input: {INPUT}, width: 8, output_stride: 32, epochs: 1, batch_size: 8}}
  student:
    {{stage: distill, teacher: teacher, backbone: test_efficientnet, input: {INPUT}, width: 8, epochs: 1}}
  int8: {{stage: quantize, of: student, min_images: 2}}
"""


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the recipe and its finished run; exports of whole bundles lie beside it."""
    folder = tmp_path_factory.mktemp("export")
    (folder / "tiny.yaml").write_text(RECIPE)
    pipeline.run(load_recipe(str(folder / "tiny.yaml"), ()), folder / "runs")
    return folder


def call(place: Path, step: str, *words: str) -> Any:
    command = ["export", step, "--runs", str(place / "runs"), *words]
    return CliRunner().invoke(main, command, standalone_mode=False)


def export(place: Path, step: str, out: str, *words: str) -> tuple[Bundle, list[dict[str, Any]]]:
    done = call(place, step, "--out", str(place / out), "--json", *words)
    if done.exception is not None:
        raise done.exception
    said = json.loads(done.stdout)
    assert Path(said["bundle"]) == place / out / "tiny.foveola"
    return read_unverified(place / out / "tiny.foveola"), said["variants"]


def step(place: Path, name: str) -> str:
    return f"{place / 'tiny.yaml'}:{name}"


def folder_of(place: Path, name: str) -> Path:
    (found,) = (place / "runs/tiny").glob(f"{name}-*")
    return found


def refused(place: Path, words: Sequence[str], out: str) -> Exception:
    done = call(place, *words, "--out", str(place / out))
    assert isinstance(done.exception, (FoveolaError, click.UsageError)), done
    assert "\n" not in str(done.exception)
    return done.exception


@pytest.fixture(scope="module")
def jetson(place: Path) -> tuple[Bundle, list[dict[str, Any]]]:
    return export(place, step(place, "int8"), "jetson", "--device", "jetson-orin-nano-8gb", "--engine", "tensorrt",
                  "--precision", "int8", "--precision", "float16")  # fmt: skip


def test_the_table_names_every_form_and_the_last_line_the_bundle(place: Path) -> None:
    words = ("--pick", "first", "--nncf", "off")

    done = call(place, step(place, "int8"), "--out", str(place / "table"), *words)

    assert done.exception is None, done.exception
    for name in ("openvino", "onnxruntime", "ships:", "first", "preference", "slack"):
        assert name in done.stdout
    assert done.stdout.splitlines()[-1] == f"{place / 'table/tiny.foveola'}  not proved, not signed"
    assert sorted(path.name for path in (place / "table").iterdir()) == ["layers.json", "tiny.foveola", "variants.json"]


def test_another_device_gets_its_own_opset_settings_and_budget_without_training(place: Path) -> None:
    before = sorted(path.name for path in (place / "runs/tiny").iterdir())

    bundle, variants = export(place, step(place, "int8"), "rk", "--device", "rk3588", "--nncf", "off", "--engine",
                              "onnxruntime", "--precision", "int8")  # fmt: skip

    model = onnx.load_from_string(bundle.members["model.onnx"])
    assert [(entry.domain, entry.version) for entry in model.opset_import] == [("", 18)]
    (options,) = bundle.manifest.engines
    assert options.threads == 4  # type: ignore[union-attr]
    assert bundle.manifest.device == "rk3588"
    assert bundle.manifest.budget is not None
    assert bundle.manifest.budget.latency_ms == 80
    assert [one["name"] for one in variants] == ["onnxruntime int8"]
    assert variants[0]["timing"]["source"] == "predicted"
    assert self_test(bundle).ok
    assert sorted(path.name for path in (place / "runs/tiny").iterdir()) == before


def test_a_step_s_folder_with_its_recipe_is_the_same_as_its_name(place: Path) -> None:
    words = ("--engine", "onnxruntime", "--precision", "int8", "--pick", "first")

    by_name, _ = export(place, step(place, "int8"), "name", *words)
    by_folder, _ = export(place, str(folder_of(place, "int8")), "folder", "--of", str(place / "tiny.yaml"), *words)

    assert by_name.digest == by_folder.digest


def test_a_jetson_gets_the_build_kit_and_the_answers_that_its_engine_must_give(
    jetson: tuple[Bundle, list[dict[str, Any]]],
) -> None:
    bundle, variants = jetson

    first = bundle.manifest.engines[0]
    assert isinstance(first, TensorRtOptions)
    plan = decode_plan(bundle.members["tensorrt.json"])
    assert plan.arithmetic == first.arithmetic
    model = onnx.load_from_string(bundle.members["tensorrt.onnx"])
    assert [entry.version for entry in model.opset_import] == [19]
    golden = np.load(io.BytesIO(bundle.members["golden.npz"]))
    expected = [name for name in golden.files if name.startswith("tensorrt/")]
    assert len(expected) == 3 * len(model.graph.output)
    assert {name.rpartition("/")[2] for name in expected} == {value.name for value in model.graph.output}
    assert [one["name"] for one in variants] == ["tensorrt int8", "tensorrt float16"]
    # Nothing of an engine that is not here was measured, and its answers were still held against torch.
    for one in variants:
        assert one["timing"]["source"] == "predicted"
        assert one["slack"] is not None


def test_the_expected_answers_of_a_kit_are_near_those_of_torch(
    place: Path, jetson: tuple[Bundle, list[dict[str, Any]]]
) -> None:
    import torch

    from foveola.runtime.image import decode_image, prepare
    from foveola.toolkit.models.network import load_network

    bundle, _ = jetson
    network = load_network(folder_of(place, "student"))
    golden = np.load(io.BytesIO(bundle.members["golden.npz"]))
    x_CHW, _ = prepare(decode_image(golden["image_0"].tobytes()), bundle.manifest.input)
    with torch.inference_mode():
        raw = {name: value.numpy() for name, value in network(torch.from_numpy(x_CHW[None])).items()}

    for name, value in raw.items():
        error = np.sqrt(((golden[f"tensorrt/0/{name}"] - value) ** 2).mean())
        assert error < 0.2 * max(1.0, float(np.sqrt((value**2).mean()))), name


def test_a_teacher_is_exported_for_a_server(place: Path) -> None:
    bundle, variants = export(place, step(place, "teacher"), "teacher", "--pick", "first", "--engine", "onnxruntime")

    assert [one["name"] for one in variants] == ["onnxruntime float32"]
    boxes = next(one for one in bundle.manifest.outputs if one.task.kind == "detection")
    assert boxes.proposals is not None
    assert all(one["slack"] == pytest.approx(1, abs=0.05) for one in variants)
    assert self_test(bundle).ok


@pytest.mark.parametrize(
    ("name", "words", "match"),
    [
        ("int8", ("--device", "intel-n10"), r"device 'intel-n10': there is no such profile; did you mean"),
        ("int8", ("--engine", "tensorrt"), "device generic-x86: has no tensorrt; its engines: openvino, onnxruntime"),
        ("int8", ("--precision", "float16"), "nothing to write for openvino, onnxruntime; name another precision"),
        ("int8", ("--device", "kria-k26", "--strict"), "kria-k26.yaml: .*only general knowledge"),
        ("int7", (), "tiny.yaml has no step 'int7'; it has "),
        ("data", (), "is no student's step"),
        ("student", ("--precision", "int8"), "quantise the student first"),
    ],
    ids=[
        "a device that is none", "an engine of another device", "a precision of another device",
        "figures that nobody looked up", "a step that is none", "a step without a network",
        "int8 of a student in float",
    ],
)  # fmt: skip
def test_what_cannot_be_exported_is_refused_in_one_line(
    place: Path, name: str, words: tuple[str, ...], match: str
) -> None:
    found = str(refused(place, (step(place, name), *words), "refused"))

    assert re.search(match, found), found
    assert not (place / "refused/tiny.foveola").exists()


SHIPS = (
    RECIPE
    + """
  bundle: {stage: export, of: int8, version: '2.1.0', source: {modalities: [DX], body_parts: [CHEST]}}
"""
)


def test_a_bundle_for_another_device_asks_the_same_of_its_images(place: Path) -> None:
    (place / "ships.yaml").write_text(SHIPS)
    words = ("--engine", "onnxruntime", "--precision", "int8", "--pick", "first")

    bundle, _ = export(place, f"{place / 'ships.yaml'}:int8", "ships", *words)

    assert bundle.manifest.source == SourceRule(modalities=("DX",), body_parts=("CHEST",))
    assert bundle.manifest.version == "2.1.0"


def test_export_steps_that_ask_different_things_are_told_apart_by_their_student(place: Path) -> None:
    two = SHIPS + "  plain: {stage: export, of: student, fitness: {kind: radiograph}}\n"
    (place / "two.yaml").write_text(two)
    recipe = load_recipe(str(place / "two.yaml"), ())

    assert rules_of(recipe, "two:int8")["source"].modalities == ("DX",)
    assert rules_of(recipe, "two:student")["fitness"].kind == "radiograph"
    assert rules_of(recipe, str(folder_of(place, "int8")))["source"].modalities == ("DX",)
    with pytest.raises(UsageError, match="differ in source, fitness or version, and none is of this step"):
        rules_of(recipe, "two:teacher")
    assert rules_of(load_recipe(str(place / "tiny.yaml"), ()), "tiny:int8") == {}


def test_a_folder_without_its_recipe_is_a_mistake_of_use(place: Path) -> None:
    found = refused(place, (str(folder_of(place, "student")),), "refused")

    assert isinstance(found, UsageError)
    assert "give RECIPE:STEP, or a step's folder and --of RECIPE" in str(found)


def test_a_step_that_is_not_done_and_data_that_are_not_there_say_what_to_run(place: Path, tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    shutil.copytree(place / "runs", runs)
    (student,) = (runs / "tiny").glob("int8-*")
    shutil.rmtree(student)
    done = CliRunner().invoke(main, ["export", step(place, "int8"), "--runs", str(runs)], standalone_mode=False)
    nothing = CliRunner().invoke(
        main, ["export", step(place, "int8"), "--runs", str(tmp_path / "none")], standalone_mode=False
    )

    assert "is not done yet" in str(done.exception)
    assert "foveola run" in str(done.exception)
    assert "are not there" in str(nothing.exception)
    assert isinstance(done.exception, UsageError)
    assert isinstance(nothing.exception, FoveolaError)
