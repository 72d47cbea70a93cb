"""Laws of planning: published tables and simple formulas come out, and what was planned is what simulations give."""

from __future__ import annotations

from typing import Any

import msgspec
import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.stats import multivariate_normal, norm

from foveola.runtime.task import Task
from foveola.toolkit.parity.cases import Answers, Cases, References
from foveola.toolkit.parity.endpoints import measure
from foveola.toolkit.parity.measured import Setting
from foveola.toolkit.parity.metrics import METRICS
from foveola.toolkit.parity.pairing import pair
from foveola.toolkit.parity.power import Planned, foresee, joint_power, plan, plan_one
from foveola.toolkit.parity.proportion import tango_interval
from foveola.toolkit.parity.protocol import Protocol, Rule, TaskRules, usual_protocol
from foveola.toolkit.parity.rate_power import pairs_for, tango_power
from foveola.toolkit.parity.scatter import MeanScatter, component_correlation, discordance
from foveola.toolkit.parity.teacher_scatter import SCATTERS

from .conftest import compare

Array = NDArray[np.float64]
BINARY = Task(name="finding", kind="binary", classes=("no", "yes"))
PROTOCOL = msgspec.structs.replace(usual_protocol([BINARY]), resamples=100)

AREA_ONLY = Protocol(tasks={"finding": TaskRules(endpoints={"auc": Rule(margin=0.01)})})


def binormal(area: float) -> float:
    """How far two normal distributions of width 1 lie apart."""
    return float(2.0**0.5 * norm.ppf(area))


def draw(rng: np.random.Generator, truth: Array, shift: float, correlation: float) -> tuple[Array, Array]:
    """Teacher's and student's probabilities (n, 1), equally good."""
    first, second = rng.standard_normal((2, len(truth)))
    second = correlation * first + (1.0 - correlation**2) ** 0.5 * second
    teacher, student = (norm.cdf(noise + shift * (truth - 0.5))[:, None] for noise in (first, second))
    return teacher, student


def without_luck(truth: Array, shift: float) -> Array:
    """A teacher's probabilities (n, 1) whose scores are the quantiles of its two distributions."""
    ranks = np.where(truth > 0, np.cumsum(truth), np.cumsum(1 - truth)) - 0.5
    of_class = np.where(truth > 0, truth.sum(), (1 - truth).sum())
    return np.asarray(norm.cdf(norm.ppf(ranks / of_class) + shift * (truth - 0.5)))[:, None]


def material(truth: Array, teacher: Array, images: int = 1) -> tuple[Cases, References, Answers]:
    count = len(truth)
    return (
        Cases(keys=tuple(f"{n:06d}" for n in range(count)), patients=tuple(f"{n // images:06d}" for n in range(count))),
        References(scores={"finding": truth[:, None]}),
        Answers(scores={"finding": teacher}, thresholds={"finding": (0.5,)}),
    )


def by_metric(planned: tuple[Planned, ...]) -> dict[str, Planned]:
    return {one.metric: one for one in planned}


# --- oracles ---

# Smallest provable margin for an AUC of 0.95, one positive to four negatives, 80 % power, one-sided alpha 0.025, by the
# correlation of the scores and the positives; measured by simulation and printed with three decimals.
TABLE = {
    0.90: (0.025, 0.017, 0.012, 0.008, 0.006),
    0.95: (0.018, 0.0125, 0.009, 0.006, 0.004),
    0.98: (0.012, 0.008, 0.006, 0.004, 0.003),
    0.995: (0.006, 0.004, 0.003, 0.002, 0.001),
}
POSITIVES = (50, 100, 200, 400, 800)


def test_the_table_of_provable_margins_comes_out() -> None:
    """Of the scatter alone: the proof asks for more, since losses too rare to be seen have a bound of their own."""
    truth = np.repeat([1.0, 0.0], [4000, 16000])
    area = foresee([BINARY], *material(truth, without_luck(truth, binormal(0.95))), AREA_ONLY)[0]
    assert isinstance(area.scatter, MeanScatter)

    for correlation, row in TABLE.items():
        whole = area.scatter.of_difference(correlation)
        for count, printed in zip(POSITIVES, row, strict=True):
            provable = (1.960 + 0.8416) * whole.grown(count / 4000).variance ** 0.5
            # Printed with three decimals, from some hundreds of simulated sets.
            assert provable == pytest.approx(printed, abs=0.0007 + 0.05 * printed)


def test_the_rule_of_thumb_for_rates_is_the_start() -> None:
    """(1.96 + 0.84)^2 * 0.03 / 0.02^2: about 590 positives; its power is short of 80 %."""
    assert pairs_for(0.03, 0.02, 0.025, 0.8) >= 589
    assert tango_power(589, 0.03, 0.02, 0.025) == pytest.approx(0.74, abs=0.01)


