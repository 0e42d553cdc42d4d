"""Scores, and differences of scores, with bootstrap intervals over images. Imports no torch."""

import math
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.stats import norm

from franca.data.store.index import SplitName
from franca.evaluation.outcomes import Outcome
from franca.evaluation.statistics import Floats, statistic_of
from franca.params import Params

CHUNK = 1 << 24
"""Drawn images held at a time while resampling, at most: 128 MiB of indices."""


class Resampling(NamedTuple):
    """How intervals are computed.

    Attributes:
        seed: Seed of the resamples.
        samples: Number of resamples per interval.
        confidence: Coverage of an interval, 0 to 1.
    """

    seed: int
    samples: int
    confidence: float

    @classmethod
    def of(cls, params: Params) -> "Resampling":
        """Return the resampling that the parameters ask for."""
        return cls(params.base.seed, params.evaluate.bootstrap_samples, params.evaluate.confidence)

    @property
    def tails(self) -> list[float]:
        """Quantiles that bound an interval."""
        tail = (1 - self.confidence) / 2
        return [tail, 1 - tail]


class Measurement(NamedTuple):
    """A score of one benchmark on a split, with its interval.

    Attributes:
        benchmark: Name in `results.json`.
        split: Split of the images.
        metric: Name of the score.
        value: The score, in percent unless the benchmark has another unit.
        low: Lower bound of the interval.
        high: Upper bound of the interval.
        outcome: What the score was computed from, image by image.
    """

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
        """The measurement as a row of `results.json`, which lacks the model's name."""
        return {name: getattr(self, name) for name in self._fields if name != "outcome"} | {"n": self.n}


class Difference(NamedTuple):
    """The score of one model minus that of another, with its interval.

    Attributes:
        value: The difference.
        low: Lower bound of the interval.
        high: Upper bound of the interval.
        paired: Whether both models were measured on the same images and compared image by image.
    """

    value: float
    low: float
    high: float
    paired: bool


def measure(
    benchmark: str, split: SplitName, metric: str, outcome: Outcome, resampling: Resampling, value: float | None = None
) -> Measurement:
    """Return the score of an outcome with its interval.

    Args:
        benchmark: Name in `results.json`.
        split: Split of the images.
        metric: Name of the score; selects the statistic of outcomes of kind `sums`.
        outcome: What the score is computed from.
        resampling: How the interval is computed.
        value: The score on all images; needed for outcomes of kind `replicates` only.
    """
    rng = np.random.default_rng(resampling.seed)
    if outcome.kind == "hits":
        share, n = float(outcome.values.mean()), outcome.n
        # The number of hits in a resample of n hits and misses is binomial: no need to draw the images.
        value = 100 * share
        low, high = np.quantile(100 * rng.binomial(n, share, size=resampling.samples) / n, resampling.tails)
    elif outcome.kind == "sums":
        value = float(statistic_of(metric)(outcome.values.sum(axis=0)))
        low, high = np.quantile(_resampled(metric, outcome.values, resampling), resampling.tails)
    else:
        assert value is not None
        half = _half_width(outcome.values, resampling)
        low, high = value - half, value + half
    return Measurement(benchmark, split, metric, round(value, 4), round(float(low), 4), round(float(high), 4), outcome)


def paired_difference(
    value: float, metric: str, ours: Outcome, theirs: Outcome, resampling: Resampling
) -> Difference | None:
    """Return a difference with the interval of the paired bootstrap, or None if the images are not the same.

    Both models are scored on the same resamples of the images, so what makes an image easy or hard for both cancels.

    Args:
        value: The difference of the scores.
        metric: Name of the scores.
        ours: Outcome of the first model.
        theirs: Outcome of the second model.
        resampling: How the interval is computed.
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
    """Return the difference of two scores (value, low, high) as if they were measured on different images.

    The interval combines those of the scores by the method of variance estimates recovery (Zou and Donner, Statistics
    in Medicine 27, 2008). It is wider than necessary for models measured on the same images.
    """
    value = ours[0] - theirs[0]
    below = math.hypot(ours[0] - ours[1], theirs[2] - theirs[0])
    above = math.hypot(ours[2] - ours[0], theirs[0] - theirs[1])
    return Difference(round(value, 4), round(value - below, 4), round(value + above, 4), False)


def _resampled_hits(ours: NDArray[np.bool_], theirs: NDArray[np.bool_], resampling: Resampling) -> Floats:
    """Return differences of accuracy (R,) in percent, one per resample of the images.

    Only the numbers of images that exactly one model gets right matter. In a resample they are multinomial, so no
    images are drawn. Half an image is added to each of the four cells of the table (Agresti and Min, Statistics in
    Medicine 24, 2005): without it the interval is too narrow if few images differ, as in sets of some 20 images.
    """
    n = len(ours)
    ours_alone, theirs_alone, alike = (ours & ~theirs).sum(), (~ours & theirs).sum(), (ours == theirs).sum()
    chances = np.array([ours_alone + 0.5, theirs_alone + 0.5, alike + 1]) / (n + 2)
    counts = np.random.default_rng(resampling.seed).multinomial(n, chances, size=resampling.samples)
    difference: Floats = 100 * (counts[:, 0] - counts[:, 1]) / n
    return difference


def _resampled(metric: str, sums: Floats, resampling: Resampling) -> Floats:
    """Return scores (R,) of resamples of the n images whose sums are (n, ...).

    The resamples depend only on n and the seed, so two models are scored on the same ones.
    """
    n, flat = len(sums), sums.reshape(len(sums), -1)
    rng = np.random.default_rng(resampling.seed)
    scores, left = [], resampling.samples
    while left:
        draws = min(left, max(1, CHUNK // n))
        # One bincount for all draws: each draw counts its images into n bins of its own. The counts weight the sums.
        chosen = rng.integers(n, size=(draws, n)) + n * np.arange(draws)[:, None]
        counts = np.bincount(chosen.ravel(), minlength=draws * n).reshape(draws, n).astype(np.float64)
        scores.append(statistic_of(metric)((counts @ flat).reshape(draws, *sums.shape[1:])))
        left -= draws
    return np.concatenate(scores)


def _half_width(replicates: Floats, resampling: Resampling) -> float:
    """Return half the width of the interval of a statistic, from its values on random halves of the images.

    Their standard deviation estimates the standard error on all images (delete-d jackknife with d = n / 2: Shao and
    Wu, Annals of Statistics 17, 1989).
    """
    return float(norm.ppf(resampling.tails[1]) * replicates.std())
