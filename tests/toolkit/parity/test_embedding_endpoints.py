"""Retrieval and probes of embeddings: values, intervals, gaps, and what power says of them."""

from __future__ import annotations

from typing import Any

import msgspec
import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score

from foveola.bench.embedding_draws import draw_recall
from foveola.runtime.errors import FoveolaError, UsageError
from foveola.runtime.task import Task
from foveola.toolkit.parity.cases import Answers, Cases, References, patient_codes
from foveola.toolkit.parity.evidence import Evidence
from foveola.toolkit.parity.pair_retrieval import Retrieved, retrieve
from foveola.toolkit.parity.power import plan
from foveola.toolkit.parity.probe import FOLDS, probe_scores
from foveola.toolkit.parity.protocol import Rule, usual_protocol
from foveola.toolkit.parity.retrieval import cosine, pair_percentile, recall_at, unit

from .conftest import Array, by_metric, compare, make_cases

LIKENESS = Task(name="likeness", kind="embedding", size=8)
PROBED = Task(name="likeness", kind="embedding", size=8, classes=("diabetes", "smoker"))
ALPHA = 0.025


def twins(
    patients: int, seed: int = 0, *, images: int = 2, noise: float = 0.6, change: float = 0.1
) -> tuple[Array, Array, Array]:
    """Embeddings of a teacher and of a student (N, 8), image by image in `make_cases`' order, and two conditions."""
    rng = np.random.default_rng(seed)
    who = np.tile(np.arange(patients), images)
    state = rng.standard_normal((patients, 8))
    teacher = state[who] + noise * rng.standard_normal((len(who), 8))
    student = teacher + change * rng.standard_normal(teacher.shape)
    conditions = (state[:, :2] + 0.3 * rng.standard_normal((patients, 2)) > 0.3).astype(np.float64)
    return unit(teacher), unit(student), conditions[who]


def proved(teacher: Array, student: Array, conditions: Array | None, patients: int, **options: Any) -> Evidence:
    task = LIKENESS if conditions is None else PROBED
    truth = np.zeros((len(teacher), 0)) if conditions is None else conditions
    return compare(task, truth, teacher, student, cases=make_cases(len(teacher), patients), **options)


def found_by(*models: Array, patients: NDArray[np.intp]) -> Retrieved:
    found = retrieve(models, patients, np.ones(len(patients), dtype=bool))
    assert found is not None
    return found


# --- retrieval ---


def test_retrieval_is_that_of_whole_matrices() -> None:
    teacher, student, _ = twins(20, images=3)
    patients = np.tile(np.arange(20), 3)
    same = patients[:, None] == patients[None]
    partners = same & ~np.eye(60, dtype=bool)

    found = found_by(teacher, student, patients=patients)

    for k, model in enumerate((teacher, student)):
        similarity = cosine(model, model)
        assert found.percentile[:, k] == pytest.approx(pair_percentile(similarity, partners, ~same))
        assert found.nearest[:, k] == pytest.approx(recall_at(1, similarity, partners, ~same))
    assert found.means[0] == pytest.approx(found.percentile[:, 0].mean())


def weighted(model: Array, patients: NDArray[np.intp], weight_P: Array) -> float:
    """Mean pair percentile where each image counts by its patient's weight, as one who asks and as one in the way."""
    w, same = weight_P[patients], patients[:, None] == patients[None]
    similarity, total, asked = cosine(model, model), 0.0, 0.0
    for n in range(len(w)):
        own = similarity[n][same[n] & (np.arange(len(w)) != n)]
        if not len(own):
            continue
        above = np.array([np.mean((own > s) + 0.5 * (own == s)) for s in similarity[n][~same[n]]])
        total += w[n] * np.average(above, weights=w[~same[n]])
        asked += w[n]
    return total / asked


def test_contributions_and_curvature_are_the_derivatives_by_the_patients_weights() -> None:
    rng = np.random.default_rng(1)
    patients = np.repeat(np.arange(9), [1, 2, 2, 3, 2, 1, 4, 2, 2])
    model = unit(rng.standard_normal((len(patients), 3)))
    found = found_by(model, patients=patients)
    step = 1e-4

    one = np.eye(9)
    slopes = [
        (weighted(model, patients, 1 + step * e) - weighted(model, patients, 1 - step * e)) / (2 * step) for e in one
    ]
    direction = found.contributions[:, 0]
    low, mid, high = (weighted(model, patients, 1 + t * direction) for t in (-1.0, 0.0, 1.0))

    assert found.contributions[:, 0] == pytest.approx(slopes, abs=1e-7)
    assert found.contributions.sum() == pytest.approx(0.0, abs=1e-12)
    curvature = found._curvature(found.contributions, np.ones((1, 1)))[0]
    assert curvature == pytest.approx(high - 2 * mid + low, rel=0.02)


