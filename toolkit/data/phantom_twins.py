"""Fundus photographs and carotid ultrasound of people that never were, whose hidden state is known; from a seed.

Nothing in them comes from a patient. They are for learning from two kinds of picture of one person, for visits that lie
apart, and for judging what was learnt, since the truth is at hand; not for any clinical claim.

    make_twins(Path("phantom"), patients=300, seed=7, size=64)

writes `images/*.png` (fundus: 8-bit RGB, carotid: 8-bit grey), `manifest.csv`, readable by `read_dataset`, and
`latent.csv`, which no training reads:

| column | holds |
|---|---|
| file, patient_id, split | as everywhere; the file's name and the order of the rows say nothing |
| modality, eye | fundus or carotid; left or right, of the carotid the side; a left one is a right one mirrored |
| visit, years | 0, 1, ...; years since the first visit |
| age, imt, vessel_density, blood_pressure | years; mm; share of the retina; mmHg |
| prevalent_hypertension, prevalent_stroke, incident_stroke | 0 or 1; a stroke to come is empty after one that was |

`latent.csv` has for each file the person's state (`s0` to `s7`) and rate of wear on that day (`rate`), and the
picture's nuisance (`n0` to `n3`); see `twins_people`, `twins_fundus` and `twins_carotid`.

Visits, kinds of picture, sides and cells are missing on purpose (`gaps`).
"""

from __future__ import annotations

import csv
import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from ...runtime.errors import UsageError
from . import twins_carotid, twins_fundus
from .phantom import empty_folder, make_all, random_of, split_patients, write_manifest, write_png
from .phantoms import SHARES, Progress
from .twins_people import MODALITIES, STATES, Person, Visit, draw_person, factors_of

SIDES = ("right", "left")
MEASURES = ("age", "imt", "vessel_density", "blood_pressure")
OUTCOMES = ("prevalent_hypertension", "prevalent_stroke", "incident_stroke")
DIGITS = {"age": 1, "imt": 3, "vessel_density": 4, "blood_pressure": 1}
# Shares of the later visits, of the visits' kinds of picture, of the second sides, of the cells.
GAPS: Mapping[str, float] = {"visit": 0.12, "modality": 0.12, "side": 0.2, "measure": 0.12, "outcome": 0.08}
GAP_SPLITS = ("train", "calibration")  # as in life, the test set is the one that somebody completed
LATENT = "latent.csv"


def make_twins(
    folder: Path,
    *,
    patients: int,
    seed: int = 0,
    size: int = 256,
    shares: Mapping[str, float] = SHARES,
    visits: int = 2,
    gaps: Mapping[str, float] = GAPS,
    gap_splits: Sequence[str] = GAP_SPLITS,
    strangers: bool = False,
    progress: Progress | None = None,
) -> int:
    """Make a data set of fundus and carotid twins, both sides and every visit of each patient.

    Args:
        folder: where to; made if need be, must be empty.
        patients: how many.
        seed: equal seeds give equal files on the same machine.
        size: pixels a side.
        shares: of the patients by split (train, val, calibration, test); they add up to 1.
        visits: of a patient, 1 or more.
        gaps: share of what is missing: `visit` of the visits after the first, `modality` of the visits that show one
            kind of picture only, `side` of the pairs of sides that are one, `measure` and `outcome` of the cells.
        gap_splits: splits in which gaps occur.
        strangers: the carotid (picture, measures and outcomes) is another person's: the negative control, in which
            the kinds of picture share nothing.
        progress: called with patients done and in all.

    Returns:
        The number of pictures.

    Raises:
        FoveolaError: the folder is not empty.
        UsageError: the shares or visits are none, or there is nothing to make.
    """
    if visits < 1:
        raise UsageError("visits", f"{visits} visits", "at least one")
    splits = split_patients(patients, shares, random_of(seed, 0), size)
    empty_folder(folder)
    (folder / "images").mkdir()

    def make(number: int) -> list[dict[str, str]]:
        missing = gaps if splits[number] in gap_splits else {}
        return _make_patient(folder, number, splits[number], seed, size, visits, missing, strangers)

    rows = make_all(make, patients, progress)
    # Neighbouring rows would tell who belongs together.
    rows = [rows[i] for i in random_of(seed, 3).permutation(len(rows))]
    truth = [f"s{i}" for i in range(STATES)] + ["rate"] + [f"n{i}" for i in range(twins_fundus.NUISANCES)]
    _write_truth(folder, ["file", *truth], rows)
    write_manifest(folder, [{name: cell for name, cell in row.items() if name not in truth} for row in rows])
    return len(rows)


