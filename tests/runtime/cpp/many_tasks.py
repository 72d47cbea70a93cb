"""A bundle with a task of every kind, for any input: random linear functions of the means of 4 x 4 blocks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import openvino
from onnx import TensorProto, helper, numpy_helper

from foveola.export.signing import make_keys, sign_members
from foveola.runtime.bundle import write_bundle
from foveola.runtime.manifest import (
    FORMAT,
    Calibration,
    InputSpec,
    InputType,
    Manifest,
    OpenVinoOptions,
    Proposals,
    Provenance,
    TaskOutput,
    encode_manifest,
)
from foveola.runtime.predict import Predictor
from foveola.runtime.selftest import make_golden
from foveola.runtime.task import Task

CELL, LEVELS, LABELS = 4, (40, 9), ("a", "b", "c")
ROWS = sum(LEVELS)
TWO_STAGE = {"far.p": (1, ROWS, 4), "far.o": (1, ROWS), "far.c": (1, ROWS, 4), "far.d": (1, ROWS, 3, 4)}
POOLED = {"ill": 1, "signs": 11, "kind": 9, "grade": 4, "size": 2}
EMBEDDED = {"likeness": 150, "short": 3}
GRIDS = {"organs": 4, "marks": 2, "near.boxes": 4, "near.scores": 3}


def outputs() -> tuple[TaskOutput, ...]:
    signs = tuple(f"sign {i}" for i in range(11))
    return (
        TaskOutput(
            task=Task(name="ill", kind="binary", classes=("no", "y\u00e9s")), tensors=("ill",), thresholds=(0.3,)
        ),
        TaskOutput(
            task=Task(name="signs", kind="multilabel", classes=signs),
            tensors=("signs",),
            thresholds=tuple(0.05 * i for i in range(1, 12)),
            temperature=1.7,
        ),
        TaskOutput(
            task=Task(name="kind", kind="multiclass", classes=tuple("abcdefghi")), tensors=("kind",), temperature=0.6
        ),
        TaskOutput(task=Task(name="grade", kind="ordinal", classes=tuple("01234")), tensors=("grade",)),
        TaskOutput(
            task=Task(name="size", kind="regression", classes=("w", "h"), unit="mm"),
            tensors=("size",),
            mean=(3.3, 1e-7),
            std=(0.7, 1e-6),
        ),
        TaskOutput(task=Task(name="organs", kind="segmentation", classes=LABELS), tensors=("organs",)),
        TaskOutput(
            task=Task(name="marks", kind="segmentation", classes=("x", "y"), exclusive=False),
            tensors=("marks",),
            thresholds=(0.4, 0.6),
        ),
        TaskOutput(
            task=Task(name="near", kind="detection", classes=LABELS),
            tensors=("near.boxes", "near.scores"),
            thresholds=(0.5, 0.6, 0.7),
            stride=CELL,
            max_boxes=30,
        ),
        TaskOutput(
            task=Task(name="far", kind="detection", classes=LABELS),
            tensors=tuple(TWO_STAGE),
            thresholds=(0.4, 0.5, 0.6),
            max_boxes=25,
            proposals=Proposals(levels=LEVELS, kept=20),
        ),
        *(
            TaskOutput(task=Task(name=name, kind="embedding", size=size), tensors=(name,))
            for name, size in EMBEDDED.items()
        ),
    )


def graph(spec: InputSpec, input_type: InputType, seed: int) -> bytes:
    """The graph as ONNX; logits of a few units, boxes of a few cells."""
    rng = np.random.default_rng(seed)
    kind = TensorProto.UINT16 if input_type == "uint16" else TensorProto.FLOAT
    rows, columns = spec.height // CELL, spec.width // CELL
    nodes, constants, infos = [], [], []
    source = "image"

    def constant(name: str, array: Any) -> str:
        constants.append(numpy_helper.from_array(np.asarray(array), name))
        return name

    def give(name: str, shape: tuple[int, ...]) -> None:
        infos.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, shape))

    if input_type == "uint16":
        nodes.append(helper.make_node("Cast", ["image"], ["floats"], to=TensorProto.FLOAT))
        nodes.append(helper.make_node("Div", ["floats", constant("words", np.float32(65535))], ["shares"]))
        source = "shares"
    nodes.append(helper.make_node("AveragePool", [source], ["blocks"], kernel_shape=[CELL] * 2, strides=[CELL] * 2))
    nodes.append(helper.make_node("Flatten", ["blocks"], ["flat"]))
    for name, channels in GRIDS.items():
        weight = rng.normal(0, 6, (channels, spec.channels, 1, 1)).astype(np.float32)
        bias = rng.normal(-1 if "scores" in name else 0, 1, channels).astype(np.float32)
        nodes.append(
            helper.make_node("Conv", ["blocks", constant(f"{name}.w", weight), constant(f"{name}.b", bias)], [name])
        )
        give(name, (1, channels, rows, columns))
    size = spec.channels * rows * columns
    flat = {name: (1, count) for name, count in EMBEDDED.items()}
    for name, shape in {**{n: (1, c) for n, c in POOLED.items()}, **TWO_STAGE, **flat}.items():
        count = int(np.prod(shape))
        weight = rng.normal(0, 4 / np.sqrt(size), (size, count)).astype(np.float32)
        bias = rng.normal(0, 1, count).astype(np.float32)
        if name == "far.p":
            weight *= 0
            low = rng.uniform(0, 0.7, (ROWS, 2)) * (spec.width, spec.height)
            bias = np.concatenate([low, low + rng.uniform(4, 25, (ROWS, 2))], 1).astype(np.float32).ravel()
        nodes.append(
            helper.make_node(
                "Gemm", ["flat", constant(f"{name}.w", weight), constant(f"{name}.b", bias)], [f"{name}.raw"]
            )
        )
        nodes.append(
            helper.make_node("Reshape", [f"{name}.raw", constant(f"{name}.s", np.array(shape, np.int64))], [name])
        )
        give(name, shape)
    image = helper.make_tensor_value_info("image", kind, [1, spec.channels, spec.height, spec.width])
    whole = helper.make_graph(nodes, "many", [image], infos, constants)
    model = helper.make_model(whole, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    return bytes(model.SerializeToString())


def make_bundle(
    folder: Path, spec: InputSpec, picture: bytes, input_type: InputType = "float32", seed: int = 0
) -> Path:
    """A signed bundle for OpenVINO with its key beside it; `picture` is its golden image."""
    manifest = Manifest(
        format=FORMAT,
        name="m\u00e4ny \U0001fa7b",
        version="1",
        device="generic-x86",
        input=spec,
        input_type=input_type,
        outputs=outputs(),
        engines=(OpenVinoOptions(arithmetic="float32", threads=1),),
        calibration=Calibration(method="none", images=0, min_images=0, images_digest=""),
        provenance=Provenance(
            recipe="many", recipe_digest="", data_digest="", teacher_digest="", student_digest="", seed=0, versions={}
        ),
    )
    model = openvino.Core().read_model(graph(spec, input_type, seed))
    openvino.save_model(model, folder / "many.xml", compress_to_fp16=False)
    members = {
        "manifest.json": encode_manifest(manifest),
        "openvino.xml": (folder / "many.xml").read_bytes(),
        "openvino.bin": (folder / "many.bin").read_bytes(),
    }
    predictor = Predictor(write_bundle(folder / "early.foveola", members), "openvino")
    members["golden.npz"] = make_golden([predictor], [picture])
    private, public = make_keys(folder / "maker")
    path = folder / "many.foveola"
    write_bundle(path, {**members, "model.sig": sign_members(members, private.read_bytes())})
    path.with_suffix(".pub").write_bytes(public.read_bytes())
    return path
