from collections.abc import Callable

import numpy as np
import pytest
import torch
from scipy import stats

from franca.evaluation.benchmarks.position import r2
from franca.evaluation.benchmarks.segmentation import mean_iou, pixel_accuracy
from franca.evaluation.intervals import accuracy_score, resampled_score
from franca.params import Params

MakeParams = Callable[..., Params]


def test_accuracy_interval_is_the_binomial_one(tiny_params: MakeParams) -> None:
    params = tiny_params({"evaluate.bootstrap_samples": 20000})
    score = accuracy_score("knn", "val", "top1", torch.arange(500) < 350, params)
    low, high = stats.binom.ppf([0.025, 0.975], 500, 0.7) / 5
    assert (score.value, score.n) == (70.0, 500)
    assert score.low == pytest.approx(low, abs=0.41) and score.high == pytest.approx(high, abs=0.41)
    assert accuracy_score("knn", "val", "top1", torch.ones(9) > 0, params)[3:6] == (100.0, 100.0, 100.0)


def test_resampling_gives_the_standard_error_of_a_mean(tiny_params: MakeParams) -> None:
    params = tiny_params({"evaluate.bootstrap_samples": 5000})
    values = torch.from_numpy(np.random.default_rng(1).normal(50, 10, 400))
    totals = torch.stack([values, torch.ones(400)], dim=1)
    score = resampled_score("x", "val", "mean", totals, lambda sums: sums[:, 0] / sums[:, 1], params)
    spread = 1.96 * values.std().item() / 20
    assert score.value == pytest.approx(values.mean().item(), abs=1e-3)
    assert (score.high - score.low) / 2 == pytest.approx(spread, rel=0.06)
    again = resampled_score("x", "val", "mean", totals, lambda sums: sums[:, 0] / sums[:, 1], params)
    assert again == score


def test_more_confidence_is_a_wider_interval(tiny_params: MakeParams) -> None:
    correct = torch.arange(200) % 3 == 0
    narrow, wide = (
        accuracy_score("knn", "val", "top1", correct, tiny_params({"evaluate.confidence": share}))
        for share in (0.6, 0.99)
    )
    assert wide.low < narrow.low < narrow.value < narrow.high < wide.high


def test_scores_of_a_confusion_by_hand() -> None:
    confusion = torch.tensor([[[6.0, 2, 0], [1, 3, 0], [0, 0, 0]]])
    assert mean_iou(confusion).item() == pytest.approx(100 * (6 / 9 + 3 / 6) / 2)
    assert pixel_accuracy(confusion).item() == pytest.approx(75.0)


def test_r2_by_hand() -> None:
    assert r2(torch.tensor([[1.0, 2.0, 4.0, 4.0]])).item() == pytest.approx(62.5)
    assert r2(torch.tensor([[9.0, 9.0, 4.0, 4.0]])).item() == 0