@pytest.mark.parametrize("right", [0.5, 0.8, 0.97])
@pytest.mark.parametrize("correlation", [0.5, 0.9, 0.99])
def test_discordance_is_that_of_two_normal_scores(right: float, correlation: float) -> None:
    limit = norm.ppf(right)
    covariance: Any = [[1, correlation], [correlation, 1]]
    both = multivariate_normal.cdf([limit, limit], mean=[0, 0], cov=covariance)

    assert discordance(right, correlation) == pytest.approx(2 * (right - both), abs=1e-4)


@pytest.mark.parametrize(("area", "correlation"), [(0.7, 0.9), (0.95, 0.95), (0.99, 0.8)])
def test_component_correlation_is_what_simulated_components_have(area: float, correlation: float) -> None:
    rng, shift = np.random.default_rng(3), binormal(area)
    first, second = rng.standard_normal((2, 400_000))
    second = correlation * first + (1.0 - correlation**2) ** 0.5 * second

    seen = np.corrcoef(norm.cdf(first + shift), norm.cdf(second + shift))[0, 1]

    assert component_correlation(area, correlation) == pytest.approx(seen, abs=0.01)


@pytest.mark.parametrize(("pairs", "share", "margin"), [(589, 0.03, 0.02), (300, 0.01, 0.02), (250, 0.08, 0.05)])
def test_the_power_of_tangos_interval_is_what_it_has_in_simulation(pairs: int, share: float, margin: float) -> None:
    rng = np.random.default_rng(0)
    drawn = rng.multinomial(pairs, [share / 2, share / 2, 1 - share], 1500)

    passed = np.mean([tango_interval(gains, losses, pairs, 0.025)[0] > -margin for gains, losses, _ in drawn])

    assert tango_power(pairs, share, margin, 0.025) == pytest.approx(passed, abs=0.03)


def test_the_exact_power_goes_over_into_the_approximation() -> None:
    exact, near = tango_power(3990, 0.1, 0.02, 0.025), tango_power(4010, 0.1, 0.02, 0.025)

    assert exact == pytest.approx(near, abs=0.005)


# --- what was planned is what comes ---


@pytest.mark.parametrize(("metric", "area", "repeats"), [("auc", 0.9, 400), ("sensitivity", 0.98, 300)])
def test_at_the_planned_number_the_proof_has_the_planned_power(metric: str, area: float, repeats: int) -> None:
    rng, shift = np.random.default_rng(5), binormal(area)
    truth = (np.arange(4000) % 4 == 0).astype(np.float64)
    ideal = without_luck(truth, shift)
    protocol = Protocol(
        tasks={"finding": TaskRules(endpoints={metric: Rule(margin=0.02 if metric == "auc" else 0.05)})}, resamples=100
    )
    needed = plan([BINARY], *material(truth, ideal), protocol, 0.9)[0].needed_cases
    assert needed is not None

    passed = 0
    for _ in range(repeats):
        sample = (np.arange(needed) % 4 == 0).astype(np.float64)
        teacher, student = draw(rng, sample, shift, 0.9)
        evidence = compare(BINARY, sample[:, None], teacher, student, protocol=protocol)
        passed += evidence.endpoints[0].verdict == "pass"

    assert passed / repeats == pytest.approx(0.8, abs=0.05 + 1.5 * (0.16 / repeats) ** 0.5)


def test_the_proof_asks_for_about_as_many_cases_as_were_planned() -> None:
    rng = np.random.default_rng(8)
    truth = (np.arange(600) % 4 == 0).astype(np.float64)
    teacher, student = draw(rng, truth, binormal(0.85), 0.9)
    planned = by_metric(plan([BINARY], *material(truth, teacher), PROTOCOL, 0.9))

    asked = {one.metric: one for one in compare(BINARY, truth[:, None], teacher, student, protocol=PROTOCOL).endpoints}

    for metric in ("auc", "sensitivity"):
        endpoint, here = asked[metric], planned[metric]
        assert endpoint.needed_cases is not None
        assert here.needed_cases == pytest.approx(endpoint.needed_cases, rel=0.3)


