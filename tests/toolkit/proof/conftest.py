"""One tiny shipped bundle, sixty cases, and what a teacher said about them; each test breaks one part.

Every output of the bundle is a linear function of the mean of the image's 4 x 4 blocks (grid 8 x 8), as in the
runtime's tests. The teacher is the bundle itself with a little noise on its probabilities.
"""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import onnx
import openvino
import pytest
from onnx import TensorProto, helper, numpy_helper
from PIL import Image

from foveola.export.signing import make_keys, sign_members
from foveola.runtime.bundle import read_unverified, write_bundle
from foveola.runtime.manifest import (
    FORMAT,
    Calibration,
    InputSpec,
    Manifest,
    OnnxRuntimeOptions,
    OpenVinoOptions,
    Provenance,
    TaskOutput,
    encode_manifest,
)
from foveola.runtime.predict import Predictor
from foveola.runtime.task import Task
from foveola.toolkit.data.hashing import file_sha256
from foveola.toolkit.proof.kept_answers import StoredAnswers, store_answers
from foveola.toolkit.proof.stored_answers import write_answers
from foveola.toolkit.protocol.file import lock_protocol
from foveola.toolkit.protocol.origin import write_new

SIDE, CELL, CASES = 32, 4, 60
POOLED = {"findings": ([20.0, -20.0], [-6.0, 6.0]), "age": ([2.0], [-1.0])}
BLOCKS = {
    "lungs": ([0.0, 8.0], [0.0, -4.0]),
    "spots.boxes": ([0.0] * 4, [2.0] * 4),  # softplus(2) * 4 = 8.5 pixels each way
    "spots.scores": ([20.0], [-15.0]),
}
TASKS = (
    Task(name="findings", kind="multilabel", classes=("bright", "dark")),
    Task(name="age", kind="regression", classes=("age",), unit="years"),
    Task(name="lungs", kind="segmentation", classes=("lung",)),
    Task(name="spots", kind="detection", classes=("spot",)),
)
TEACHER = "e" * 64


def outputs() -> tuple[TaskOutput, ...]:
    findings, age, lungs, spots = TASKS
    return (
        TaskOutput(task=findings, tensors=("findings",), thresholds=(0.5, 0.5)),
        TaskOutput(task=age, tensors=("age",), mean=(50.0,), std=(10.0,)),
        TaskOutput(task=lungs, tensors=("lungs",)),
        TaskOutput(task=spots, tensors=("spots.boxes", "spots.scores"), thresholds=(0.9,), stride=CELL),
    )


