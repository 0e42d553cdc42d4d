import math

import numpy as np
import pytest
from scipy import stats

from franca.study.statistics import CONFIDENCE, mean, paired


@pytest.mark.parametrize("n", [2, 3, 10])
def test_mean_is_scipys_t_interval(n: int) -> None:
    values = np.random.default_rng(n).normal(70, 3, n).tolist()
    found = mean(values)
    low, high = stats.t.interval(CONFIDENCE, n - 1, np.mean(values), stats.sem(values))
    assert found.n == n
    assert (found.value - found.half, found.value + found.half) == pytest.approx((low, high))


def test_one_seed_has_no_interval() -> None:
    found = mean([70.0])
    assert found.value == 70.0 and math.isnan(found.half) and not found.excludes_zero


def test_paired_is_scipys_paired_t_test() -> None:
    """Seeds are matched by their number; one that only one of both has is left out."""
    rng = np.random.default_rng(0)
    common = rng.normal(70, 5, 5)
    ours, theirs = common + rng.normal(1, 0.3, 5), common + rng.normal(0, 0.3, 5)
    found = paired(dict(enumerate(ours)) | {9: 0.0}, dict(reversed(list(enumerate(theirs)))) | {8: 100.0})
    assert found is not None and found.n == 5
    low, high = stats.ttest_rel(ours, theirs).confidence_interval(CONFIDENCE)
    assert (found.value - found.half, found.value + found.half) == pytest.approx((low, high))
    assert found.excludes_zero == (low > 0 or high < 0)
    assert paired({0: 1.0}, {1: 1.0}) is None
