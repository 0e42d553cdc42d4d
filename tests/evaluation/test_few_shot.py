import numpy as np
import pytest
import torch
from sklearn.neighbors import NearestCentroid
from torch.nn.functional import normalize

from franca.data.store.prepared import SPLITS
from franca.evaluation.benchmarks import few_shot
from franca.evaluation.features import FeatureExtractor, FeatureSet, SplitFeatures
from franca.evaluation.methods.few_shot import draw_shots, few_shot_hits
from franca.models import Features
from tests.conftest import MakeParams

EXTRACTOR = FeatureExtractor("none", lambda x: Features(x, x), 32, 8)


def make_set(offset: float, smallest: int = 12) -> FeatureSet:
    """Four classes of unit variance in 16 dimensions, `offset` apart; the first has `smallest` images of train."""
    generator = torch.Generator().manual_seed(0)
    parts = {}
    for split in SPLITS:
        labels = torch.arange(160) % 4
        if split == "train":
            labels = torch.cat([labels[labels > 0], torch.zeros(smallest, dtype=torch.int64)])
        pooled = torch.randn(len(labels), 16, generator=generator) + offset * torch.eye(4, 16)[labels]
        parts[split] = SplitFeatures(pooled, labels, torch.empty(0, 0, 0, 0))
    return FeatureSet(list("abcd"), parts)


def test_draws_are_of_each_class_without_repeats_and_the_same_again() -> None:
    labels = np.array([0, 2, 2, 0, 5, 5, 2, 0, 5])
    drawn = draw_shots(labels, 3, 4, seed=0)
    assert drawn.shape == (4, 3, 3)
    assert (labels[drawn] == np.array([0, 2, 5])[:, None]).all()
    assert all(len(set(rows)) == 3 for draw in drawn for rows in draw)
    np.random.seed(1)
    assert (draw_shots(labels, 3, 4, seed=0) == drawn).all()


def test_hits_are_those_of_scikit_learn() -> None:
    data = make_set(1.0)
    (train, labels), (queries, truth) = data.labeled("train"), data.labeled("test")
    drawn = draw_shots(labels.numpy(), 5, 3, seed=0)
    hits = few_shot_hits(train, labels, queries, truth, drawn)
    x, y = (normalize(part - train.mean(0), dim=1).numpy() for part in (train, queries))
    for rows, found in zip(drawn, hits, strict=True):
        model = NearestCentroid().fit(x[rows.ravel()], labels.numpy()[rows.ravel()])
        assert (found == (model.predict(y) == truth.numpy())).all()


def test_separate_classes_are_right_and_equal_ones_by_chance(tiny_params: MakeParams) -> None:
    sure = few_shot.run(EXTRACTOR, make_set(50.0), tiny_params()).measurements
    assert [(score.metric, score.value, score.low, score.high) for score in sure if score.split == "val"] == [
        (f"top1_{shots}", 100, 100, 100) for shots in (1, 5, 10)
    ]
    for score in few_shot.run(EXTRACTOR, make_set(0.0), tiny_params()).measurements:
        assert score.value == pytest.approx(25, abs=6)


def test_classes_of_few_images_allow_few_shots(tiny_params: MakeParams) -> None:
    scores = few_shot.run(EXTRACTOR, make_set(1.0, smallest=6), tiny_params()).measurements
    assert {score.metric for score in scores} == {"top1_1", "top1_5"}
    assert few_shot.run(EXTRACTOR, make_set(1.0, smallest=6), tiny_params()).measurements[0].row == scores[0].row


def test_the_interval_contains_the_choice_of_draws() -> None:
    """With all images alike, only the draws vary: standard error of the mean of 100 draws of 0 or 1 is 5 points."""
    hits = np.repeat(np.arange(100)[:, None] % 2 == 0, 40, axis=1)
    assert few_shot.halves(hits).std() == pytest.approx(5, rel=0.3)
