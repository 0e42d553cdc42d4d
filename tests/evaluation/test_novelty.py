import numpy as np
import pytest
import torch
from sklearn.covariance import EmpiricalCovariance
from sklearn.metrics import average_precision_score, roc_auc_score
from sklearn.neighbors import NearestNeighbors
from torch.nn.functional import normalize

from franca.data.store.prepared import SPLITS
from franca.evaluation.benchmarks import novelty
from franca.evaluation.features import FeatureExtractor, FeatureSet, SplitFeatures
from franca.evaluation.methods import novelty as methods
from franca.evaluation.result import Skipped
from franca.models import Features
from tests.conftest import MakeParams

EXTRACTOR = FeatureExtractor("none", lambda x: Features(x, x), 32, 8)


def make_set(offset: float, classes: int = 6) -> FeatureSet:
    generator = torch.Generator().manual_seed(0)
    parts = {}
    for split in SPLITS:
        labels = torch.arange(420) % classes
        pooled = torch.randn(420, 8, generator=generator) + offset * torch.eye(classes, 8)[labels]
        parts[split] = SplitFeatures(pooled, labels, torch.empty(0, 0, 0, 0))
    return FeatureSet(list("abcdef")[:classes], parts)


@pytest.mark.parametrize("digits", [1, 6])
def test_separation_is_that_of_scikit_learn(digits: int) -> None:
    rng = np.random.default_rng(0)
    known, novel = rng.normal(size=70).round(digits), rng.normal(0.7, 1, size=40).round(digits)
    found = methods.separation(known, novel)
    scores, truth = np.concatenate([known, novel]), [0] * 70 + [1] * 40
    assert found.auroc == pytest.approx(100 * roc_auc_score(truth, scores), abs=1e-3)
    assert found.aupr == pytest.approx(100 * average_precision_score(truth, scores), abs=1e-3)


def test_separation_by_hand() -> None:
    known, novel = np.arange(100.0), np.array([50.0, 94.0, 94.5, 200.0])
    assert methods.separation(known, novel).fpr95 == 50
    assert methods.separation(np.array([0.0, 1.0]), np.array([2.0])) == (100, 100, 0)
    assert methods.separation(np.array([1.0, 1.0]), np.array([1.0])).auroc == 50


def test_distances_are_those_of_scikit_learn(monkeypatch: pytest.MonkeyPatch) -> None:
    data = make_set(2.0)
    (train, labels), (queries, _) = data.labeled("train"), data.labeled("test")
    monkeypatch.setattr(methods, "QUERIES", 100)
    x, y = (normalize(part, dim=1).numpy() for part in (train, queries))
    expected = NearestNeighbors(n_neighbors=50, algorithm="brute").fit(x).kneighbors(y)[0][:, -1]
    assert methods.neighbor_distance(train, queries, train.device).numpy() == pytest.approx(expected, abs=1e-5)
    monkeypatch.setattr(methods, "RIDGE", 0)
    means = torch.stack([train[labels == label].mean(0) for label in range(6)]).double()
    model = EmpiricalCovariance(assume_centered=True).fit((train - means[labels]).numpy())
    distances = [model.mahalanobis((queries - mean).numpy()) for mean in means]
    assert methods.mahalanobis(train, labels, queries).numpy() == pytest.approx(np.min(distances, axis=0), rel=1e-4)


def test_distinct_classes_are_told_apart_and_equal_ones_are_not(tiny_params: MakeParams) -> None:
    def run(offset: float) -> dict[tuple[str, str], float]:
        scores = novelty.run(EXTRACTOR, make_set(offset), tiny_params()).measurements
        assert all(score.low <= score.value <= score.high for score in scores)
        return {(score.benchmark, score.metric): score.value for score in scores if score.split == "val"}

    apart, equal = run(100.0), run(0.0)
    for detector in novelty.DETECTORS:
        assert equal["novelty", f"auroc_{detector}"] == pytest.approx(50, abs=6)
    for detector in ("knn", "mahalanobis"):
        assert apart["novelty", f"auroc_{detector}"] == apart["novelty", f"aupr_{detector}"] == 100
        assert apart["novelty_misses", f"fpr95_{detector}"] == 0
    assert run(100.0) == apart


def test_divisions_are_the_same_for_all_models() -> None:
    first = novelty.divide(np.arange(10))
    np.random.seed(3)
    assert all((one == other).all() for one, other in zip(first, novelty.divide(np.arange(10)), strict=True))
    assert [len(known) for known in first] == [6] * 5


def test_few_classes_are_not_divided(tiny_params: MakeParams) -> None:
    with pytest.raises(Skipped, match="fewer than 4 classes"):
        novelty.run(EXTRACTOR, make_set(1.0, classes=3), tiny_params())
