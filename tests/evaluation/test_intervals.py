import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy import stats

from franca.evaluation.benchmarks.segmentation import correct_pixels, overlaps
from franca.evaluation.intervals import (
    Difference,
    Measurement,
    Resampling,
    independent_difference,
    measure,
    paired_difference,
)
from franca.evaluation.outcomes import Outcome
from franca.evaluation.statistics import accuracy, mean_iou
from franca.probes.r2 import position_r2

MANY = Resampling(0, 20000, 0.95)


def hits(correct: NDArray[np.bool_], images: str = "same") -> Outcome:
    return Outcome("hits", correct, images, len(correct))


def sums(values: NDArray[np.float64], images: str = "same") -> Outcome:
    return Outcome("sums", values, images, len(values))


def difference(ours: Outcome, theirs: Outcome, resampling: Resampling = MANY, metric: str = "top1") -> Difference:
    value = 100 * (ours.values.mean() - theirs.values.mean())
    found = paired_difference(value, metric, ours, theirs, resampling)
    assert found is not None and found.paired
    return found


def alike(rng: np.random.Generator, n: int, ours: float, theirs: float, link: float) -> tuple[Outcome, Outcome]:
    """Two models' hits, which agree more the nearer `link` is to 1: an image is easy or hard for both."""
    common, own = rng.normal(size=n), rng.normal(size=(2, n))
    ease = np.sqrt(link) * common + np.sqrt(1 - link) * own
    return hits(ease[0] < stats.norm.ppf(ours)), hits(ease[1] < stats.norm.ppf(theirs))


def test_accuracy_interval_is_the_binomial_one() -> None:
    score = measure("knn", "val", "top1", hits(np.arange(500) < 350), MANY)
    low, high = stats.binom.ppf([0.025, 0.975], 500, 0.7) / 5
    assert (score.value, score.n) == (70.0, 500)
    assert score.low == pytest.approx(low, abs=0.41) and score.high == pytest.approx(high, abs=0.41)
    sure = measure("knn", "val", "top1", hits(np.ones(9) > 0), MANY)
    assert (sure.value, sure.low, sure.high) == (100.0, 100.0, 100.0)


def accuracy_of(errors: NDArray[np.float64], resampling: Resampling) -> Measurement:
    """A ratio of sums: 100 times the share of right pixels."""
    return measure("x", "val", "pixel_accuracy", sums(np.stack([errors, np.full(len(errors), 100.0)], 1)), resampling)


def test_resampling_gives_the_standard_error_of_a_mean() -> None:
    resampling = Resampling(0, 5000, 0.95)
    values = np.random.default_rng(1).normal(50, 10, 400)
    score = accuracy_of(values, resampling)
    assert score.value == pytest.approx(values.mean(), abs=1e-3)
    assert (score.high - score.low) / 2 == pytest.approx(1.96 * values.std() / 20, rel=0.06)
    assert accuracy_of(values, resampling).row == score.row


def test_more_confidence_is_a_wider_interval() -> None:
    correct = hits(np.arange(200) % 3 == 0)
    narrow, wide = (measure("knn", "val", "top1", correct, Resampling(0, 1000, share)) for share in (0.6, 0.99))
    assert wide.low < narrow.low < narrow.value < narrow.high < wide.high


@pytest.mark.parametrize("link", [0.0, 0.6, 0.9])
def test_paired_interval_is_that_of_scipy(link: float) -> None:
    ours, theirs = alike(np.random.default_rng(3), 400, 0.6, 0.5, link)
    found = difference(ours, theirs)

    def gap(a: NDArray[np.float64], b: NDArray[np.float64], axis: int) -> NDArray[np.float64]:
        return 100 * (a.mean(axis) - b.mean(axis))

    data = (ours.values.astype(float), theirs.values.astype(float))
    expected = stats.bootstrap(data, gap, paired=True, n_resamples=9999, method="percentile", rng=0)
    low, high = expected.confidence_interval
    assert found.low == pytest.approx(low, abs=0.5) and found.high == pytest.approx(high, abs=0.5)


def test_paired_interval_has_the_variance_of_mcnemars_test() -> None:
    ours, theirs = alike(np.random.default_rng(4), 2000, 0.55, 0.5, 0.8)
    found = difference(ours, theirs)
    gaps = ours.values.astype(float) - theirs.values
    error = 100 * np.sqrt(((gaps != 0).mean() - gaps.mean() ** 2) / 2000)
    assert (found.high - found.low) / 2 == pytest.approx(1.96 * error, rel=0.03)
    apart = independent_difference(*(measure("knn", "val", "top1", one, MANY)[3:6] for one in (ours, theirs)))
    assert not apart.paired and (apart.high - apart.low) > 1.5 * (found.high - found.low)


