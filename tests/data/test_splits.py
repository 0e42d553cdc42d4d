"""The split of an image: its own folder's, else drawn by content; groups stay whole, others stay put."""

import itertools

import numpy as np
import pytest

from franca.data.ingest.splits import NONE, TRAIN, VAL, assign_splits
from franca.data.ingest.splits import TEST as TEST_SPLIT
from franca.data.store.prepared import SplitName

FRACTIONS: dict[SplitName, float] = {"val": 0.1, "test": 0.2}


def draw_case(seed: int, size: int = 2000) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    _, groups = np.unique(rng.integers(0, size // 2, size), return_inverse=True)
    return groups, rng.integers(0, 2**64, size, dtype=np.uint64)


@pytest.mark.parametrize("seed", range(5))
def test_no_group_straddles(seed: int) -> None:
    groups, keys = draw_case(seed)
    rng = np.random.default_rng(seed)
    for given in (np.full(len(groups), NONE), rng.integers(0, 2, len(groups)), rng.integers(0, 3, len(groups))):
        split = assign_splits(groups, groups, keys, given, FRACTIONS)
        for group in np.unique(groups):
            kept = split[(groups == group) & (split != NONE)]
            assert len(set(kept.tolist())) == 1


def test_shares_are_as_asked_whatever_the_size_of_groups() -> None:
    rng = np.random.default_rng(1)
    for repeat in (1, 9):
        groups = np.repeat(np.arange(4000), repeat)
        keys = rng.integers(0, 2**64, len(groups), dtype=np.uint64)
        split = assign_splits(groups, groups, keys, np.full(len(groups), NONE), FRACTIONS)
        shares = np.bincount(split, minlength=3) / len(split)
        assert shares == pytest.approx([0.8 * 0.9, 0.8 * 0.1, 0.2], abs=0.025)


def test_added_images_move_no_others() -> None:
    groups, keys = draw_case(3)
    given = np.full(len(groups), NONE)
    before = assign_splits(groups, groups, keys, given, FRACTIONS)
    more_groups = np.concatenate([groups, groups.max() + 1 + np.arange(500)])
    more_keys = np.concatenate([keys, np.random.default_rng(9).integers(0, 2**64, 500, dtype=np.uint64)])
    after = assign_splits(more_groups, more_groups, more_keys, np.full(len(more_groups), NONE), FRACTIONS)
    assert (after[: len(before)] == before).all()


def test_given_folders_are_kept_and_lesser_copies_dropped() -> None:
    groups = np.array([0, 0, 1, 1, 2, 2, 3, 4])
    given = np.array([TEST_SPLIT, TRAIN, VAL, TRAIN, TEST_SPLIT, VAL, TRAIN, TRAIN])
    split = assign_splits(groups, groups, np.arange(8, dtype=np.uint64), given, FRACTIONS)
    assert split.tolist() == [TEST_SPLIT, NONE, VAL, NONE, TEST_SPLIT, NONE, TRAIN, TRAIN]


def test_val_comes_out_of_train_where_only_test_is_given() -> None:
    groups, keys = np.arange(1000), np.random.default_rng(0).integers(0, 2**64, 1000, dtype=np.uint64)
    given = np.where(np.arange(1000) < 300, TEST_SPLIT, TRAIN)
    split = assign_splits(groups, groups, keys, given, FRACTIONS)
    assert (split[:300] == TEST_SPLIT).all()
    assert 40 <= (split[300:] == VAL).sum() <= 100
    assert not (split[300:] == TEST_SPLIT).any()


def test_units_larger_than_groups_stay_whole() -> None:
    keys = np.random.default_rng(0).integers(0, 2**64, 600, dtype=np.uint64)
    units = np.repeat(np.arange(60), 10)
    split = assign_splits(np.arange(600), units, keys, np.full(600, NONE), FRACTIONS)
    assert all(len(set(part.tolist())) == 1 for part in split.reshape(60, 10))
    assert set(split.tolist()) == {TRAIN, VAL, TEST_SPLIT}


def test_each_class_keeps_one_unit_in_train() -> None:
    rng = np.random.default_rng(0)
    classes = np.concatenate([np.arange(300), rng.integers(0, 300, 900), np.full(50, NONE)])
    keys = rng.integers(0, 2**64, len(classes), dtype=np.uint64)
    units = np.arange(len(classes))
    split = assign_splits(units, units, keys, np.full(len(classes), NONE), FRACTIONS, classes)
    assert set(classes[split == TRAIN].tolist()) == set(classes.tolist())
    shares = np.bincount(split, minlength=3) / len(split)
    assert shares == pytest.approx([0.8 * 0.9, 0.8 * 0.1, 0.2], abs=0.08)


def test_classes_of_many_images_change_no_split() -> None:
    rng = np.random.default_rng(0)
    keys, units = rng.integers(0, 2**64, 3000, dtype=np.uint64), np.repeat(np.arange(1500), 2)
    before = assign_splits(units, units, keys, np.full(3000, NONE), FRACTIONS)
    after = assign_splits(units, units, keys, np.full(3000, NONE), FRACTIONS, units % 10)
    assert (before == after).all()


def test_three_images_are_enough_for_three_splits() -> None:
    for seed, share in itertools.product(range(20), (1e-9, 0.5, 1 - 1e-9)):
        keys = np.random.default_rng(seed).integers(0, 2**64, 3, dtype=np.uint64)
        split = assign_splits(np.arange(3), np.arange(3), keys, np.full(3, NONE), {"val": share, "test": share})
        assert sorted(split.tolist()) == [TRAIN, VAL, TEST_SPLIT]