def graph() -> bytes:
    nodes = [
        helper.make_node("AveragePool", ["image"], ["blocks"], kernel_shape=[CELL, CELL], strides=[CELL, CELL]),
        helper.make_node("GlobalAveragePool", ["image"], ["mean"]),
    ]
    constants: list[onnx.TensorProto] = []
    infos: list[Any] = []
    for source, heads in (("mean", POOLED), ("blocks", BLOCKS)):
        for name, (weight, bias) in heads.items():
            kernel = np.array(weight, np.float32).reshape(-1, 1, 1, 1)
            constants += [
                numpy_helper.from_array(kernel, f"{name}.weight"),
                numpy_helper.from_array(np.array(bias, np.float32), f"{name}.bias"),
            ]
            raw = f"{name}.raw" if source == "mean" else name
            nodes.append(helper.make_node("Conv", [source, f"{name}.weight", f"{name}.bias"], [raw]))
            if source == "mean":
                nodes.append(helper.make_node("Flatten", [raw], [name]))
            grid = [] if source == "mean" else [SIDE // CELL, SIDE // CELL]
            infos.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, len(weight), *grid]))
    image = helper.make_tensor_value_info("image", TensorProto.FLOAT, [1, 1, SIDE, SIDE])
    whole = helper.make_graph(nodes, "tiny", [image], infos, constants)
    model = helper.make_model(whole, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    return bytes(model.SerializeToString())


def members(folder: Path) -> dict[str, bytes]:
    made = graph()
    openvino.save_model(openvino.Core().read_model(made), folder / "tiny.xml", compress_to_fp16=False)
    manifest = Manifest(
        format=FORMAT,
        name="tiny",
        version="1",
        device="generic-x86",
        input=InputSpec(height=SIDE, width=SIDE, channels=1),
        outputs=outputs(),
        engines=(
            OnnxRuntimeOptions(arithmetic="float32", threads=1, spinning=False),
            OpenVinoOptions(arithmetic="float32", threads=1),
        ),
        calibration=Calibration(method="none", images=0, min_images=0, images_digest=""),
        provenance=Provenance(
            recipe="tiny",
            recipe_digest="",
            data_digest="",
            teacher_digest=TEACHER,
            student_digest="",
            seed=0,
            versions={},
        ),
    )
    return {
        "manifest.json": encode_manifest(manifest),
        "model.onnx": made,
        "openvino.xml": (folder / "tiny.xml").read_bytes(),
        "openvino.bin": (folder / "tiny.bin").read_bytes(),
    }


def draw_cases(root: Path) -> None:
    """Sixty pictures of thirty patients, a bright square on grey, with a reference for every task."""
    rng, rows = np.random.default_rng(3), []
    (root / "images").mkdir(parents=True)
    (root / "masks").mkdir()
    for n in range(CASES):
        picture = rng.normal(rng.uniform(20, 90), 6, (64, 64))
        side, y, x = int(rng.integers(16, 32)), int(rng.integers(0, 30)), int(rng.integers(0, 30))
        picture[y : y + side, x : x + side] = 235
        inside = np.zeros((64, 64), np.uint8)
        inside[y : y + side, x : x + side] = 1
        pixels = picture.clip(0, 255).astype(np.uint8)
        Image.fromarray(pixels).save(root / f"images/{n}.png")
        Image.fromarray(inside).save(root / f"masks/{n}.png")
        mean = pixels.mean() / 255
        rows.append(
            {
                "file": f"images/{n}.png",
                "patient_id": f"p{n // 2}",
                "split": "test",
                "sex": "FM"[n // 2 % 2],
                "bright": int(mean + rng.normal(0, 0.04) > 0.3),
                "dark": int(mean + rng.normal(0, 0.04) < 0.3),
                "age": round(50 + 10 * (2 * mean - 1) + rng.normal(0, 2), 1),
                "lungs": f"masks/{n}.png",
                "spots": json.dumps([{"label": "spot", "x1": x, "y1": y, "x2": x + side, "y2": y + side}]),
            }
        )
    write_rows(root / "manifest.csv", rows)


def write_rows(path: Path, rows: list[dict[str, Any]]) -> None:
    with path.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


def read_rows(path: Path) -> list[dict[str, Any]]:
    with path.open(newline="", encoding="utf-8") as stream:
        return list(csv.DictReader(stream))


def teach(bundle: Path, images: Path) -> StoredAnswers:
    """What the bundle itself says, with noise on its probabilities."""
    predictor = Predictor(read_unverified(bundle), "onnxruntime")
    paths = sorted(images.iterdir())
    stored = store_answers(
        TASKS,
        [file_sha256(path) for path in paths],
        [predictor.predict(path) for path in paths],
        thresholds={"findings": (0.5, 0.5), "spots": (0.9,)},
        teacher=TEACHER,
    )
    noise = np.random.default_rng(4).normal(0, 0.02, stored.scores["findings"].shape)
    noisy = np.clip(stored.scores["findings"] + noise, 0, 1)
    return msgspec.structs.replace(stored, scores={**stored.scores, "findings": noisy})


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`tiny.foveola` with its key, `cases/`, `answers.npz`, and a locked `protocol.yaml`."""
    folder = tmp_path_factory.mktemp("field")
    private, public = make_keys(folder / "tiny")
    parts = members(folder)
    write_bundle(folder / "tiny.foveola", {**parts, "model.sig": sign_members(parts, private.read_bytes())})
    draw_cases(folder / "cases")
    write_answers(folder / "answers.npz", teach(folder / "tiny.foveola", folder / "cases/images"))
    write_new(str(folder / "tiny.foveola"), folder / "cases", folder / "protocol.yaml")
    text = (folder / "protocol.yaml").read_text(encoding="utf-8")
    (folder / "protocol.yaml").write_text(text.replace("resamples: 2000", "resamples: 100"), encoding="utf-8")
    lock_protocol(folder / "protocol.yaml")
    assert public.name == "tiny.pub"
    return folder


@pytest.fixture
def place(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of it, to work in and to break."""
    shutil.copytree(made, tmp_path / "field")
    monkeypatch.chdir(tmp_path / "field")
    return tmp_path / "field"
