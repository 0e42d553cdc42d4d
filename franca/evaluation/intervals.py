"""Scores and differences of scores with bootstrap intervals over images. Scores are 0 to 100. Imports no torch."""

import math
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.stats import norm

from franca.data.store.index import SplitName
from franca.evaluation.outcomes import Outcome
from franca.evaluation.statistics import STATISTICS, Floats
from franca.params import Params

CHUNK = 1 << 24


class Resampling(NamedTuple):
    """How intervals are computed."""

    seed: int
    samples: int
    """resamples behind an interval"""
    confidence: float
    """coverage, 0 to 1"""

    @classmethod
    def of(cls, params: Params) -> "Resampling":
        return cls(params.base.seed, params.evaluate.bootstrap_samples, params.evaluate.confidence)

    @property
    def tails(self) -> list[float]:
        """The quantiles that bound an interval."""
        tail = (1 - self.confidence) / 2
        return [tail, 1 - tail]


class Measurement(NamedTuple):
    """A score of one benchmark on a split, and the images behind it."""

    benchmark: str
    split: SplitName
    metric: str
    value: float
    low: float
    high: float
    outcome: Outcome

    @property
    def n(self) -> int:
        """Number of images."""
        return self.outcome.n

    @property
    def row(self) -> dict[str, Any]:
        """The measurement as a row of `results.json`."""
        return {name: getattr(self, name) for name in self._fields if name != "outcome"} | {"n": self.n}


class Difference(NamedTuple):
    """One model's score less another's, with its interval."""

    value: float
    low: float
    high: float
    paired: bool
    """whether both were measured on the same images and compared image by image"""


def measure(
    benchmark: str, split: SplitName, metric: str, outcome: Outcome, resampling: Resampling, value: float | None = None
) -> Measurement:
    """Score an outcome; `value` is the score on all images of an outcome that is replicates.

    The number of hits in a resample of n yes-or-no values is binomial, so it is drawn as such.
    """
    rng = np.random.default_rng(resampling.seed)
    if outcome.kind == "hits":
        share, n = float(outcome.values.mean()), outcome.n
        value = 100 * share
        low, high = np.quantile(100 * rng.binomial(n, share, size=resampling.samples) / n, resampling.tails)
    elif outcome.kind == "sums":
        value = float(STATISTICS[metric](outcome.values.sum(axis=0)))
        low, high = np.quantile(_resampled(metric, outcome.values, resampling), resampling.tails)
    else:
        assert value is not None
        half = _half_width(outcome.values, resampling)
        low, high = value - half, value + half
    return Measurement(benchmark, split, metric, round(value, 4), round(float(low), 4), round(float(high), 4), outcome)


def paired_difference(
    value: float, metric: str, ours: Outcome, theirs: Outcome, resampling: Resampling
) -> Difference | None:
    """Return a difference `value` with the interval of the paired bootstrap, None if the images are not the same.

    Both models are scored on the same resamples of the images, so what makes an image easy or hard for both cancels.
    """
    if (ours.kind, ours.images, ours.values.shape) != (theirs.kind, theirs.images, theirs.values.shape):
        return None
    if ours.kind == "hits":
        low, high = np.quantile(_resampled_hits(ours.values, theirs.values, resampling), resampling.tails)
    elif ours.kind == "sums":
        replicates = [_resampled(metric, outcome.values, resampling) for outcome in (ours, theirs)]
        low, high = np.quantile(replicates[0] - replicates[1], resampling.tails)
    else:
        half = _half_width(ours.values - theirs.values, resampling)
        low, high = value - half, value + half
    return Difference(round(value, 4), round(float(low), 4), round(float(high), 4), True)


def independent_difference(ours: tuple[float, float, float], theirs: tuple[float, float, float]) -> Difference:
    """Return the difference of two scores (value, low, high) as if they were of different images.

    The interval combines those of the scores by the method of variance estimates recovery (Zou and Donner, Statistics
    in Medicine 27, 2008). For models measured on the same images it is wider than needed.
    """
    value = ours[0] - theirs[0]
    below = math.hypot(ours[0] - ours[1], theirs[2] - theirs[0])
    above = math.hypot(ours[2] - ours[0], theirs[0] - theirs[1])
    return Difference(round(value, 4), round(value - below, 4), round(value + above, 4), False)


def _resampled_hits(ours: NDArray[np.bool_], theirs: NDArray[np.bool_], resampling: Resampling) -> Floats:
    """Differences of accuracy (R,) in resamples of the images.

    Only the numbers of images that one model alone gets right matter; in a resample they are multinomial, so they are
    drawn as such. Half an image is added to each of the four cells of the table (Agresti and Min, Statistics in
    Medicine 24, 2005): without it the interval is too narrow if few images differ, as in sets of some 20 images.
    """
    n = len(ours)
    ours_alone, theirs_alone, alike = (ours & ~theirs).sum(), (~ours & theirs).sum(), (ours == theirs).sum()
    chances = np.array([ours_alone + 0.5, theirs_alone + 0.5, alike + 1]) / (n + 2)
    counts = np.random.default_rng(resampling.seed).multinomial(n, chances, size=resampling.samples)
    difference: Floats = 100 * (counts[:, 0] - counts[:, 1]) / n
    return difference


def _resampled(metric: str, sums: Floats, resampling: Resampling) -> Floats:
    """Scores (R,) of resamples of the images, whose sums are (n, …); the same resamples for the same n and seed."""
    n, flat = len(sums), sums.reshape(len(sums), -1)
    rng = np.random.default_rng(resampling.seed)
    scores, left = [], resampling.samples
    while left:
        draws = min(left, max(1, CHUNK // n))
        chosen = rng.integers(n, size=(draws, n)) + n * np.arange(draws)[:, None]
        counts = np.bincount(chosen.ravel(), minlength=draws * n).reshape(draws, n).astype(np.float64)
        scores.append(STATISTICS[metric]((counts @ flat).reshape(draws, *sums.shape[1:])))
        left -= draws
    return np.concatenate(scores)


def _half_width(replicates: Floats, resampling: Resampling) -> float:
    """Half the interval of a statistic from its values on random halves of the images.

    Their spread is the standard error on all images (delete-d jackknife with d = n / 2: Shao and Wu, Annals of
    Statistics 17, 1989).
    """
    return float(norm.ppf(resampling.tails[1]) * replicates.std())