def test_images_of_one_patient_count_for_less() -> None:
    rng = np.random.default_rng(2)
    patient, inside = np.repeat(rng.standard_normal(500), 4), rng.standard_normal(2000)
    truth = np.repeat((np.arange(500) % 3 == 0).astype(np.float64), 4)
    scores = norm.cdf(0.8**0.5 * patient + 0.2**0.5 * inside + 1.5 * (truth - 0.5))[:, None]

    together = by_metric(plan([BINARY], *material(truth, scores, images=4), PROTOCOL))
    apart = by_metric(plan([BINARY], *material(truth, scores, images=1), PROTOCOL))

    # Decisions that change are less alike inside a patient than right decisions are, so they count for more.
    for metric, times in (("auc", 1.8), ("sensitivity", 1.3)):
        one, other = together[metric], apart[metric]
        assert one.icc is not None
        assert 0.3 < one.icc < 1.0
        assert one.design_effect == pytest.approx(1 + (4 - 1) * one.icc)
        assert one.needed_cases is not None
        assert other.needed_cases is not None
        assert one.needed_cases > times * other.needed_cases
        assert other.icc is None


# --- every kind ---


def test_every_metric_that_the_teacher_alone_can_tell_is_planned() -> None:
    rng, count = np.random.default_rng(4), 200
    tasks = (
        Task(name="labels", kind="multilabel", classes=("a", "b", "c")),
        Task(name="organ", kind="multiclass", classes=("x", "y", "z")),
        Task(name="grade", kind="ordinal", classes=("0", "1", "2", "3")),
        Task(name="sizes", kind="regression", classes=("long", "wide")),
        Task(name="lungs", kind="segmentation", classes=("right", "left")),
        Task(name="boxes", kind="detection", classes=("nodule",)),
    )
    labels, organ, grade = (
        rng.integers(0, top, (count, width)).astype(np.float64) for top, width in ((2, 3), (3, 1), (4, 1))
    )
    sizes = rng.normal(50, 10, (count, 2))
    corner = rng.uniform(0, 200, (count, 2))
    boxes = [np.array([[x, y, x + 20, y + 20, 0.0]]) for x, y in corner]
    found = [np.array([[*(box[0, :4] + rng.normal(0, 3, 4)), rng.random(), 0.0]]) for box in boxes]
    cases = Cases(keys=tuple(f"{n:03d}" for n in range(count)), patients=tuple(f"{n // 2}" for n in range(count)))
    references = References(
        scores={"labels": labels, "organ": organ, "grade": grade, "sizes": sizes}, boxes={"boxes": tuple(boxes)}
    )
    answers = Answers(
        scores={
            "labels": norm.cdf(rng.standard_normal((count, 3)) + 2 * labels - 1),
            "organ": _chances(rng, organ, 3),
            "grade": _chances(rng, grade, 4),
            "sizes": sizes + rng.normal(0, 3, sizes.shape),
        },
        dice={"lungs": rng.uniform(0.8, 1.0, (count, 2))},
        boxes={"boxes": tuple(found)},
    )

    planned = plan(tasks, cases, references, answers, usual_protocol(tasks))

    primary = [one for one in planned if one.primary]
    assert {one.metric for one in primary} == {
        "auc", "sensitivity", "specificity", "accuracy", "kappa", "mae", "dice", "map50"
    }  # fmt: skip
    assert [one.label for one in primary if one.metric == "mae"] == ["long", "wide"]
    for one in primary:
        assert one.needed_cases is not None, one.metric
        assert one.provable_margin is not None, one.metric
        assert (one.needed_cases <= one.cases) == (one.provable_margin <= one.margin), one
        assert one.power is not None, one.metric
    assert 0.0 <= (joint_power(planned) or 0.0) <= min(one.power or 0.0 for one in primary)


def test_every_metric_of_the_table_can_be_planned() -> None:
    assert set(SCATTERS) == set(METRICS)


def _chances(rng: np.random.Generator, truth: Array, count: int) -> Array:
    score = rng.standard_normal((len(truth), count))
    score[np.arange(len(truth)), truth[:, 0].astype(int)] += 2.0
    chances: Array = np.exp(score) / np.exp(score).sum(axis=1, keepdims=True)
    return chances


def test_leaving_out_groups_of_patients_comes_to_the_same_scatter() -> None:
    task = Task(name="lungs", kind="segmentation", classes=("right", "left"))
    rng = np.random.default_rng(6)
    answers = Answers(dice={"lungs": rng.normal(0.9, 0.03, (1200, 2))})
    patients = np.arange(1200, dtype=np.intp) // 3
    rules = TaskRules(endpoints={"dice": Rule(margin=0.01)})
    setting = Setting(patients=patients, resamples=10, seed=0, alpha=0.025, power=0.8, rules=rules)
    beside_itself = pair(task, References(), answers, answers)
    dice = next(row for row in measure(beside_itself, setting)[0] if row.primary)

    plain, grouped = (SCATTERS[name](beside_itself, dice, setting, answers) for name in ("dice", "froc"))

    assert isinstance(plain, MeanScatter)
    assert isinstance(grouped, MeanScatter)
    assert grouped.spread.variance**0.5 == pytest.approx(plain.spread.variance**0.5, rel=0.35)
    assert grouped.spread.freedom == pytest.approx(plain.spread.freedom)


