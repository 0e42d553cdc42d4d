"""The order of training samples: exact, without repeats, shuffled as by dice, and near where shards are far."""

import numpy as np
import pytest

from franca.data.views.shuffle import Order, permute

KEY = (0, 0, 3, 1)


@pytest.mark.parametrize("size", [1, 2, 3, 4, 5, 16, 17, 63, 64, 65, 1000, 4097, 65536])
def test_a_permutation_takes_every_number_once(size: int) -> None:
    for seed in range(3):
        images = permute(np.arange(size), size, (seed, *KEY[1:]))
        assert (np.sort(images) == np.arange(size)).all()


def test_a_number_goes_where_it_goes_whatever_it_is_asked_with() -> None:
    size = 10_000_019
    places = np.random.default_rng(0).integers(size, size=500)
    together = permute(places, size, KEY)
    assert together.tolist() == [int(permute(places[i : i + 1], size, KEY)[0]) for i in range(len(places))]
    assert len(np.unique(together)) == len(np.unique(places))
    assert (together != permute(places, size, (1, 0, 3, 1))).mean() > 0.99


@pytest.mark.parametrize("size", [3, 12, 100])
def test_it_looks_shuffled(size: int) -> None:
    """Where each number lands and how far from its neighbor, over many keys, against evenly spread (chi-squared)."""
    draws = 1000
    images = np.stack([permute(np.arange(size), size, (0, 0, epoch, 1)) for epoch in range(draws)])
    steps = (np.roll(images, 1, axis=1) - images) % size
    for values, kinds in ((images, size), (steps - 1, size - 1)):
        expected = draws / kinds
        counts = np.stack([np.bincount(column, minlength=kinds) for column in values[:, :50].T])
        per_degree = ((counts - expected) ** 2 / expected).sum(axis=1).mean() / (kinds - 1)
        assert abs(per_degree - 1) < 5 * np.sqrt(2 / (kinds - 1))


def test_an_epoch_meets_every_image_once_and_the_next_in_another_order() -> None:
    firsts = np.array([0, 40, 40, 75, 103])
    order = Order(7, firsts, window=32)
    sequence = order[np.arange(5 * 103)].reshape(5, 103)
    assert (np.sort(sequence, axis=1) == np.arange(103)).all()
    assert len({tuple(epoch) for epoch in sequence.tolist()}) == 5
    again = Order(7, firsts, window=32)
    assert (np.concatenate([again[np.arange(i, i + 5)] for i in range(0, 515, 5)]) == sequence.ravel()).all()
    assert (Order(8, firsts, window=32)[np.arange(103)] != sequence[0]).any()


def test_a_window_stays_in_few_shards_and_mixes_them() -> None:
    """100 shards of 100 images: a window of 250 touches four of them at most, and not in their order."""
    firsts = np.arange(101) * 100
    order = Order(0, firsts, window=250)
    first_epoch = order[np.arange(10_000)]
    windows = [first_epoch[start : start + 250] for start in range(0, 10_000, 250)]
    shards = [np.unique(window // 100) for window in windows]
    assert max(len(numbers) for numbers in shards) <= 4
    assert np.mean([np.mean(np.diff(window) == 1) for window in windows]) < 0.02
    assert len({tuple(numbers) for numbers in shards}) == len(windows)
    firsts_met = first_epoch[::250] // 100
    assert (np.diff(firsts_met) > 0).any() and (np.diff(firsts_met) < 0).any()


def test_one_window_as_large_as_the_set_shuffles_all_of_it() -> None:
    order = Order(0, np.array([0, 5000]), window=5000)
    images = order[np.arange(5000)]
    assert abs(np.corrcoef(np.arange(5000), images)[0, 1]) < 0.06
    assert abs(images[:500].mean() - 2500) < 5 * 5000 / np.sqrt(12 * 500)
