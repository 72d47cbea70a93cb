"""An image outside a bound gets its reasons and no score; within all of them it is answered as ever."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any

import msgspec
import numpy as np
import pytest
from PIL import Image
from scipy.spatial.distance import mahalanobis

from foveola.runtime.bundle import Bundle
from foveola.runtime.errors import FoveolaError
from foveola.runtime.fitness.judge import NOVEL, REASONS, UNMEASURED, Gate, reasons_of
from foveola.runtime.fitness.manifest import Bound, Fitness, Novelty
from foveola.runtime.fitness.novelty import Distance
from foveola.runtime.manifest import Manifest, encode_manifest
from foveola.runtime.predict import Predictor
from foveola.runtime.prediction import Prediction, Quality, prediction_json

BundleWith = Callable[[dict[str, bytes]], Bundle]
TEMPLATE = np.eye(16, dtype="<f4").tobytes()
# The tiny bundle's `findings` are (10 m - 2, 2 - 10 m) for the mean m of the input; both serve as features here.
FINDINGS = Novelty(
    tensor="findings",
    channels=2,
    mean=np.array([-2, 2], "<f4").tobytes(),
    scale=np.array([1, 1], "<f4").tobytes(),
    components=b"",
    variances=(),
    noise=1.0,
    limits={"onnxruntime": 2.0, "openvino": 2.0},
)


def rule(*bounds: Bound, **more: Any) -> Fitness:
    return Fitness(kind="radiograph", bounds=bounds, template=TEMPLATE, **more)


def picture(value: int = 128, size: int = 64) -> bytes:
    stream = io.BytesIO()
    pixels = np.full((size, size), value, np.uint8)
    pixels[::7] = value // 2
    Image.fromarray(pixels).save(stream, "PNG")
    return stream.getvalue()


def predictor_with(bundle_with: BundleWith, manifest: Manifest, fitness: Fitness | None, engine: str) -> Predictor:
    changed = msgspec.structs.replace(manifest, fitness=fitness)
    return Predictor(bundle_with({"manifest.json": encode_manifest(changed)}), engine)


# --- the judgement ---


@pytest.mark.parametrize(
    ("value", "reasons"),
    [
        (0.2, ()),
        (0.8, ()),
        (0.19, ("too dark (brightness 0.19, at least 0.2)",)),
        (0.81, ("too bright (brightness 0.81, at most 0.8)",)),
        (float("nan"), ("too dark (brightness nan, at least 0.2)",)),
    ],
)
def test_a_measure_is_within_its_bounds_both_ends_included(value: float, reasons: tuple[str, ...]) -> None:
    fitness = rule(Bound(measure="brightness", low=0.2, high=0.8))

    assert reasons_of({"brightness": value}, fitness) == reasons


def test_reasons_stand_in_the_order_of_the_bounds() -> None:
    fitness = rule(Bound(measure="focus", low=0.0), Bound(measure="brightness", low=0.5))

    found = reasons_of({"brightness": 0.1, "focus": -3.0}, fitness)

    assert [reason.partition(" (")[0] for reason in found] == ["out of focus", "too dark"]


def test_what_cannot_be_measured_is_outside_its_bound() -> None:
    fitness = Fitness(kind="fundus", bounds=(Bound(measure="field", low=0.5), Bound(measure="disc", low=1.0)))

    found = reasons_of({"field": 0.0}, fitness)

    assert found == ("field of view incomplete (field 0, at least 0.5)", f"{UNMEASURED} (disc)")


def test_every_reason_has_words_of_its_own_within_its_kind() -> None:
    for measures in REASONS.values():
        words = [word for pair in measures.values() for word in pair if word]
        assert len(words) == len(set(words))


def test_a_quality_survives_json() -> None:
    quality = Quality(fit=False, reasons=("turned (upright -1, at least 0)",), measures={"upright": -1.0}, novelty=2.5)

    plain = prediction_json(Prediction(quality=quality))

    assert msgspec.convert(plain["quality"], Quality) == quality


# --- the distance ---


def test_the_distance_is_mahalanobis_of_the_covariance_that_the_components_describe() -> None:
    rng = np.random.default_rng(0)
    rows = np.linalg.qr(rng.normal(size=(5, 5)))[0][:2].astype("<f4")
    mean, scale = rng.normal(size=5).astype("<f4"), rng.uniform(0.5, 2, 5).astype("<f4")
    novelty = Novelty(
        tensor="f",
        channels=5,
        mean=mean.tobytes(),
        scale=scale.tobytes(),
        components=rows.tobytes(),
        variances=(9.0, 4.0),
        noise=0.5,
        limits={"onnxruntime": 1.0},
    )
    covariance = 0.5 * np.eye(5) + rows.T @ np.diag([8.5, 3.5]) @ rows
    covariance *= np.outer(scale, scale)
    x = rng.normal(size=(1, 5)).astype(np.float32)

    found = Distance(novelty)({"f": x})

    assert found * 5**0.5 == pytest.approx(mahalanobis(x[0], mean, np.linalg.inv(covariance)), rel=1e-5)


@pytest.mark.parametrize(
    ("raw", "words"),
    [
        ({}, "missing"),
        ({"findings": np.zeros((1, 3), np.float32)}, "(1, 3)"),
        ({"findings": np.full((1, 2), np.nan, np.float32)}, "NaN"),
        ({"findings": np.full((1, 2), np.inf, np.float32)}, "NaN or infinity"),
    ],
)
def test_features_that_are_none_are_refused(raw: dict[str, np.ndarray[Any, Any]], words: str) -> None:
    with pytest.raises(FoveolaError, match="findings") as caught:
        Distance(FINDINGS)(raw)
    assert words in str(caught.value)


@pytest.mark.parametrize("field", ["mean", "scale"])
def test_statistics_that_are_no_numbers_are_refused(field: str) -> None:
    broken = msgspec.structs.replace(FINDINGS, **{field: np.array([np.nan, 1], "<f4").tobytes()})

    with pytest.raises(FoveolaError, match="no statistics"):
        Distance(broken)


def test_an_engine_without_a_limit_gets_the_largest() -> None:
    limits = {"onnxruntime": 1.0, "openvino": 3.0}
    gate = Gate(rule(novelty=msgspec.structs.replace(FINDINGS, limits=limits)), "tensorrt")
    raw = {"findings": np.array([[-2 + 2.9 * 2**0.5, 2]], np.float32)}

    assert gate.weigh(Quality(fit=True), raw).fit
    assert not Gate(gate.fitness, "onnxruntime").weigh(Quality(fit=True), raw).fit


# --- in the bundle ---


@pytest.mark.parametrize("engine", ["onnxruntime", "openvino"])
def test_a_fit_image_is_answered_as_without_a_rule(
    engine: str, bundle_with: BundleWith, tiny_manifest: Manifest
) -> None:
    free = predictor_with(bundle_with, tiny_manifest, None, engine).predict(picture())

    ruled = predictor_with(bundle_with, tiny_manifest, rule(Bound(measure="brightness", low=0.1)), engine).predict(
        picture()
    )

    assert free.quality is None
    assert ruled.quality is not None
    assert ruled.quality.fit
    assert ruled.quality.novelty is None
    plain = prediction_json(ruled)
    del plain["quality"]
    assert plain == prediction_json(free)


def test_an_unfit_image_gets_its_reason_and_no_score(bundle_with: BundleWith, tiny_manifest: Manifest) -> None:
    predictor = predictor_with(
        bundle_with, tiny_manifest, rule(Bound(measure="brightness", low=0.9), novelty=FINDINGS), "onnxruntime"
    )
    asked: list[object] = []
    predictor.run = lambda tensor: asked.append(tensor) or {}  # type: ignore[method-assign, func-returns-value]

    prediction = predictor.predict(picture())

    found = prediction.quality
    assert found is not None
    assert found.reasons[0].startswith("too dark (brightness 0.4")
    assert (found.fit, found.novelty, asked) == (False, None, [])
    parts = ("findings", "choices", "measurements", "masks", "boxes")
    assert all(getattr(prediction, part) == () for part in parts)


def test_an_image_unlike_the_training_images_gets_no_score(bundle_with: BundleWith, tiny_manifest: Manifest) -> None:
    predictor = predictor_with(bundle_with, tiny_manifest, rule(novelty=FINDINGS), "onnxruntime")

    near, far = (predictor.predict(picture(value)) for value in (10, 250))

    assert near.quality is not None
    assert near.quality.fit
    assert near.findings
    assert far.quality is not None
    assert far.quality.reasons[0].startswith(f"{NOVEL} (novelty ")
    assert far.quality.novelty is not None
    assert all(getattr(far, part) == () for part in ("findings", "choices", "masks", "boxes", "measurements"))


def test_a_graph_without_the_features_is_refused_before_any_image(
    bundle_with: BundleWith, tiny_manifest: Manifest
) -> None:
    absent = msgspec.structs.replace(FINDINGS, tensor="foveola.features")

    with pytest.raises(FoveolaError, match="no output foveola.features"):
        predictor_with(bundle_with, tiny_manifest, rule(novelty=absent), "onnxruntime")