def test_what_may_be_hidden_is_planned_for_as_the_proof_counts_it() -> None:
    task = Task(name="lungs", kind="segmentation", classes=("lung",))
    dice = np.random.default_rng(1).normal(0.9, 0.02, (60, 1))
    cases = Cases(keys=tuple(f"{n:03d}" for n in range(60)), patients=tuple(f"{n}" for n in range(60)))
    protocol = Protocol(tasks={"lungs": TaskRules(endpoints={"dice": Rule(margin=0.02)})})

    (planned,) = plan([task], cases, References(), Answers(dice={"lungs": dice}), protocol, 0.99)

    # z^2 / (n + z^2) of the patients may be missed wholly: 0.9 z^2 / (n + z^2) = 0.02 with 169 patients.
    assert planned.needed_cases is not None
    assert 169 < planned.needed_cases < 190


def test_a_higher_correlation_needs_fewer_cases() -> None:
    truth = (np.arange(600) % 3 == 0).astype(np.float64)
    teacher, _ = draw(np.random.default_rng(1), truth, 1.5, 0.9)
    foreseen = foresee([BINARY], *material(truth, teacher), PROTOCOL)

    for one in foreseen:
        needed = [plan_one(one, PROTOCOL, correlation).needed_cases or 0 for correlation in (0.8, 0.9, 0.95, 0.99)]
        assert needed == sorted(needed, reverse=True)
        assert needed[0] > needed[-1]


def test_a_known_discordance_goes_before_the_correlation() -> None:
    truth = (np.arange(600) % 3 == 0).astype(np.float64)
    teacher, _ = draw(np.random.default_rng(1), truth, 1.5, 0.9)

    planned = by_metric(plan([BINARY], *material(truth, teacher), PROTOCOL, 0.9, discordance=0.03))

    pairs = pairs_for(0.03, 0.02, 0.025, 0.8)
    assert planned["sensitivity"].discordance == 0.03
    assert planned["sensitivity"].needed_positives == pytest.approx(pairs, abs=2)
    assert planned["auc"].discordance is None


def test_critical_positives_that_chance_alone_loses_cannot_be_proved() -> None:
    critical = msgspec.structs.replace(BINARY, critical=("yes",))
    truth = (np.arange(1200) % 2).astype(np.float64)
    teacher, _ = draw(np.random.default_rng(1), truth, 3.0, 0.9)
    rules = TaskRules(endpoints={"critical_loss": Rule(margin=0.02)}, critical=("yes",))
    foreseen = foresee([critical], *material(truth, teacher), Protocol(tasks={"finding": rules}))[0]

    loose, tight = (plan_one(foreseen, PROTOCOL, correlation) for correlation in (0.9, 0.999))

    assert loose.needed_cases is None
    assert "would be lost by chance alone, the margin is 2.0%" in loose.note
    assert tight.note == ""
    # Without a single loss: log(0.025) / log(1 - 0.02), 183 positives that the teacher finds.
    assert (tight.needed_cases or 0) >= 183
    assert plan_one(foreseen, PROTOCOL, 0.999999).needed_cases == pytest.approx(183, abs=1)


def test_too_few_patients_are_told_and_have_no_power() -> None:
    truth = np.array([1.0] * 6 + [0.0] * 94)
    teacher, _ = draw(np.random.default_rng(1), truth, 3.0, 0.9)

    planned = plan([BINARY], *material(truth, teacher), PROTOCOL, 0.99)

    for one in planned:
        assert one.power == 0.0
        assert "only 6 positive patients" in one.note
        assert (one.needed_positives or 0) >= 10


def test_a_teacher_at_chance_has_no_power_however_many_cases() -> None:
    truth = (np.arange(400) % 2).astype(np.float64)
    teacher = np.random.default_rng(1).random((400, 1))

    planned = by_metric(plan([BINARY], *material(truth, teacher), PROTOCOL))

    assert planned["auc"].power == 0.0
    assert "no assay sensitivity" in planned["auc"].note


def test_a_perfect_teacher_still_needs_cases() -> None:
    truth = (np.arange(100) % 2).astype(np.float64)
    planned = by_metric(plan([BINARY], *material(truth, 0.1 + 0.8 * truth[:, None]), PROTOCOL))

    assert (planned["auc"].needed_cases or 0) > 100
    assert (planned["sensitivity"].needed_positives or 0) >= 189  # Tango's bound without any change
