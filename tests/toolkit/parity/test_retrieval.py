"""Pair percentile, recall, reciprocal ranks and phenotype-consistent retrieval."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.stats import rankdata
from sklearn.metrics import label_ranking_average_precision_score, roc_auc_score, top_k_accuracy_score

from foveola.toolkit.parity.cases import Array
from foveola.toolkit.parity.retrieval import (
    alignment,
    cosine,
    mean_percentile,
    mean_reciprocal_rank,
    pair_percentile,
    phenotype_ratio,
    ranks,
    recall_at,
    uniformity,
    unit,
)


def ranked(places: list[int], count: int) -> tuple[Array, NDArray[np.intp]]:
    """Similarities in which query i's partner i stands at the given place."""
    rows = []
    for n, place in enumerate(places):
        others = iter([value for value in range(count, 0, -1) if value != count + 1 - place])
        rows.append([float(count + 1 - place) if m == n else float(next(others)) for m in range(count)])
    return np.array(rows), np.arange(len(places))


def drawn(rng: np.random.Generator, queries: int, candidates: int, levels: int = 0) -> Array:
    plain = rng.standard_normal((queries, candidates))
    return np.floor(plain * levels) if levels else plain


def test_the_hand_example_of_four_candidates_comes_out() -> None:
    similarity, partner = ranked([1, 2, 4, 1], 4)

    found = pair_percentile(similarity, partner)

    assert found == pytest.approx([1.0, 2 / 3, 0.0, 1.0])
    assert mean_percentile(similarity, partner) == pytest.approx(2 / 3)


def test_ranks_are_those_of_scipy_with_ties_averaged() -> None:
    similarity, partner = drawn(np.random.default_rng(0), 40, 23, levels=2), np.arange(40) % 23

    found = ranks(similarity, partner)

    assert found == pytest.approx([rankdata(-row)[p] for row, p in zip(similarity, partner, strict=True)])


def test_a_query_with_several_partners_has_the_area_under_its_roc_curve() -> None:
    rng = np.random.default_rng(1)
    similarity, partners = drawn(rng, 30, 50, levels=3), rng.random((30, 50)) < 0.1
    partners[:, 0], partners[:, 1] = True, False

    found = pair_percentile(similarity, partners)

    assert found == pytest.approx([roc_auc_score(p, row) for p, row in zip(partners, similarity, strict=True)])


def test_random_similarities_have_a_mean_of_a_half_within_three_standard_errors() -> None:
    found = pair_percentile(drawn(np.random.default_rng(2), 1000, 200), np.arange(1000) % 200)

    assert abs(found.mean() - 0.5) < 3.0 * found.std() / np.sqrt(len(found))
    assert found.std() == pytest.approx(np.sqrt(1 / 12), rel=0.05)


def test_a_perfect_embedding_has_one_in_everything() -> None:
    embedding = np.eye(12)
    similarity, partner = cosine(embedding, 3.0 * embedding), np.arange(12)

    assert pair_percentile(similarity, partner) == pytest.approx(np.ones(12))
    assert recall_at(1, similarity, partner) == pytest.approx(np.ones(12))
    assert mean_reciprocal_rank(similarity, partner) == 1.0


@pytest.mark.parametrize("levels", [0, 2])
def test_the_order_of_the_candidates_never_matters(levels: int) -> None:
    rng = np.random.default_rng(3)
    similarity, partner, order = drawn(rng, 20, 30, levels), rng.integers(0, 30, 20), rng.permutation(30)
    moved = np.argsort(order)[partner]
    measures = rng.standard_normal((30, 2))

    for measure in (ranks, pair_percentile, lambda s, p: recall_at(5, s, p)):
        assert measure(similarity[:, order], moved) == pytest.approx(measure(similarity, partner))
    assert phenotype_ratio(similarity[:, order], measures[:20], measures[order]) == pytest.approx(
        phenotype_ratio(similarity, measures[:20], measures)
    )


def test_all_tied_is_chance() -> None:
    similarity, partner = np.ones((3, 5)), np.array([0, 2, 4])

    assert pair_percentile(similarity, partner) == pytest.approx([0.5] * 3)
    assert recall_at(2, similarity, partner) == pytest.approx([2 / 5] * 3)


def test_tied_partners_are_found_with_the_chance_of_a_shuffled_row() -> None:
    similarity, partners = np.array([[5.0, 1.0, 1.0, 1.0, 1.0]]), np.array([[False, True, True, False, False]])

    assert recall_at(1, similarity, partners) == pytest.approx([0.0])
    assert recall_at(2, similarity, partners) == pytest.approx([1 / 2])
    assert recall_at(3, similarity, partners) == pytest.approx([1 - (2 * 1) / (4 * 3)])
    assert recall_at(4, similarity, partners) == pytest.approx([1.0])


