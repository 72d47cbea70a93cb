from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from small import SPEC, TASKS, TEACHER, squares

from foveola.toolkit.fresh import new_network
from foveola.toolkit.teachers.contrast import Encoder
from foveola.toolkit.teachers.probe import knn_accuracy, linear_probe, pooled_features

RNG = np.random.default_rng(0)
TRAIN, TEST = RNG.normal(size=(80, 6)), RNG.normal(size=(60, 6))


def labels(x: np.ndarray, column: int) -> np.ndarray:
    return (x[:, column] + 0.5 * RNG.normal(size=len(x)) > 0).astype(np.float32)


def test_the_probe_is_scikit_learn_s_logistic_regression() -> None:
    train_y, test_y = labels(TRAIN, 0), labels(TEST, 0)
    model = make_pipeline(StandardScaler(), LogisticRegression(C=0.3, max_iter=300)).fit(TRAIN, train_y)

    found = linear_probe(TRAIN, train_y[:, None], TEST, test_y[:, None], "binary", c=0.3)

    assert found["auc"] == pytest.approx(roc_auc_score(test_y, model.decision_function(TEST)))


def test_gaps_and_labels_of_one_class_are_left_out() -> None:
    train_y = np.stack((labels(TRAIN, 0), np.ones(80, np.float32)), 1)
    test_y = np.stack((labels(TEST, 0), np.ones(60, np.float32)), 1)
    train_y[::3, 0] = np.nan
    test_y[::4, 0] = np.nan
    scaler = StandardScaler().fit(TRAIN)
    known, judged = ~np.isnan(train_y[:, 0]), ~np.isnan(test_y[:, 0])
    model = LogisticRegression(C=1.0, max_iter=300).fit(scaler.transform(TRAIN)[known], train_y[known, 0])
    alone = roc_auc_score(test_y[judged, 0], model.decision_function(scaler.transform(TEST)[judged]))

    found = linear_probe(TRAIN, train_y, TEST, test_y, "multilabel")

    assert found["auc"] == pytest.approx(alone)
    assert linear_probe(TRAIN, train_y[:, 1:], TEST, test_y[:, 1:], "multilabel") == {}


def test_several_labels_count_alike() -> None:
    train_y, test_y = (np.stack((labels(x, 0), labels(x, 1)), 1) for x in (TRAIN, TEST))
    one, two = (linear_probe(TRAIN, train_y[:, [i]], TEST, test_y[:, [i]], "binary")["auc"] for i in (0, 1))

    assert linear_probe(TRAIN, train_y, TEST, test_y, "multilabel")["auc"] == pytest.approx((one + two) / 2)


def test_the_accuracy_of_several_classes_is_scikit_learn_s_and_skips_gaps() -> None:
    train_y, test_y = (np.digitize(x[:, :1] + 0.5 * x[:, 1:2], (-0.5, 0.5)).astype(np.float32) for x in (TRAIN, TEST))
    model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=300)).fit(TRAIN, train_y[:, 0])
    test_y[::5] = np.nan
    judged = ~np.isnan(test_y[:, 0])

    found = linear_probe(TRAIN, train_y, TEST, test_y, "multiclass")

    assert found["accuracy"] == pytest.approx(model.score(TEST[judged], test_y[judged, 0]))


@pytest.mark.parametrize("k", [1, 5, 30])
def test_neighbours_are_scikit_learn_s_weighted_by_cosine(k: int) -> None:
    train_y, test_y = (np.digitize(x[:, 0], (-0.5, 0.5)) for x in (TRAIN, TEST))
    votes: Any = lambda distance: np.exp((1 - distance) / 0.1)  # noqa: E731 - scikit-learn's stub knows names only
    model = KNeighborsClassifier(k, metric="cosine", weights=votes)

    wanted = model.fit(TRAIN, train_y).score(TEST, test_y)

    assert knn_accuracy(TRAIN, train_y, TEST, test_y, k) == pytest.approx(wanted)


def test_features_of_nothing_but_zeros_are_counted_without_a_warning() -> None:
    x, y = np.array([[0.0, 0.0], [0.0, 1.0]]), np.array([0, 1])

    assert knn_accuracy(x, y, np.array([[0.0, 0.0], [0.0, 2.0]]), y) >= 0.5


def test_classes_that_lie_apart_are_told_apart() -> None:
    y = np.repeat(np.arange(3.0, dtype=np.float32), 20)[:, None]
    x = np.eye(3)[y[:, 0].astype(int)] * 8 + RNG.normal(size=(60, 3))

    assert linear_probe(x, y, x, y, "multiclass")["accuracy"] > 0.95
    assert knn_accuracy(x, y[:, 0].astype(int), x, y[:, 0].astype(int), k=5) > 0.95


def test_a_neighbour_votes_by_its_similarity() -> None:
    x, y = np.array([[1.0, 0.0], [0.0, 1.0], [0.1, 1.0]]), np.array([0, 1, 1])

    assert knn_accuracy(x, y, np.array([[1.0, 0.05]]), np.array([0]), k=3) == 1.0


def test_features_of_encoder_and_network_with_one_backbone_are_the_same(tmp_path) -> None:  # type: ignore[no-untyped-def]
    network = new_network("teacher", squares(tmp_path / "data", TASKS[:1]), TEACHER, 0).eval()
    encoder = Encoder("resnet10t", SPEC).eval()
    encoder.backbone.load_state_dict(network.backbone.state_dict())
    images = RNG.random((5, 1, 64, 64), dtype=np.float32)

    one, two = (
        pooled_features(model, images, device=torch.device("cpu"), batch_size=2) for model in (network, encoder)
    )

    assert one.shape == (5, 512)
    assert np.allclose(one, two, atol=1e-5)


def test_a_network_in_training_is_measured_in_evaluation_and_goes_on_as_it_was() -> None:
    encoder = Encoder("resnet10t", SPEC).train()
    encoder.projection.eval()
    before = {name: x.clone() for name, x in encoder.state_dict().items()}
    images = RNG.random((4, 1, 64, 64), dtype=np.float32)

    found = pooled_features(encoder, images, device=torch.device("cpu"))

    assert encoder.training
    assert not encoder.projection.training
    assert all(torch.equal(x, before[name]) for name, x in encoder.state_dict().items())
    assert np.allclose(
        found, pooled_features(encoder.eval(), images, device=torch.device("cpu"), batch_size=1), atol=1e-5
    )
