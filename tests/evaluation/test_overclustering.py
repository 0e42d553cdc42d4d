from itertools import permutations
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.cluster import KMeans

from franca.evaluation.benchmarks import overclustering
from franca.evaluation.features import FeatureExtractor, extract_all
from franca.evaluation.methods.kmeans import assign, kmeans, lloyd
from franca.evaluation.methods.matching import greedy, hungarian
from franca.evaluation.result import Skipped
from franca.models import Features
from tests.conftest import MakeParams
from tests.evaluation.conftest import MakeStore


def make_points(clusters: int, spread: float) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(40 * clusters) % clusters
    centers = 10 * torch.randn(clusters, 6, generator=generator)
    return centers[labels] + spread * torch.randn(len(labels), 6, generator=generator), labels


def color_features(images: torch.Tensor) -> Features:
    patches = images.float().unfold(2, 8, 8).unfold(3, 8, 8).mean((4, 5)).permute(0, 2, 3, 1) / 255
    return Features(patches.mean((1, 2)), patches)


def test_planted_clusters_are_found() -> None:
    points, labels = make_points(5, 0.1)
    found = kmeans(points, 5, (0,), restarts=5)
    nearest = assign(points, found.centers)[0]
    assert len({(int(a), int(b)) for a, b in zip(labels, nearest, strict=True)}) == 5


def test_clusters_are_those_of_scikit_learn() -> None:
    points, _ = make_points(7, 6.0)
    start = points[:7].clone()
    found = lloyd(points, start)
    other = KMeans(7, init=start.numpy(), n_init=1, tol=0).fit(points.numpy())
    assert found.inertia == pytest.approx(other.inertia_, rel=2e-3)
    assert kmeans(points, 7, (0,), 5).inertia <= 1.02 * KMeans(7, n_init=20, random_state=0).fit(points).inertia_


def test_starts_do_not_depend_on_other_draws(monkeypatch: pytest.MonkeyPatch) -> None:
    points, _ = make_points(4, 6.0)
    first = kmeans(points, 9, (3, 9))
    torch.manual_seed(5)
    np.random.seed(5)
    monkeypatch.setattr("franca.evaluation.methods.kmeans.CHUNK", 100)
    again = kmeans(points, 9, (3, 9))
    torch.testing.assert_close(again.centers, first.centers)
    assert again.inertia == pytest.approx(first.inertia)


def test_repeated_points_leave_clusters_empty() -> None:
    found = kmeans(torch.tensor([[0.0], [0.0], [1.0]]), 3, (0,))
    assert found.inertia == 0 and len(found.centers) == 3


def test_one_to_one_is_the_best_of_all_permutations() -> None:
    counts = np.random.default_rng(0).integers(0, 50, (5, 5)).astype(float)
    union = counts.sum(0) + counts.sum(1)[:, None] - counts
    best = max(sum(counts[k, c] / union[k, c] for k, c in enumerate(order)) for order in permutations(range(5)))
    names = hungarian(counts)
    assert sorted(names) == list(range(5))
    assert sum(counts[k, c] / union[k, c] for k, c in enumerate(names)) == pytest.approx(best)


def test_many_to_one_takes_the_majority() -> None:
    assert greedy(np.array([[3.0, 4.0], [9.0, 8.0], [0.0, 1.0]])).tolist() == [1, 0, 1]


def test_masks_of_separable_classes(
    make_store: MakeStore, tiny_params: MakeParams, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(overclustering, "CLUSTERS", (4, 10**6))
    colors = FeatureExtractor("colors", color_features, 32, 8)
    store = make_store(tmp_path)
    data = extract_all([colors], store)["colors"]
    scores = overclustering.run(colors, data, tiny_params()).measurements
    assert {(score.split, score.metric, score.n): score.value for score in scores} == {
        (split, metric, n): 100
        for split, n in (("val", 2), ("test", 3))
        for metric in ("hungarian_miou", "greedy_miou_4")
    }
    with pytest.raises(Skipped, match="no dense set"):
        overclustering.run(
            colors, extract_all([colors], make_store(tmp_path / "no", dense_counts=None))["colors"], tiny_params()
        )
    data = extract_all([colors], make_store(tmp_path / "one", mask_kinds=1))["colors"]
    result = overclustering.run(colors, data, tiny_params())
    assert not result.measurements and "single class" in result.skipped["val"]