@pytest.mark.parametrize("k", [1, 5, 10])
def test_recall_is_scikit_learns_top_k_accuracy(k: int) -> None:
    rng = np.random.default_rng(4)
    similarity, partner = drawn(rng, 60, 20), rng.integers(0, 20, 60)

    found = recall_at(k, similarity, partner)

    assert set(found) <= {0.0, 1.0}
    assert found.mean() == pytest.approx(top_k_accuracy_score(partner, similarity, k=k, labels=np.arange(20)))


def test_the_mean_reciprocal_rank_is_scikit_learns_for_one_partner() -> None:
    rng = np.random.default_rng(5)
    similarity, partner = drawn(rng, 30, 15), rng.integers(0, 15, 30)

    expected = label_ranking_average_precision_score(np.eye(15)[partner], similarity)

    assert mean_reciprocal_rank(similarity, partner) == pytest.approx(expected)


def test_what_is_neither_partner_nor_rival_is_not_looked_at() -> None:
    similarity = np.array([[9.0, 3.0, 2.0, 1.0]])  # the query itself stands first
    rivals = np.array([[False, False, True, True]])

    assert pair_percentile(similarity, np.array([1]), rivals) == pytest.approx([1.0])
    assert recall_at(1, similarity, np.array([1]), rivals) == pytest.approx([1.0])
    assert pair_percentile(similarity, np.array([1])) == pytest.approx([2 / 3])


def test_a_query_without_a_partner_or_a_rival_says_nothing() -> None:
    similarity = np.array([[1.0, 0.0], [0.0, 1.0]])
    partners, rivals = np.array([-1, 1]), np.zeros((2, 2), dtype=bool)

    assert np.isnan(pair_percentile(similarity, partners, rivals)).all()
    assert np.isnan(recall_at(1, similarity, partners, rivals)).all()
    assert np.isnan(ranks(similarity, partners, rivals)).all()
    assert np.isnan(mean_reciprocal_rank(similarity, partners, rivals))
    assert pair_percentile(similarity, partners) == pytest.approx([np.nan, 1.0], nan_ok=True)
    assert np.isnan(mean_reciprocal_rank(similarity, np.array([-1, -1])))


def test_an_embedding_without_direction_competes_with_nobody() -> None:
    gallery = np.array([[1.0, 0.0], [0.0, 0.0], [0.0, 1.0]])

    similarity = cosine(gallery, gallery)

    assert np.isnan(similarity[1]).all()
    assert np.isnan(unit(np.array([[np.inf, 1.0]]))).all()
    assert pair_percentile(similarity, np.arange(3)) == pytest.approx([1.0, np.nan, 1.0], nan_ok=True)


def test_retrieval_that_finds_the_same_values_has_a_ratio_near_nought_and_random_retrieval_near_one() -> None:
    rng = np.random.default_rng(6)
    measures = rng.standard_normal((400, 2))
    like = -np.abs(measures[:, None, 0] - measures[None, :, 0])
    allowed = ~np.eye(400, dtype=bool)

    found = phenotype_ratio(like, measures, measures, 5, allowed)

    assert found[0] < 0.03
    assert found[1] == pytest.approx(1.0, abs=0.1)


def test_the_phenotype_ratio_of_a_hand_example_comes_out() -> None:
    similarity = np.array([[3.0, 2.0, 1.0]])
    query, gallery = np.array([[10.0, 1.0]]), np.array([[11.0, 1.0], [13.0, 1.0], [16.0, 1.0]])

    found = phenotype_ratio(similarity, query, gallery, 2)

    assert found[0] == pytest.approx(((1 + 3) / 2) / ((1 + 3 + 6) / 3))
    assert np.isnan(found[1])  # a measure that does not vary


def test_a_measure_that_is_not_known_is_left_out() -> None:
    similarity = np.array([[3.0, 2.0, 1.0]])
    query, gallery = np.array([[0.0]]), np.array([[np.nan], [1.0], [3.0]])

    assert phenotype_ratio(similarity, query, gallery, 1) == pytest.approx([1.0 / 2.0])
    assert np.isnan(phenotype_ratio(similarity, query * np.nan, gallery, 1)).all()


def test_candidates_tied_at_the_last_place_share_it() -> None:
    similarity, query, gallery = np.array([[2.0, 1.0, 1.0]]), np.array([[0.0]]), np.array([[1.0], [2.0], [4.0]])

    assert phenotype_ratio(similarity, query, gallery, 2) == pytest.approx([((1 + 3) / 2) / (7 / 3)])


def test_alignment_and_uniformity_are_those_of_their_definition() -> None:
    rng = np.random.default_rng(7)
    first, second = rng.standard_normal((2, 20, 6))

    assert alignment(first, first) == 0.0
    assert alignment(first, second) == pytest.approx(2.0 - 2.0 * np.diag(cosine(first, second)).mean())
    assert uniformity(np.array([[1.0, 0.0], [-2.0, 0.0]])) == pytest.approx(-8.0)
    assert np.isnan(uniformity(first[:1]))
