"""Scores with percentile bootstrap intervals over images. Scores are 0 to 100."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from franca.data.store import SplitName
from franca.params import Params

CHUNK = 1 << 24


class Score(NamedTuple):
    """A value of one benchmark on a split of `n` images, and the interval around it."""

    benchmark: str
    split: SplitName
    metric: str
    value: float
    low: float
    high: float
    n: int


def accuracy_score(benchmark: str, split: SplitName, metric: str, correct: Tensor, params: Params) -> Score:
    """Share of true values in `correct` (n,).

    The number of hits in a resample of n yes-or-no values is binomial, so it is drawn as such.
    """
    n = len(correct)
    share = correct.double().mean().item()
    rng = np.random.default_rng(params.base.seed)
    resampled = 100 * rng.binomial(n, share, size=params.evaluate.bootstrap_samples) / n
    return _score(benchmark, split, metric, 100 * share, resampled, n, params)


def resampled_score(
    benchmark: str,
    split: SplitName,
    metric: str,
    totals: Tensor,
    statistic: Callable[[Tensor], Tensor],
    params: Params,
) -> Score:
    """Score of a statistic of sums over images, for example of a confusion matrix.

    Args:
        totals: (n, …), what each image adds to the sums.
        statistic: maps resampled sums (R, …), float64, to scores (R,).
    """
    n = len(totals)
    totals = totals.double().cpu()
    flat = totals.flatten(1)
    rng = np.random.default_rng(params.base.seed)
    resampled, left = [], params.evaluate.bootstrap_samples
    while left:
        draws = min(left, max(1, CHUNK // n))
        chosen = rng.integers(n, size=(draws, n)) + n * np.arange(draws)[:, None]
        counts = torch.from_numpy(np.bincount(chosen.ravel(), minlength=draws * n).reshape(draws, n))
        resampled.append(statistic((counts.double() @ flat).unflatten(1, totals.shape[1:])))
        left -= draws
    value = statistic(totals.sum(0, keepdim=True)).item()
    return _score(benchmark, split, metric, value, torch.cat(resampled).numpy(), n, params)


def _score(
    benchmark: str, split: SplitName, metric: str, value: float, resampled: np.ndarray, n: int, params: Params
) -> Score:
    tail = (1 - params.evaluate.confidence) / 2
    low, high = np.quantile(resampled, [tail, 1 - tail])
    return Score(benchmark, split, metric, round(value, 4), round(float(low), 4), round(float(high), 4), n)
