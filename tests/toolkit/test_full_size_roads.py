"""The full-size recipes down their whole roads: small networks, and phantoms with the columns of the real data."""

from __future__ import annotations

import csv
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest
from roads import PROVED, bundle_of, finish

from foveola.runtime.bundle import open_bundle
from foveola.toolkit.data.phantom_body import make_body
from foveola.toolkit.data.phantom_fundus import make_fundus
from foveola.toolkit.data.phantom_organ import make_organs
from foveola.toolkit.data.phantom_twins import make_twins

SHARES = {"train": 0.6, "val": 0.2, "test": 0.2}
VASCULATURE = (
    "fractal_dimension", "average_width", "distance_tortuosity", "squared_curvature_tortuosity", "tortuosity_density"
)  # fmt: skip
SHORT = (
    "data.calibration=0.25",
    "steps.teacher.epochs=2",
    "steps.student.epochs=1",
    "steps.int8.min_images=8",
    "steps.proof.resamples=200",
    "steps.review.resamples=100",
    "steps.speed.repeats=2",
)
SMALL = tuple(f"steps.student.input.{side}=64" for side in ("height", "width"))
TEACHER = ("steps.teacher.backbone=test_resnet", *(f"steps.teacher.input.{side}=64" for side in ("height", "width")))


class Road(msgspec.Struct, frozen=True):
    """What stands in for the data of a recipe, and how the recipe is shortened."""

    make: Callable[[Path], None]
    changes: tuple[str, ...]


def bodies(root: Path) -> None:
    make_body(root, patients=60, seed=3, size=64, shares=SHARES)


def findings(root: Path) -> None:
    """Bodies with ODIR's columns."""
    bodies(root)
    names = ("Diabetes", "Glaucoma", "Cataract", "AMD", "Hypertension", "Myopia", "Other")
    rewritten(root, lambda n, row: {f"finding_{name}": str((n // (k + 2)) % 2) for k, name in enumerate(names)})


def eyes(root: Path) -> None:
    """Eyes with IDRiD's second grade."""
    make_fundus(root, patients=60, seed=3, size=64, shares=SHARES)
    rewritten(root, lambda n, row: {"dme_risk": str(n % 3)})


def organs(root: Path) -> None:
    make_organs(root, patients=300, seed=3, size=64, shares=SHARES)


def people(root: Path) -> None:
    """Twins with the published names of vessels and conditions."""
    make_twins(root, patients=60, seed=3, size=64, shares=SHARES)

    def more(n: int, row: dict[str, str]) -> dict[str, str]:
        renamed = {f"{when}_cardiovascular": row[f"{when}_stroke"] for when in ("prevalent", "incident")}
        return renamed | dict.fromkeys(VASCULATURE, row["vessel_density"])

    rewritten(root, more)


def rewritten(root: Path, more: Callable[[int, dict[str, str]], dict[str, str]]) -> None:
    """The manifest with more columns."""
    path = root / "manifest.csv"
    with path.open(newline="", encoding="utf-8") as stream:
        rows = [row | more(n, row) for n, row in enumerate(csv.DictReader(stream))]
    with path.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


ENCODERS = tuple(
    f"steps.teacher.encoders.{modality}.{change}"
    for modality in ("fundus", "carotid")
    for change in ("backbone=test_resnet", "input.height=64", "input.width=64")
)
PLAYED = (*TEACHER, "steps.teacher.alone=1", "steps.teacher.batch_size=8")
ROADS = {
    "sepl-fundus": Road(bodies, TEACHER),
    "sepl-odir": Road(findings, TEACHER),
    "mtcool-fundus": Road(eyes, (*PLAYED, "steps.teacher.width=8")),
    "mtcool-organ": Road(organs, PLAYED),
    "comprer": Road(people, (*ENCODERS, "steps.teacher.batch_size=16", "steps.teacher.prognosis.epochs=1")),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", ROADS)
def test_a_full_size_recipe_goes_down_its_whole_road(name: str, tmp_path: Path) -> None:
    road, root = ROADS[name], tmp_path / "data"
    road.make(root)

    done = finish(name, tmp_path / "runs", f"data.root={root}", *SHORT, *SMALL, *road.changes)

    assert done.returncode in PROVED
    bundle = open_bundle(bundle_of(tmp_path / "runs", name))
    assert bundle.manifest.provenance.recipe == name
    assert len(bundle.manifest.outputs) >= 3
