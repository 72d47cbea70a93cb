"""Fundus photographs of bodies that never were: measures of the body and of the blood with a known law, from a seed.

Nothing in them comes from a patient, and the law is ours: they are for trying SePL without a download, not for any
clinical claim. What a picture shows of the body is said in `_eye_of`, what the blood follows from in `draw_blood`.

    make_body(Path("phantom"), patients=300, seed=7)

writes `images/*.png` (8-bit RGB) and `manifest.csv`:

| column | holds |
|---|---|
| file, patient_id, split, eye, camera, quality | as in the phantom `fundus`, whose eyes these are |
| sex, age, height, weight, bmi, waist | the simple factors: F or M; years, cm, kg, kg/m2, cm |
| sbp, dbp | blood pressure, mmHg |
| cholesterol, glucose, triglycerides | mg/dL |
| hba1c | % |
| bun, creatinine, uric_acid | mg/dL |
| hypertension, diabetes | 0 or 1: 140/90 mmHg or more; 126 mg/dL or 6.5 % or more |

Both eyes of a patient have one body. Some cells are empty on purpose (`gaps`): no blood was drawn, no waist measured.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import msgspec
import numpy as np

from .fundus_eye import CAMERAS, Camera, Eye, draw_eye, photograph
from .phantom import empty_folder, make_all, random_of, split_patients, write_manifest, write_png
from .phantoms import SHARES, Progress

GAPS: Mapping[str, float] = {"waist": 0.10, "blood": 0.15}
GAP_SPLITS = ("train", "calibration")
BOTH_EYES = 0.4  # share of the patients
BLOOD = ("cholesterol", "glucose", "triglycerides", "hba1c", "bun", "creatinine", "uric_acid")


class State(msgspec.Struct, frozen=True, kw_only=True):
    """A body: what the simple factors say, and one thing of which they say nothing."""

    male: bool
    age: float  # years
    height: float  # cm
    weight: float  # kg
    waist: float  # cm
    texture: float  # standard normal; the weak cue, seen as streaks of the choroid alone

    @property
    def bmi(self) -> float:
        """kg/m2, exactly."""
        return self.weight / (self.height / 100) ** 2


def make_body(
    folder: Path,
    *,
    patients: int,
    seed: int = 0,
    size: int = 256,
    shares: Mapping[str, float] = SHARES,
    gaps: Mapping[str, float] = GAPS,
    gap_splits: Sequence[str] = GAP_SPLITS,
    unrelated: bool = False,
    progress: Progress | None = None,
) -> int:
    """Make a data set of fundus phantoms of one eye or both, with measures of their owners.

    Args:
        folder: where to; made if need be, must be empty.
        patients: how many.
        seed: equal seeds give equal files on the same machine.
        size: rows of a picture; some cameras' pictures are wider than high.
        shares: of the patients by split (train, val, calibration, test); they add up to 1.
        gaps: share of pictures without waist, and without all that needs blood.
        gap_splits: splits in which gaps occur.
        unrelated: the complex factors do not follow from the simple ones (the negative control of an ablation).
        progress: called with patients done and in all.

    Returns:
        The number of pictures.

    Raises:
        FoveolaError: the folder is not empty.
        UsageError: the shares are none, or there is nothing to make.
    """
    splits = split_patients(patients, shares, random_of(seed, 0), size)
    empty_folder(folder)
    (folder / "images").mkdir()

    def make(number: int) -> list[dict[str, str]]:
        rng = random_of(seed, 3, number)
        state = draw_state(rng)
        blood = draw_blood(_stranger(state, seed, number) if unrelated else state, rng)
        missing = gaps if splits[number] in gap_splits else {}
        return _make_patient(folder, f"p{number:04d}", splits[number], state, blood, rng, size, missing)

    rows = make_all(make, patients, progress)
    write_manifest(folder, rows)
    return len(rows)


def draw_state(rng: np.random.Generator) -> State:
    """Draw a body; height hangs on sex, weight on height and age, waist on BMI, sex and age."""
    male = bool(rng.random() < 0.5)
    age = float(rng.uniform(20, 80))
    height = float(np.clip(rng.normal(174 if male else 161, 6.5), 145, 198))
    bmi = float(np.clip(rng.gamma(3.0, 2.3) + 18.0 + 0.02 * (age - 50), 16.5, 42))
    waist = 84 + 2.3 * (bmi - 24) + 0.12 * (age - 50) + (5.0 if male else -3.0) + rng.normal(0, 3.0)
    return State(
        male=male,
        age=age,
        height=height,
        weight=bmi * (height / 100) ** 2,
        waist=float(np.clip(waist, 55, 150)),
        texture=float(rng.standard_normal()),
    )


def _stranger(state: State, seed: int, number: int) -> State:
    """Another body with the same texture: equal distributions, no relation."""
    return msgspec.structs.replace(draw_state(random_of(seed, 4, number)), texture=state.texture)


def draw_blood(state: State, rng: np.random.Generator) -> dict[str, float]:
    """The complex factors: bends and products of the simple ones, the weak cue, and noise of each its own."""
    male, age, bmi, cue = float(state.male), state.age, state.bmi, state.texture
    stout, old, belly = max(bmi - 22, 0.0), float(age > 50), max(state.waist - 88, 0.0)
    noise = dict(zip(("sbp", "dbp", *BLOOD), rng.standard_normal(2 + len(BLOOD)), strict=True))
    glucose = 80 + 0.20 * age + 0.09 * stout * max(age - 40, 0) + 3.0 * cue + 7.0 * noise["glucose"]
    fat = 70 + 2.6 * belly + 22 * male + 1.2 * stout * male + 6.0 * cue + 16.0 * noise["triglycerides"]
    return {
        "sbp": 90 + 0.6 * age + 1.1 * stout + 6 * male * old + 2.5 * cue + 7.0 * noise["sbp"],
        "dbp": 60 + 0.9 * stout + 14 * np.exp(-(((age - 55) / 16) ** 2)) + 3 * male + 1.5 * cue + 5.0 * noise["dbp"],
        "cholesterol": 150 + 40 * np.exp(-(((age - 58) / 18) ** 2)) + 14 * (1 - male) * old + 5.0 * cue
        + 14.0 * noise["cholesterol"],
        "glucose": glucose,
        "triglycerides": max(fat, 30.0),  # nobody lives with less
        "hba1c": 2.6 + 0.031 * glucose + 0.12 * cue + 0.15 * noise["hba1c"],
        "bun": 9 + 0.09 * age + 0.06 * max(age - 60, 0) + 1.5 * male + 0.5 * cue + 1.6 * noise["bun"],
        "creatinine": 0.60 + 0.20 * male + 0.004 * (state.height - 165) + 0.003 * max(age - 45, 0) + 0.02 * cue
        + 0.07 * noise["creatinine"],
        "uric_acid": 3.8 + 1.3 * male + 0.09 * stout + 0.5 * (1 - male) * old + 0.2 * cue + 0.5 * noise["uric_acid"],
    }  # fmt: skip


def _eye_of(state: State, rng: np.random.Generator, *, left: bool, like: Eye | None) -> Eye:
    """An eye that shows its owner's body: the lens yellows with age, vessels widen with BMI, and what stands below."""
    eye = draw_eye(rng, left=left, grade=0, like=like)
    age, stout = (state.age - 20) / 60, (state.bmi - 17) / 18
    tall, cup = (state.height - 145) / 50, 0.62 if state.male else 0.34
    disc = 0.125 + 0.075 * tall
    return msgspec.structs.replace(
        eye,
        colour=(0.80 - 0.10 * age, 0.40 - 0.06 * age, 0.27 - 0.20 * age),  # the old lens swallows blue
        macula=0.48 - 0.30 * age,
        calibre=0.6 + 1.1 * stout,
        cup=float(np.clip(cup + rng.normal(0, 0.05), 0.2, 0.85)),  # sex
        disc_size=(disc * 0.92, disc),  # height
        streaks=float(np.clip(0.6 + 0.35 * state.texture, 0, 1.5)),  # the weak cue
    )