@pytest.mark.parametrize(("n", "link"), [(20, 0.0), (20, 0.8), (100, 0.8), (1000, 0.5)])
def test_paired_interval_covers_the_truth_as_often_as_it_says(n: int, link: float) -> None:
    rng = np.random.default_rng(5)
    resampling = Resampling(0, 400, 0.95)
    covered = []
    for _ in range(400):
        found = difference(*alike(rng, n, 0.7, 0.6, link), resampling)
        covered.append(found.low <= 10 <= found.high)
    assert 0.92 <= np.mean(covered) <= 1


@pytest.mark.parametrize("n", [20, 200])
def test_models_that_are_equally_good_are_seldom_told_apart(n: int) -> None:
    rng = np.random.default_rng(6)
    resampling = Resampling(0, 400, 0.95)
    told_apart = [difference(*alike(rng, n, 0.6, 0.6, 0.8), resampling).low > 0 for _ in range(400)]
    assert np.mean(told_apart) < 0.05


@pytest.mark.parametrize("alone", [4, 7])
def test_few_images_that_differ_are_judged_as_by_the_exact_test(alone: int) -> None:
    """Of 20 images our model alone is right on `alone`, the other one on none; both are wrong on the rest."""
    ours, theirs = hits(np.arange(20) < alone), hits(np.zeros(20, bool))
    exact = stats.binomtest(alone, alone, 0.5).pvalue < 0.05
    assert (difference(ours, theirs).low > 0) == exact


def test_the_same_model_is_no_better_than_itself() -> None:
    ours = hits(np.arange(20) < 9)
    found = difference(ours, ours)
    assert found.low < 0 == found.value < found.high


def test_paired_interval_of_sums_cancels_what_images_share() -> None:
    rng = np.random.default_rng(7)
    common, size = rng.uniform(10, 90, 60), np.full(60, 100.0)
    ours, theirs = (sums(np.stack([common + rng.normal(shift, 2, 60), size], axis=1)) for shift in (1.0, 0.0))
    scores = [measure("segmentation", "val", "pixel_accuracy", one, MANY) for one in (ours, theirs)]
    value = scores[0].value - scores[1].value
    paired = paired_difference(value, "pixel_accuracy", ours, theirs, MANY)
    assert paired is not None and paired.low < value < paired.high
    gaps = ours.values[:, 0] - theirs.values[:, 0]
    assert (paired.high - paired.low) / 2 == pytest.approx(1.96 * gaps.std() / np.sqrt(60), rel=0.05)
    apart = independent_difference(*((one.value, one.low, one.high) for one in scores))
    assert apart.high - apart.low > 5 * (paired.high - paired.low)


def test_other_images_are_not_paired() -> None:
    ours, theirs = hits(np.arange(20) < 9), hits(np.arange(20) < 7, "others")
    assert paired_difference(10.0, "top1", ours, theirs, MANY) is None
    assert paired_difference(10.0, "top1", ours, sums(np.ones((20, 2))), MANY) is None
    assert paired_difference(10.0, "top1", ours, hits(np.arange(10) < 5), MANY) is None


def test_independent_interval_takes_the_sides_that_face_each_other() -> None:
    assert independent_difference((72, 69, 72.5), (70, 69.5, 74)) == (2.0, -3.0, 2.7071, False)


def test_scores_of_pixel_counts_by_hand() -> None:
    # Of the confusion matrix [[6, 2, 0], [1, 3, 0], [0, 0, 0]]: its diagonal, and the sums of its rows and columns.
    counts = torch.tensor([[[6.0, 3, 0], [8, 4, 0], [7, 5, 0]]])
    assert mean_iou(overlaps(counts).numpy()).item() == pytest.approx(100 * (6 / 9 + 3 / 6) / 2)
    assert accuracy(correct_pixels(counts).numpy()).item() == pytest.approx(75.0)


def test_r2_by_hand() -> None:
    assert position_r2(np.array([[[1.0, 2.0], [4.0, 4.0]]])).item() == pytest.approx(62.5)
    assert position_r2(np.array([[[9.0, 9.0], [4.0, 4.0]]])).item() == 0
