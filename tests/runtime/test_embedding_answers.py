"""An embedding from the task to the answer: what it may be, what is refused, and how two computations are compared."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec
import numpy as np
import pytest

from foveola.export.compare import compare_engines
from foveola.runtime.answer import decode, directions
from foveola.runtime.box_map import comparable, comparable_outputs
from foveola.runtime.bundle import Bundle
from foveola.runtime.dicom_results.identity import BundleIdentity
from foveola.runtime.dicom_results.words import caption
from foveola.runtime.errors import FoveolaError, UsageError
from foveola.runtime.features import answer_features
from foveola.runtime.image import Geometry
from foveola.runtime.manifest import EngineName, InputSpec, Manifest, TaskOutput, decode_manifest, encode_manifest
from foveola.runtime.predict import Predictor
from foveola.runtime.prediction import Embedding, Prediction, prediction_json
from foveola.runtime.selftest import make_golden, self_test
from foveola.runtime.serve.openapi import document
from foveola.runtime.task import Task
from foveola.runtime.verbs.about import _task_words as task_words
from foveola.runtime.verbs.predict import prediction_lines
from foveola.runtime.watch.edges import edges_of
from foveola.runtime.watch.observe import observe

TASK = Task(name="likeness", kind="embedding", size=4, classes=("diabetes",))
OUTPUT = TaskOutput(task=TASK, tensors=("likeness",))
SPEC = InputSpec(height=8, width=8, channels=1)
PLACE = Geometry(image_height=8, image_width=8, x0=0, y0=0, x1=8, y1=8, scale_x=1.0, scale_y=1.0, pad_x=0, pad_y=0)
Change = Callable[[dict[str, bytes]], Bundle]


def answered(*raw: float) -> Prediction:
    return decode((OUTPUT,), {"likeness": np.array([raw], np.float32)}, PLACE, SPEC)


# --- the task ---


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"kind": "embedding"}, "an embedding of 0 numbers; give its size, 2 to 4096"),
        ({"kind": "embedding", "size": 5000}, "an embedding of 5000 numbers"),
        ({"kind": "multilabel", "classes": ("a",), "size": 8}, "multilabel has no size"),
        ({"kind": "embedding", "size": 8, "columns": ("a",)}, "0 column(s) expected, 1 given"),
    ],
)
def test_a_task_that_cannot_be_is_refused(fields: dict[str, Any], words: str) -> None:
    with pytest.raises(UsageError) as raised:
        Task(name="likeness", **fields)

    assert words in str(raised.value)


def test_its_conditions_are_its_columns_and_it_may_have_none() -> None:
    bare = Task(name="likeness", kind="embedding", size=4)

    assert (TASK.manifest_columns, TASK.column_count, TASK.channels) == (("diabetes",), 1, 4)
    assert (bare.manifest_columns, bare.column_count, bare.metric) == ((), 0, "pair_percentile")


def test_a_manifest_with_an_embedding_comes_back_as_it_was(tiny_manifest: Manifest) -> None:
    manifest = msgspec.structs.replace(tiny_manifest, outputs=(*tiny_manifest.outputs, OUTPUT))

    assert decode_manifest(encode_manifest(manifest)) == manifest


# --- the answer ---


def test_the_answer_has_length_one_and_the_raw_numbers_direction() -> None:
    (embedding,) = answered(0.0, -3.0, 0.0, 4.0).embeddings

    assert embedding == Embedding(task="likeness", values=tuple(np.array([0, -0.6, 0, 0.8], np.float32).tolist()))


@pytest.mark.parametrize("scale", [1e-30, 1.0, 1e30])
def test_the_length_of_the_raw_numbers_never_matters(scale: float) -> None:
    raw = np.random.default_rng(0).standard_normal((3, 300)).astype(np.float32)

    found = directions(raw * np.float32(scale))

    assert np.linalg.norm(found.astype(np.float64), axis=1) == pytest.approx(np.ones(3), abs=1e-6)
    assert found == pytest.approx(directions(raw), abs=1e-6)


def test_an_embedding_without_direction_is_a_refusal() -> None:
    with pytest.raises(FoveolaError, match="task likeness: output 'likeness' is zero and has no direction"):
        answered(0.0, 0.0, 0.0, 0.0)


@pytest.mark.parametrize("raw", [(np.nan, 1.0, 0.0, 0.0), (1.0, 0.0, 0.0)], ids=["NaN", "too short"])
def test_what_is_no_answer_is_refused(raw: tuple[float, ...]) -> None:
    with pytest.raises(FoveolaError, match="output 'likeness'"):
        answered(*raw)


def test_json_holds_it_only_where_there_is_one_and_words_are_short() -> None:
    prediction = answered(1.0, 1.0, 1.0, 1.0)

    assert prediction_json(prediction)["embeddings"] == [{"task": "likeness", "values": (0.5, 0.5, 0.5, 0.5)}]
    assert "embeddings" not in prediction_json(Prediction())
    assert prediction_lines(prediction) == [
        "  likeness         embedding                    4 numbers: 0.500, 0.500, 0.500, 0.500"
    ]
    longer = Prediction(embeddings=(Embedding(task="t", values=(0.1,) * 100),))
    assert prediction_lines(longer)[0].endswith("100 numbers: 0.100, 0.100, 0.100, 0.100, ...")


def test_the_interface_of_the_service_describes_it() -> None:
    schemas = msgspec.json.decode(document())["components"]["schemas"]

    assert schemas["Prediction"]["properties"]["embeddings"]["items"]["$ref"].endswith("/Embedding")
    assert "embeddings" not in schemas["Prediction"]["required"]
    assert set(schemas["Embedding"]["properties"]) == {"task", "values"}


def test_about_tells_its_length() -> None:
    assert task_words(OUTPUT) == "likeness (embedding): 4 numbers"


def test_the_watch_counts_nothing_of_it(tiny_manifest: Manifest) -> None:
    manifest = msgspec.structs.replace(tiny_manifest, outputs=(OUTPUT,))

    assert not any("likeness" in name for name in edges_of(manifest))
    assert observe(answered(1.0, 2.0, 3.0, 4.0), manifest).values == {}
    assert answer_features(answered(1.0, 2.0, 3.0, 4.0)) == {}


def test_a_picture_for_readers_leaves_it_out() -> None:
    identity = BundleIdentity(name="eye", version="1", digest="a" * 64, engine="openvino")

    assert len(caption(answered(1.0, 2.0, 3.0, 4.0), identity)) == 1


# --- two computations of one answer ---


def test_what_is_compared_is_the_direction() -> None:
    raw = {"likeness": np.array([[3.0, 0.0, 0.0, 4.0]], np.float32)}
    longer = {"likeness": 50 * raw["likeness"]}

    one, other = (comparable((OUTPUT,), each, SPEC)["likeness"] for each in (raw, longer))

    assert one == pytest.approx(other)
    assert float(np.mean(one**2)) == pytest.approx(1.0)
    assert comparable_outputs((OUTPUT,)) == (OUTPUT,)


def test_an_embedding_decides_nothing_when_engines_are_compared() -> None:
    torch = {"likeness": np.array([[1.0, 2.0, 3.0, 4.0]], np.float32)}
    engine = {"likeness": torch["likeness"] + np.float32(0.5)}

    (found,) = compare_engines("onnxruntime", [(torch, engine)], (OUTPUT,)).outputs

    assert (found.largest, found.decisions, found.flips) == (0.5, 0, 0)


@pytest.fixture
def turned(
    tiny_manifest: Manifest, tiny_members: dict[str, bytes], tiny_image: bytes, bundle_with: Change
) -> Callable[[float], Bundle]:
    """The tiny bundle whose labels' logits are an embedding, with golden answers that point elsewhere by an angle."""
    first = next(one for one in tiny_manifest.outputs if one.task.kind == "multilabel")
    task = Task(name=first.task.name, kind="embedding", size=len(first.task.classes))
    outputs = (TaskOutput(task=task, tensors=first.tensors),)
    engines = (msgspec.structs.replace(tiny_manifest.engines[0], arithmetic="int8"),)
    manifest = encode_manifest(msgspec.structs.replace(tiny_manifest, outputs=outputs, engines=engines))

    def make(angle: float) -> Bundle:
        plain = Predictor(bundle_with({"manifest.json": manifest}), "onnxruntime")

        class Other:
            engine: EngineName = plain.engine
            manifest: Manifest = plain.manifest

            @staticmethod
            def run(tensor: Any) -> dict[str, Any]:
                raw = plain.run(tensor)[first.tensors[0]].astype(np.float64)
                aside = np.zeros_like(raw)
                aside[0, :2] = (-raw[0, 1], raw[0, 0])
                aside /= np.linalg.norm(aside)
                length = np.linalg.norm(raw)
                new = 7.0 * (np.cos(angle) * raw / length + np.sin(angle) * aside)
                return {first.tensors[0]: new.astype(np.float32)}

        return bundle_with({"manifest.json": manifest, "golden.npz": make_golden([Other()], [tiny_image])})

    return make


def test_the_self_test_is_about_the_direction_alone(turned: Callable[[float], Bundle]) -> None:
    same, near, far = (self_test(turned(angle), "onnxruntime") for angle in (0.0, 0.05, 0.2))

    assert same.ok  # though its numbers are seven times what they were
    assert same.drifts[0].relative < 1e-6
    assert near.ok
    assert near.drifts[0].relative == pytest.approx(2 * np.sin(0.025), rel=1e-3)  # the chord between the two
    assert not far.ok
    assert "drifted by 0.2, allowed 0.1" in far.faults[0]