def test_the_standard_error_is_the_scatter_over_new_patients() -> None:
    """A spread from those who ask alone would miss a part of it: others stand in everybody's way."""
    estimates, variances = [], []
    for seed in range(120):
        teacher, student, _ = twins(40, seed, noise=1.2, change=0.8)
        found = found_by(teacher, student, patients=np.tile(np.arange(40), 2))
        estimates.append(found.means[1] - found.means[0])
        variances.append(found.spread((-1.0, 1.0))[0].variance)

    assert np.mean(variances) == pytest.approx(np.var(estimates, ddof=1), rel=0.3)


def test_a_good_student_passes_and_a_random_one_fails() -> None:
    teacher, student, _ = twins(250, change=0.02)

    good = proved(teacher, student, None, 250)
    bad = proved(teacher, unit(np.random.default_rng(0).standard_normal(teacher.shape)), None, 250)

    assert good.verdict == "pass", [e.reason for e in good.endpoints]
    assert bad.verdict == "fail"
    assert {e.metric: (e.primary, e.margin) for e in good.endpoints} == {
        "pair_percentile": (True, 0.02),
        "recall_at_1": (False, 0.02),
    }
    found = by_metric(bad)["pair_percentile"]
    assert found.student == pytest.approx(0.5, abs=0.05)
    assert (found.cases, found.patients) == (500, 250)


def test_a_turn_of_the_whole_space_loses_nothing_but_agreement() -> None:
    teacher, _, conditions = twins(60)
    turn, _ = np.linalg.qr(np.random.default_rng(1).standard_normal((8, 8)))

    evidence = proved(teacher, teacher @ turn, conditions, 60)

    assert by_metric(evidence)["pair_percentile"].difference == pytest.approx(0.0, abs=1e-12)
    assert evidence.agreements[0].measure == "cosine"
    assert evidence.agreements[0].agreement < 0.5


def test_a_teacher_that_retrieves_by_chance_proves_nothing() -> None:
    rng = np.random.default_rng(2)
    teacher = unit(rng.standard_normal((200, 8)))

    found = by_metric(proved(teacher, unit(teacher + 0.01 * rng.standard_normal(teacher.shape)), None, 100))

    assert found["pair_percentile"].verdict == found["recall_at_1"].verdict == "underpowered"
    assert "no assay sensitivity" in found["pair_percentile"].reason


def test_equal_embeddings_differ_by_nothing_and_others_never_do() -> None:
    teacher, _, conditions = twins(15)

    same = proved(teacher, teacher.copy(), conditions, 15)
    few = by_metric(proved(teacher, unit(teacher * (1 + 1e-9 * np.arange(8))), None, 15))["pair_percentile"]

    assert all((e.difference, e.low, e.high) == (0.0, 0.0, 0.0) for e in same.endpoints)
    assert few.difference == pytest.approx(0.0, abs=1e-12)
    assert few.low is not None
    assert few.low < -0.02  # a loss that fifteen patients do not show


# --- gaps ---


def test_a_missing_embedding_counts_as_the_worst_and_a_missing_teachers_is_left_out() -> None:
    teacher, _, _ = twins(30, noise=0.01)
    student, absent = teacher.copy(), teacher.copy()
    student[0], absent[0] = np.nan, np.nan

    lost = proved(teacher, student, None, 30)
    left = by_metric(proved(absent, teacher, None, 30))["pair_percentile"]

    found = by_metric(lost)["pair_percentile"]
    # Two queries (the patient's own image and the missing one) find nothing; for the 58 others one of 58 is in the way.
    assert found.student == pytest.approx((58 * (1 - 1 / 58)) / 60)
    assert lost.policies["answers of the student missing, counted as the worst"] == 1
    assert left.cases == 58
    assert left.student == pytest.approx(1.0)


def test_images_without_another_of_their_patient_are_candidates_only() -> None:
    teacher, student, _ = twins(40)
    cases = Cases(
        keys=tuple(f"{n:03d}" for n in range(80)),
        patients=tuple(f"p{n % 40}" if n < 75 else f"alone{n}" for n in range(80)),
    )

    evidence = compare(LIKENESS, np.zeros((80, 0)), teacher, student, cases=cases)

    assert by_metric(evidence)["pair_percentile"].cases == 70
    assert "onnxruntime: likeness: 10 images have no other one of their patient and are candidates only" in (
        evidence.notes
    )


