"""Does the proof keep its error? Labels and classes: simulated students exactly at minus the margin, and at zero.

    python bench/gate_coverage.py --runs 4000 --power-runs 1000 --jobs 2 > table.md
    python bench/gate_coverage.py --only auc

How it is judged stands in `simulation.py`, what is drawn and why its truth is exact in `label_draws.py`.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from foveola.bench.label_draws import (
    draw_accuracy,
    draw_auc,
    draw_calibration,
    draw_critical,
    draw_forgotten_auc,
    draw_kappa,
    draw_lost_rate,
    draw_rate,
)
from foveola.bench.simulation import Material, Scenario, main
from foveola.toolkit.parity.protocol import TaskRules

RARE, FIVE = (0.02,), (0.02, 0.05, 0.1, 0.2, 0.5)
Draw = Callable[..., Material]


def scenario(
    metric: str, name: str, margin: float, patients: int, draw: Draw, /, *, power: bool = True, **knobs: object
) -> Scenario:
    """Write a scenario in one line; `knobs` are those of `draw`."""
    rules = TaskRules(endpoints={}, critical=("yes",) if metric == "critical_loss" else ())
    return Scenario(
        name=name,
        metric=metric,
        margin=margin,
        patients=patients,
        draw=partial(draw, **knobs) if knobs else draw,
        power=power,
        rules=rules,
    )


SCENARIOS = (
    scenario("auc", "one image a patient", 0.02, 600, draw_auc, most=1, likeness=0.9),
    scenario("auc", "1-8 images, icc 0.4", 0.02, 600, draw_auc, likeness=0.9),
    scenario("auc", "1-8 images, icc 0.8", 0.03, 400, draw_auc, icc=0.8, likeness=0.9),
    scenario(
        "auc", "truth differs inside a patient, icc 0", 0.02, 150, draw_auc, icc=0.0, truth_icc=0.3, prevalences=(0.5,)
    ),
    scenario(
        "auc",
        "truth differs inside a patient, icc 0.8",
        0.02,
        200,
        draw_auc,
        icc=0.8,
        truth_icc=0.3,
        prevalences=(0.3,),
    ),
    scenario(
        "auc",
        "prevalence 2 %, 40 positive patients, icc 0.6",
        0.05,
        2000,
        draw_auc,
        icc=0.6,
        prevalences=RARE,
        likeness=0.8,
    ),
    scenario(
        "auc",
        "15 positive patients, icc 0.8",
        0.12,
        150,
        draw_auc,
        area=0.85,
        icc=0.8,
        prevalences=(0.1,),
        likeness=0.7,
    ),
    scenario("auc", "15 positive patients, icc 0.8, models alike", 0.05, 150, draw_auc, icc=0.8, prevalences=(0.1,)),
    scenario(
        "auc",
        "50 levels both, AUC 0.97",
        0.02,
        600,
        draw_auc,
        area=0.97,
        levels=50,
        teacher_levels=50,
        icc=0.6,
        likeness=0.8,
    ),
    scenario("auc", "12 levels both", 0.02, 600, draw_auc, levels=12, teacher_levels=12, icc=0.6),
    scenario("auc", "models all but alike", 0.02, 600, draw_auc, likeness=0.998, icc=0.6),
    scenario("auc", "forgets 5 % of positives", 0.02, 500, draw_forgotten_auc),
    scenario(
        "auc",
        "forgets 5 %, 100 positive patients, AUC 0.97",
        0.0235,
        2000,
        draw_forgotten_auc,
        area=0.97,
        prevalence=0.05,
    ),
    scenario("auc", "macro of 5 labels, 2-50 %", 0.02, 800, draw_auc, prevalences=FIVE, icc=0.6, most=4, likeness=0.9),
    scenario(
        "auc",
        "macro of 5 labels, the rarest loses",
        0.02,
        800,
        draw_auc,
        prevalences=FIVE,
        icc=0.6,
        most=4,
        likeness=0.9,
        rarest=True,
    ),
    scenario(
        "sensitivity",
        "sensitivity, one image a patient",
        0.05,
        1000,
        draw_rate,
        positive=True,
        most=1,
        prevalences=(0.2,),
    ),
    scenario(
        "sensitivity", "sensitivity, 1-8 images, icc 0.4", 0.05, 400, draw_rate, positive=True, prevalences=(0.2,)
    ),
    scenario(
        "sensitivity",
        "sensitivity, 1-8 images, icc 0.8",
        0.05,
        500,
        draw_rate,
        positive=True,
        prevalences=(0.2,),
        icc=0.8,
    ),
    scenario(
        "sensitivity",
        "sensitivity, class of 2 %, icc 0.8",
        0.1,
        1500,
        draw_rate,
        positive=True,
        prevalences=RARE,
        icc=0.8,
    ),
    scenario(
        "specificity",
        "specificity, one image a patient",
        0.05,
        1000,
        draw_rate,
        positive=False,
        most=1,
        prevalences=(0.8,),
    ),
    scenario(
        "specificity", "specificity, 1-8 images, icc 0.4", 0.05, 400, draw_rate, positive=False, prevalences=(0.8,)
    ),
    scenario(
        "specificity",
        "specificity, 1-8 images, icc 0.8",
        0.05,
        500,
        draw_rate,
        positive=False,
        prevalences=(0.8,),
        icc=0.8,
    ),
    scenario(
        "specificity",
        "specificity, class of 2 %, icc 0.8",
        0.1,
        1500,
        draw_rate,
        positive=False,
        prevalences=(0.98,),
        icc=0.8,
    ),
    scenario(
        "sensitivity", "sensitivity 0.99, one image a patient", 0.02, 1500, draw_rate, positive=True, rate=0.99, most=1
    ),
    scenario(
        "sensitivity", "sensitivity, few positives change", 0.08, 300, draw_rate, positive=True, likeness=0.995, icc=0.8
    ),
    scenario("sensitivity", "sensitivity, loses whole patients", 0.05, 600, draw_lost_rate, power=False, lost_icc=0.99),
    scenario("sensitivity", "sensitivity, loses images, icc 0.5", 0.05, 600, draw_lost_rate, power=False, lost_icc=0.5),
    scenario(
        "sensitivity",
        "sensitivity, macro of 5 labels, 2-50 %",
        0.05,
        1000,
        draw_rate,
        positive=True,
        prevalences=FIVE,
        icc=0.6,
    ),
    scenario(
        "sensitivity",
        "sensitivity, macro of 5, the rarest loses",
        0.05,
        1000,
        draw_rate,
        positive=True,
        prevalences=FIVE,
        icc=0.6,
        rarest=True,
    ),
    scenario(
        "sensitivity",
        "sensitivity, macro of 5, the rarest is forgotten",
        0.03,
        1500,
        draw_lost_rate,
        prevalences=FIVE,
        likeness=0.97,
        lost_icc=0.95,
    ),
    scenario(
        "sensitivity",
        "sensitivity, macro of 5, the rarest is forgotten, calm",
        0.03,
        1500,
        draw_lost_rate,
        power=False,
        prevalences=FIVE,
        likeness=1.0,
        lost_icc=0.95,
    ),
    scenario("accuracy", "accuracy, one image a patient", 0.03, 600, draw_accuracy, most=1),
    scenario("accuracy", "accuracy, 1-8 images, icc 0.4", 0.03, 200, draw_accuracy),
    scenario("accuracy", "accuracy, 40 patients, icc 0.8", 0.08, 40, draw_accuracy, icc=0.8),
    scenario("kappa", "kappa, one image a patient", 0.03, 400, draw_kappa, most=1),
    scenario("kappa", "kappa, 1-8 images, icc 0.4", 0.03, 150, draw_kappa),
    scenario("kappa", "kappa, 40 patients, icc 0.8", 0.06, 40, draw_kappa, icc=0.8),
    scenario("kappa", "kappa 0.95, models alike", 0.02, 200, draw_kappa, kappa=0.95, likeness=0.995, icc=0.6),
    scenario("brier", "brier, 1-8 images, icc 0.4", 0.005, 200, draw_calibration, metric="brier"),
    scenario("brier", "brier, one image a patient", 0.01, 400, draw_calibration, metric="brier", most=1),
    scenario(
        "brier", "brier, prevalence 3 %, icc 0.8", 0.0015, 800, draw_calibration, metric="brier", center=-5.0, icc=0.8
    ),
    scenario(
        "brier", "brier, blunders", 0.02, 200, draw_calibration, power=False, metric="brier", blunder=True, icc=0.8
    ),
    scenario("logloss", "logloss, 1-8 images, icc 0.4", 0.01, 200, draw_calibration, metric="logloss"),
    scenario(
        "logloss",
        "logloss, prevalence 3 %, icc 0.8",
        0.01,
        800,
        draw_calibration,
        metric="logloss",
        center=-5.0,
        icc=0.8,
    ),
    scenario(
        "logloss",
        "logloss, blunders",
        0.08,
        300,
        draw_calibration,
        power=False,
        metric="logloss",
        blunder=True,
        icc=0.8,
    ),
    scenario("critical_loss", "critical, one image a patient", 0.01, 1200, draw_critical, power=False, most=1),
    scenario("critical_loss", "critical, 1-8 images, icc 0.4", 0.02, 800, draw_critical, power=False),
    scenario("critical_loss", "critical, whole patients", 0.02, 1000, draw_critical, power=False, icc=0.99),
    scenario(
        "critical_loss", "critical, large patients lose", 0.02, 1000, draw_critical, power=False, icc=0.9, large=True
    ),
)

if __name__ == "__main__":
    main(SCENARIOS, __doc__)