def _make_patient(
    folder: Path,
    patient: str,
    split: str,
    state: State,
    blood: Mapping[str, float],
    rng: np.random.Generator,
    size: int,
    gaps: Mapping[str, float],
) -> list[dict[str, str]]:
    camera = CAMERAS[int(rng.choice(len(CAMERAS), p=[camera.share for camera in CAMERAS]))]
    eyes = [_eye_of(state, rng, left=bool(rng.random() < 0.5), like=None)]
    if rng.random() < BOTH_EYES:
        eyes.append(_eye_of(state, rng, left=not eyes[0].left, like=eyes[0]))
    missing = {what: bool(rng.random() < gaps.get(what, 0.0)) for what in GAPS}
    cells = _cells(state, blood, missing)
    rows = []
    for eye in eyes:
        picture = photograph(eye, camera, size, rng)
        name = f"{patient}_{'left' if eye.left else 'right'}"
        write_png(folder / "images" / f"{name}.png", picture.pixels)
        row = {"file": f"images/{name}.png", "patient_id": patient, "split": split}
        rows.append(row | _said(eye, camera, poor=picture.poor) | cells)
    return rows


def _said(eye: Eye, camera: Camera, *, poor: bool) -> dict[str, str]:
    return {
        "eye": "left" if eye.left else "right",
        "camera": camera.name,
        "quality": "poor" if poor else "good",
    }


def _cells(state: State, blood: Mapping[str, float], missing: Mapping[str, bool]) -> dict[str, str]:
    """What is known of the body."""
    diabetes = blood["glucose"] >= 126 or blood["hba1c"] >= 6.5
    drawn = {name: f"{blood[name]:.2f}" for name in BLOOD} | {"diabetes": str(int(diabetes))}
    return {
        "sex": "M" if state.male else "F",
        "age": f"{state.age:.0f}",
        "height": f"{state.height:.1f}",
        "weight": f"{state.weight:.1f}",
        "bmi": f"{state.bmi:.2f}",
        "waist": "" if missing["waist"] else f"{state.waist:.1f}",
        "sbp": f"{blood['sbp']:.0f}",
        "dbp": f"{blood['dbp']:.0f}",
        "hypertension": str(int(blood["sbp"] >= 140 or blood["dbp"] >= 90)),
        **{name: "" if missing["blood"] else cell for name, cell in drawn.items()},
    }
