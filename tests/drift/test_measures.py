"""The tests of drift have known answers on Gaussian vectors: their rate of false alarms, and shifts they must find."""

from collections import Counter
from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.stats import binom

from franca.drift.measures import Comparison, compare, novelty

Vectors = NDArray[np.float32]
Change = Callable[[np.random.Generator, Vectors], Vectors]


def gauss(random: np.random.Generator, count: int, width: int = 6) -> Vectors:
    return random.standard_normal((count, width)).astype(np.float32)


def check(
    seed: int, change: Change | None = None, alpha: float = 0.05, counts: tuple[int, int] = (60, 40)
) -> Comparison:
    random = np.random.default_rng(seed)
    reference, new = gauss(random, counts[0]), gauss(random, counts[1])
    return compare(reference, change(random, new) if change else new, alpha, seed)


def assert_rates(runs: int, counts: tuple[int, int]) -> None:
    """Each test rejects at 5 % in at most 5 % of the runs, and all together at `alpha`; chance is 1 in 10,000."""
    alarms: Counter[str] = Counter()
    for seed in range(runs):
        found = check(seed, counts=counts)
        alarms["together"] += found.drifted
        for name in ("mmd", "classifier", "novelty"):
            alarms[name] += getattr(found, name).p <= 0.05
    most = binom.ppf(1 - 1e-4, runs, 0.05)
    assert max(alarms.values()) <= most, alarms
    assert alarms["mmd"] >= binom.ppf(1e-4, runs, 0.05), "a permutation test is exact"


def test_samples_of_one_distribution_raise_alarms_at_the_nominal_rate() -> None:
    assert_rates(40, (60, 40))


@pytest.mark.slow
@pytest.mark.parametrize("counts", [(60, 40), (40, 120), (200, 200)])
def test_samples_of_one_distribution_raise_alarms_at_the_nominal_rate_in_many_runs(counts: tuple[int, int]) -> None:
    assert_rates(1000, counts)


def shifted(random: np.random.Generator, new: Vectors) -> Vectors:
    return new + np.float32(1.0)


def spread(random: np.random.Generator, new: Vectors) -> Vectors:
    return new * np.float32(2.5)


def partly_elsewhere(random: np.random.Generator, new: Vectors) -> Vectors:
    new = new.copy()
    new[: len(new) // 5] += np.float32(8)
    return new


def narrowed(random: np.random.Generator, new: Vectors) -> Vectors:
    return new * np.float32(0.3)


@pytest.mark.parametrize(
    ("change", "found_by"),
    [
        (shifted, ("mmd", "classifier")),
        (spread, ("mmd", "novelty")),
        (partly_elsewhere, ("mmd", "novelty")),
        (narrowed, ("mmd",)),
    ],
)
def test_planted_shifts_are_found(change: Change, found_by: tuple[str, ...]) -> None:
    for seed in range(3):
        found = check(seed, change, alpha=0.01, counts=(150, 120))
        assert found.drifted
        assert all(getattr(found, name).p < 0.01 for name in found_by), (seed, found)


def test_a_missing_cluster_is_found() -> None:
    random = np.random.default_rng(0)
    centers = 4 * gauss(random, 10, 32)
    reference = centers[random.integers(0, 10, 500)] + gauss(random, 500, 32)
    new = centers[random.integers(0, 9, 500)] + gauss(random, 500, 32)
    assert compare(reference, new, 0.01).drifted
    same = centers[random.integers(0, 10, 500)] + gauss(random, 500, 32)
    assert not compare(reference, same, 0.01).drifted


def test_the_share_out_of_distribution_is_that_of_planted_images() -> None:
    random = np.random.default_rng(0)
    reference, new = gauss(random, 1000), gauss(random, 200)
    new[:50] += 20
    found = novelty(reference, new, random)
    assert 0.25 <= found.share < 0.31
    assert set(np.argsort(-found.distances)[:50]) == set(range(50))


def test_equal_vectors_are_no_drift() -> None:
    same = np.ones((30, 4), dtype=np.float32)
    found = compare(same, same[:25], 0.05)
    assert not found.drifted and found.novelty.share == 0 and found.mmd.p == 1
