"""On the command line an unfit image is told with its reason, has no score, and makes the exit code 1."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import msgspec
import numpy as np
import pytest
from PIL import Image

from foveola.export.signing import sign_members
from foveola.runtime.__main__ import main
from foveola.runtime.bundle import write_bundle
from foveola.runtime.fitness.manifest import Bound, Fitness
from foveola.runtime.manifest import Manifest, encode_manifest


@pytest.fixture
def ruled(
    tmp_path: Path, tiny_members: dict[str, bytes], tiny_manifest: Manifest, tiny_keys: tuple[Path, Path]
) -> Path:
    fitness = Fitness(
        kind="radiograph",
        bounds=(Bound(measure="brightness", low=0.3),),
        template=np.eye(16, dtype="<f4").tobytes(),
    )
    manifest = encode_manifest(msgspec.structs.replace(tiny_manifest, fitness=fitness))
    members = {**tiny_members, "manifest.json": manifest}
    path = tmp_path / "ruled.foveola"
    write_bundle(path, {**members, "model.sig": sign_members(members, tiny_keys[0].read_bytes())})
    path.with_suffix(".pub").write_bytes(tiny_keys[1].read_bytes())
    return path


@pytest.fixture
def image(tmp_path: Path) -> Callable[[int], str]:
    def make(value: int) -> str:
        path = tmp_path / f"{value}.png"
        Image.fromarray(np.full((40, 40), value, np.uint8)).save(path)
        return str(path)

    return make


def test_an_unfit_image_is_told_and_the_others_are_answered(
    ruled: Path, image: Callable[[int], str], capsys: pytest.CaptureFixture[str]
) -> None:
    code = main(["predict", str(ruled), image(20), image(200)])

    out = capsys.readouterr().out
    assert code == 1
    assert "not fit          too dark (brightness 0.0784, at least 0.3)" in out
    assert out.count("POSITIVE") + out.count("negative") == 2  # the other image's two findings


def test_in_json_it_has_its_measures_and_no_score(
    ruled: Path, image: Callable[[int], str], capsys: pytest.CaptureFixture[str]
) -> None:
    code = main(["predict", str(ruled), image(20), "--json"])

    prediction = json.loads(capsys.readouterr().out)["images"][0]["prediction"]
    assert code == 1
    assert prediction["quality"]["fit"] is False
    assert prediction["quality"]["measures"]["brightness"] == pytest.approx(20 / 255)
    assert not any(prediction[part] for part in ("findings", "choices", "measurements", "masks", "boxes"))
