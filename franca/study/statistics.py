"""Means and differences over seeds with t intervals."""

import math
from collections.abc import Mapping, Sequence
from statistics import fmean, stdev
from typing import NamedTuple

from scipy.stats import t

CONFIDENCE = 0.95


class Mean(NamedTuple):
    """A mean over `n` seeds; its interval is `value` plus and minus `half`, which is NaN for a single seed."""

    value: float
    half: float
    n: int

    @property
    def excludes_zero(self) -> bool:
        """Whether 0 lies outside the interval."""
        return abs(self.value) > self.half


def mean(values: Sequence[float]) -> Mean:
    """Return the mean of one value a seed, with the interval of Student's t distribution."""
    n = len(values)
    if n < 2:
        return Mean(fmean(values), math.nan, n)
    half = float(t.ppf((1 + CONFIDENCE) / 2, n - 1)) * stdev(values) / math.sqrt(n)
    return Mean(fmean(values), half, n)


def paired(ours: Mapping[int, float], theirs: Mapping[int, float]) -> Mean | None:
    """Return the mean difference of values by seed, over the seeds that both have; None if there is none."""
    differences = [ours[seed] - theirs[seed] for seed in sorted(set(ours) & set(theirs))]
    return mean(differences) if differences else None
