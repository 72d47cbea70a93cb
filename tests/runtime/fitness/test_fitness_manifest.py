"""The manifest's rule: read back as it was written, refused where it lies, absent where nothing is asked."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import numpy as np
import pytest

from foveola.runtime.errors import FoveolaError
from foveola.runtime.fitness.manifest import Bound, Fitness, Novelty, Trial
from foveola.runtime.manifest import Manifest, decode_manifest, encode_manifest

FITNESS = Fitness(
    kind="radiograph",
    bounds=(Bound(measure="focus", low=-3.5, high=1.0), Bound(measure="white", high=0.1)),
    template=np.ones(256, "<f4").tobytes(),
    novelty=Novelty(
        tensor="foveola.features",
        channels=3,
        mean=bytes(12),
        scale=np.ones(3, "<f4").tobytes(),
        components=bytes(24),
        variances=(2.0, 1.0),
        noise=0.1,
        limits={"onnxruntime": 1.5},
    ),
    false_alarms=0.05,
    typical=300,
    images=100,
    alarms=4,
    trials=(Trial(fault="inverted", images=48, caught=48, auc=1.0, auc_low=0.96, auc_high=1.0),),
)


def test_a_rule_is_read_back_as_it_was_written(tiny_manifest: Manifest) -> None:
    manifest = msgspec.structs.replace(tiny_manifest, fitness=FITNESS)

    assert decode_manifest(encode_manifest(manifest)) == manifest


def test_a_manifest_without_a_rule_says_nothing_of_it(tiny_manifest: Manifest) -> None:
    assert not {"fitness", "source"} & set(json.loads(encode_manifest(tiny_manifest)))


def broken(path: str, value: Any) -> dict[str, Any]:
    plain = json.loads(msgspec.json.encode(FITNESS))
    place = plain
    *way, last = path.split(".")
    for step in way:
        place = place[int(step)] if step.isdigit() else place[step]
    place[last] = value
    return plain  # type: ignore[no-any-return]


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("kind", "ultrasound"),
        ("template", ""),
        ("template", "AAAA"),
        ("bounds.0.measure", "colour"),
        ("bounds.0.low", 2.0),
        ("bounds.1.high", None),
        ("bounds.1.measure", "focus"),
        ("novelty.channels", 0),
        ("novelty.channels", 4),
        ("novelty.channels", 10**9),
        ("novelty.mean", "AAAA"),
        ("novelty.components", ""),
        ("novelty.variances", [1.0, 0.0]),
        ("novelty.variances", [1.0] * 65),
        ("novelty.noise", 0),
        ("novelty.limits", {}),
        ("novelty.limits", {"onnxruntime": -1.0}),
        ("false_alarms", 1.5),
        ("images", -1),
        ("trials.0.auc", 2.0),
        ("unknown", 1),
    ],
)
def test_a_rule_that_lies_is_refused(path: str, value: Any, tiny_manifest: Manifest) -> None:
    plain = json.loads(encode_manifest(tiny_manifest))
    plain["fitness"] = broken(path, value)

    with pytest.raises(FoveolaError, match="not a valid manifest"):
        decode_manifest(json.dumps(plain).encode())


def test_a_bound_that_is_no_number_is_refused() -> None:
    with pytest.raises(ValueError, match="no range"):
        Bound(measure="focus", low=float("nan"))


def test_a_fundus_rule_has_no_template() -> None:
    with pytest.raises(ValueError, match="template"):
        Fitness(kind="fundus", bounds=(), template=bytes(1024))
