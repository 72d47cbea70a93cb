"""A rule that lies, and pictures that no camera makes: a refusal or an honest judgement, never a crash or a score."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from foveola.runtime.errors import FoveolaError
from foveola.runtime.fitness.fundus import measure_fundus
from foveola.runtime.fitness.judge import Gate
from foveola.runtime.fitness.manifest import Bound, Fitness, Novelty
from foveola.runtime.fitness.radiograph import measure_radiograph
from foveola.runtime.prediction import Quality

TEMPLATE = np.eye(16, dtype="<f4")
FITNESS = Fitness(
    kind="radiograph",
    bounds=(Bound(measure="focus", low=-3.5), Bound(measure="white", high=0.9)),
    template=TEMPLATE.tobytes(),
    novelty=Novelty(
        tensor="f",
        channels=2,
        mean=bytes(8),
        scale=np.ones(2, "<f4").tobytes(),
        components=np.array([[1, 0]], "<f4").tobytes(),
        variances=(2.0,),
        noise=0.1,
        limits={"onnxruntime": 1.5},
    ),
)
PLAIN: dict[str, Any] = json.loads(msgspec.json.encode(FITNESS))
PICTURE = Image.fromarray(np.arange(64, dtype=np.uint8).reshape(8, 8) * 3)
LIES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**70), 2**70),
    st.floats(allow_nan=True, allow_infinity=True),
    st.text(max_size=8),
    st.lists(st.integers(-3, 3), max_size=3),
    st.just({}),
)


def leaves(node: Any, way: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Ways to every value inside."""
    inner = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ()
    return [way, *(found for key, value in inner for found in leaves(value, (*way, key)))] if inner else [way]


@settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(way=st.sampled_from([way for way in leaves(PLAIN) if way]), lie=LIES)
def test_a_rule_with_one_lie_in_it_is_refused_or_judges(way: tuple[Any, ...], lie: Any) -> None:
    plain = json.loads(json.dumps(PLAIN))
    node = plain
    for step in way[:-1]:
        node = node[step]
    node[way[-1]] = lie
    try:
        # As `decode_manifest`: from bytes, where NaN and infinity are no JSON.
        fitness = msgspec.json.decode(json.dumps(plain).encode(), type=Fitness)
        gate = Gate(fitness, "onnxruntime")
        quality = gate.weigh(gate.look(PICTURE), {"f": np.ones((1, 2), np.float32)})
    except (msgspec.DecodeError, FoveolaError):
        return
    assert isinstance(quality, Quality)


@pytest.mark.parametrize("scale", [0.0, -1.0, np.nan, np.inf])
def test_a_scale_that_would_make_every_distance_small_or_nan_is_refused(scale: float) -> None:
    assert FITNESS.novelty is not None
    novelty = msgspec.structs.replace(FITNESS.novelty, scale=np.array([1, scale], "<f4").tobytes())

    with pytest.raises(FoveolaError, match="no statistics"):
        Gate(msgspec.structs.replace(FITNESS, novelty=novelty), "onnxruntime")


def test_features_beyond_all_numbers_give_no_score() -> None:
    gate = Gate(FITNESS, "onnxruntime")

    assert FITNESS.novelty is not None
    tiny = msgspec.structs.replace(FITNESS.novelty, scale=np.full(2, 1e-45, "<f4").tobytes())
    huge = gate.weigh(Quality(fit=True), {"f": np.full((1, 2), 3e38, np.float32)})

    least = Gate(msgspec.structs.replace(FITNESS, novelty=tiny), "onnxruntime").weigh(
        Quality(fit=True), {"f": np.full((1, 2), 3e38, np.float32)}
    )

    assert not huge.fit
    assert not least.fit
    assert least.novelty is not None
    assert np.isfinite(least.novelty)


@settings(max_examples=150, deadline=None)
@given(
    height=st.integers(1, 70),
    width=st.integers(1, 70),
    low=st.integers(0, 255),
    span=st.integers(0, 255),
    seed=st.integers(0, 2**32 - 1),
    mode=st.sampled_from(["L", "I;16", "RGB"]),
)
def test_every_picture_has_finite_measures(height: int, width: int, low: int, span: int, seed: int, mode: str) -> None:
    rng = np.random.default_rng(seed)
    high = min(low + span, 255) + 1
    shape = (height, width, 3) if mode == "RGB" else (height, width)
    pixels: NDArray[Any] = rng.integers(low, high, shape).astype("<u2" if mode == "I;16" else np.uint8)
    picture = Image.fromarray(pixels)

    for measures in (measure_radiograph(picture, TEMPLATE), measure_fundus(picture)):
        assert all(np.isfinite(list(measures.values()))), measures