def test_without_two_images_of_a_patient_nothing_is_retrieved() -> None:
    teacher, student, _ = twins(30)

    found = by_metric(proved(teacher, student, None, 60))

    assert found["pair_percentile"].reason == "no patient has two images that the teacher answered"
    assert found["recall_at_1"].verdict == "underpowered"


def test_a_group_asks_among_all_candidates() -> None:
    teacher, student, _ = twins(40)
    sides = tuple("left" if n < 40 else "right" for n in range(80))  # every pair has one of each

    evidence = compare(
        LIKENESS, np.zeros((80, 0)), teacher, student, cases=make_cases(80, 40, eye=sides), resamples=100
    )

    groups = {group.value: group for group in evidence.subgroups}
    assert (groups["left"].cases, groups["right"].cases) == (40, 40)
    assert not groups["left"].few


def test_patients_that_are_no_longer_found_are_the_first_flips() -> None:
    teacher, student, _ = twins(30, noise=0.05)
    student = teacher.copy()
    student[3] = -student[3]

    evidence = proved(teacher, student, None, 30)

    assert evidence.flips[0].case in ("case00003", "case00033")
    assert evidence.flips[0].kind == "lost"
    assert (evidence.flips[0].teacher, evidence.flips[0].student) == pytest.approx((1.0, 0.0), abs=0.05)


def test_patients_who_are_each_other_s_nearest_widen_a_recall_by_what_they_share() -> None:
    couples = np.repeat(np.arange(20), 4)  # two patients of two images in each of twenty far directions
    patients = np.tile(np.repeat([0, 1], 2), 20) + 2 * couples
    angle = couples * 0.3 + np.tile([0.0, 0.001, 0.01, 0.011], 20)
    embedding = np.stack([np.cos(angle), np.sin(angle)], axis=1)
    found = retrieve((embedding,), patients, np.ones(len(patients), dtype=bool))
    assert found is not None
    couple_s, patient_s = (couples % 2).astype(np.float64), (patients % 2).astype(np.float64)

    assert np.array_equal(found.rival[:, 0], patients ^ 1)
    assert found.widening(couple_s) == pytest.approx(2.0)  # all of the other's sum is one's own
    assert found.widening(patient_s) == 1.0  # one is found where the other is missed: nothing is wider
    assert found.widening(np.ones(len(patients))) == 1.0


def test_the_spread_of_recall_is_that_of_many_draws() -> None:
    rng, rows = np.random.default_rng(4), []
    for _ in range(150):
        material = draw_recall(rng, 80, 0.08, recall=0.8, most=2)
        models = tuple(np.asarray(one.scores["code"], dtype=np.float64) for one in (material.teacher, material.student))
        found = retrieve(models, material.patients, np.ones(len(material.patients), dtype=bool))
        assert found is not None
        change = np.diff((found.nearest > 0.5).astype(np.float64), axis=1)[:, 0]
        sums = np.bincount(material.patients, weights=change - change.mean())
        alone = float(sums @ sums) / len(change) ** 2
        rows.append((change.mean(), alone, alone * found.widening(change)))

    means, alone, wide = np.array(rows).T
    assert wide.mean() ** 0.5 == pytest.approx(means.std(), rel=0.15)
    assert alone.mean() ** 0.5 < 0.93 * means.std()  # patients taken for independent


# --- probes ---


def test_a_probe_is_scikit_learns_on_the_other_patients() -> None:
    teacher, _, conditions = twins(30, images=3)
    patients = np.tile(np.arange(30), 3)

    scores = probe_scores(teacher, conditions, patients)

    positive = np.array([conditions[patients == p, 0].max() > 0 for p in range(30)])
    order = np.concatenate([np.flatnonzero(positive), np.flatnonzero(~positive)])
    part = np.empty(30, dtype=np.intp)
    part[order] = np.arange(30) % FOLDS
    judged = part[patients] == 2
    seen = teacher[~judged]
    z = (teacher - seen.mean(axis=0)) / seen.std(axis=0)
    oracle = LogisticRegression(tol=1e-8, max_iter=10_000).fit(z[~judged], conditions[~judged, 0])
    assert scores[judged, 0] == pytest.approx(oracle.decision_function(z[judged]), abs=1e-3)