def _write_truth(folder: Path, columns: Sequence[str], rows: Sequence[Mapping[str, str]]) -> None:
    with (folder / LATENT).open("w", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, columns, extrasaction="ignore", lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def _make_patient(
    folder: Path, number: int, split: str, seed: int, size: int, visits: int, gaps: Mapping[str, float], strangers: bool
) -> list[dict[str, str]]:
    own = draw_person(seed, number, visits)
    people = {"fundus": own, "carotid": draw_person(seed, number, visits, stranger=True) if strangers else own}
    missing = random_of(seed, 13, number)
    rows: list[dict[str, str]] = []
    for v in range(visits):
        absent = missing.random() < gaps.get("visit", 0.0) and v > 0
        shown = _shown(missing, gaps.get("modality", 0.0))
        for m, modality in enumerate(MODALITIES):
            sides = [int(side) for side in missing.permutation(2)]
            sides = sides[:1] if missing.random() < gaps.get("side", 0.0) else sides
            cells = _cells(people[modality].visits[v], missing, gaps)
            for side in sides if modality in shown and not absent else ():
                picture = _draw(folder, (seed, number, v, m, side), size, people[modality])
                known = {"modality": modality, "eye": SIDES[side], "visit": str(v)}
                rows.append({"patient_id": f"p{number:04d}", "split": split} | known | cells | picture)
    return [{"file": row.pop("file")} | row for row in rows]


def _shown(rng: np.random.Generator, gap: float) -> tuple[str, ...]:
    """The kinds of picture of a visit: one at random where the other is missing."""
    missing, which = rng.random() < gap, int(rng.integers(len(MODALITIES)))
    return (MODALITIES[which],) if missing else MODALITIES


def _cells(visit: Visit, rng: np.random.Generator, gaps: Mapping[str, float]) -> dict[str, str]:
    """Write what is known of a visit, with gaps."""
    cells = {"years": f"{visit.years:.2f}"}
    for name in MEASURES:
        missing = rng.random() < gaps.get("measure", 0.0)
        cells[name] = "" if missing else f"{getattr(visit, name):.{DIGITS[name]}f}"
    for name in OUTCOMES:
        missing, happens = rng.random() < gaps.get("outcome", 0.0), getattr(visit, name)
        cells[name] = "" if missing or happens is None else str(int(happens))
    return cells


def _draw(folder: Path, place: tuple[int, int, int, int, int], size: int, person: Person) -> dict[str, str]:
    """Draw a picture; its file, and the truth about it."""
    seed, number, v, m, side = place
    rng, eye = random_of(seed, 14, number, v, m, side), random_of(seed, 15, number, m, side)
    state, nuisance = person.visits[v].state, rng.standard_normal(twins_fundus.NUISANCES)
    if MODALITIES[m] == "fundus":
        fundus = twins_fundus.draw_anatomy(eye)
        factors = factors_of("fundus", state, fundus.own, rng)
        pixels = twins_fundus.draw_fundus(factors, fundus, nuisance, size, rng, left=SIDES[side] == "left")
    else:
        carotid = twins_carotid.draw_anatomy(eye)
        factors = factors_of("carotid", state, carotid.own, rng)
        pixels = twins_carotid.draw_carotid(factors, carotid, nuisance, size, rng, left=SIDES[side] == "left")
    file = f"images/{hashlib.sha256(repr(place).encode()).hexdigest()[:16]}.png"
    write_png(folder / file, pixels)
    truth = {f"s{i}": f"{number:.5f}" for i, number in enumerate(state)} | {"rate": f"{person.rate:.5f}"}
    return {"file": file} | truth | {f"n{i}": f"{number:.5f}" for i, number in enumerate(nuisance)}