def test_the_probes_are_judged_like_labels_each_and_together() -> None:
    teacher, student, conditions = twins(150)

    evidence = proved(teacher, student, conditions, 150)

    scores = probe_scores(teacher, conditions, patient_codes(make_cases(300, 150).patients))
    areas = [roc_auc_score(conditions[:, k], scores[:, k]) for k in range(2)]
    rows = {label: by_metric(evidence, label)["probe_auc"] for label in ("", "diabetes", "smoker")}
    assert [rows["diabetes"].teacher, rows["smoker"].teacher] == pytest.approx(areas)
    assert rows[""].teacher == pytest.approx(np.mean(areas))
    assert (rows[""].margin, rows[""].primary) == (0.01, False)
    assert all(row.low is not None and row.high is not None for row in rows.values())
    assert areas[0] > 0.8


def test_a_probe_never_sees_the_patient_that_it_judges() -> None:
    """An embedding that names its patient and nothing else would be read perfectly by a probe that has seen it."""
    rng = np.random.default_rng(3)
    state = rng.standard_normal((60, 40))
    who = np.tile(np.arange(60), 2)
    conditions = (rng.random((60, 1)) > 0.5).astype(np.float64)[who]

    scores = probe_scores(state[who], conditions, who)

    assert abs(roc_auc_score(conditions[:, 0], scores[:, 0]) - 0.5) < 0.2


def test_a_condition_that_is_not_known_is_neither_fitted_nor_judged() -> None:
    teacher, student, conditions = twins(80)
    conditions[:50, 0] = np.nan

    found = by_metric(proved(teacher, student, conditions, 80), "diabetes")["probe_auc"]

    assert found.cases == 110


def test_without_classes_no_probe_is_asked_for_and_asking_is_refused() -> None:
    usual = usual_protocol([LIKENESS])
    rules = msgspec.structs.replace(usual.tasks["likeness"], endpoints={"probe_auc": Rule()})
    teacher, student, _ = twins(20)

    assert set(usual.tasks["likeness"].endpoints) == {"pair_percentile", "recall_at_1"}
    with pytest.raises(UsageError, match="no classes that a probe could read"):
        proved(
            teacher,
            student,
            None,
            20,
            protocol=msgspec.structs.replace(usual, tasks={"likeness": rules}),
        )


def test_embeddings_of_another_length_are_refused() -> None:
    teacher, student, _ = twins(20)

    with pytest.raises(FoveolaError, match=r"onnxruntime's answer to 'likeness' has shape \(40, 7\), not \(40, 8\)"):
        proved(teacher, student[:, :7], None, 20)


# --- power ---


def test_planning_knows_embeddings_and_more_patients_need_no_more() -> None:
    protocol = usual_protocol([PROBED])
    found = {}
    for patients in (60, 240):
        teacher, _, conditions = twins(patients)
        cases = make_cases(len(teacher), patients)
        planned = plan(
            [PROBED],
            cases,
            References(scores={"likeness": conditions}),
            Answers(scores={"likeness": teacher}),
            protocol,
        )
        found[patients] = {one.metric: one for one in planned}

    assert set(found[60]) == {"pair_percentile", "recall_at_1", "probe_auc"}
    for metric in found[60]:
        few, many = (found[patients][metric] for patients in (60, 240))
        assert few.needed_cases is not None, metric
        assert many.needed_cases is not None, metric
        assert 0.4 < few.needed_cases / many.needed_cases < 2.5
        assert many.power is not None
        assert few.power is not None
        assert many.power > few.power


@pytest.mark.slow
def test_a_loss_as_large_as_the_margin_passes_about_as_often_as_alpha() -> None:
    """The student loses by added noise; its true loss, found once from many patients, is the margin."""

    def draw(seed: int, patients: int) -> Retrieved:
        teacher, student, _ = twins(patients, seed, noise=1.0, change=0.5)
        return found_by(teacher, student, patients=np.tile(np.arange(patients), 2))

    true = float(np.mean([means[0] - means[1] for means in (draw(seed, 700).means for seed in range(9000, 9008))]))
    runs, passed = 400, 0
    for seed in range(runs):
        found = draw(seed, 60)
        spread = found.spread((-1.0, 1.0))[0]
        passed += found.means[1] - found.means[0] - spread.below(ALPHA) > -true

    assert passed / runs <= 0.05  # 2.5 % and two and a half binomial standard errors
