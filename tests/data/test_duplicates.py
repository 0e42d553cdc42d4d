"""Grouping by banded search gives exactly what comparing all pairs gives."""

import numpy as np
import pytest
from numpy.typing import NDArray

from franca.data.ingest.duplicates import group_duplicates, join


def all_pairs(hashes: NDArray[np.uint64], bits: int) -> list[int]:
    """Smallest member of each item's component, by spreading labels along all near pairs."""
    near = np.bitwise_count(hashes[:, None] ^ hashes[None, :]) <= bits
    label = np.arange(len(hashes))
    while True:
        spread = np.where(near, label[None, :], len(hashes)).min(axis=1)
        if (spread == label).all():
            return label.tolist()
        label = spread


def smallest_members(groups: NDArray[np.int64]) -> list[int]:
    _, first, where = np.unique(groups, return_index=True, return_inverse=True)
    return first[where].tolist()


@pytest.mark.parametrize("bits", [0, 1, 2, 3, 5, 16])
def test_same_groups_as_all_pairs(bits: int) -> None:
    rng = np.random.default_rng(bits)
    centers = rng.integers(0, 2**64, 40, dtype=np.uint64)
    flips = np.array([sum(1 << int(b) for b in rng.choice(64, rng.integers(0, 4), replace=False)) for _ in range(400)])
    hashes = centers[rng.integers(0, 40, 400)] ^ flips.astype(np.uint64)
    groups = group_duplicates(hashes, bits)
    assert smallest_members(groups) == all_pairs(hashes, bits)
    assert sorted(set(groups.tolist())) == list(range(groups.max() + 1))


def test_chains_join_their_ends() -> None:
    hashes = np.array([0b0, 0b11, 0b1111, 0b111111, 0xFF << 40], dtype=np.uint64)
    assert smallest_members(group_duplicates(hashes, 2)) == [0, 0, 0, 0, 4]
    assert smallest_members(group_duplicates(hashes, 1)) == [0, 1, 2, 3, 4]


def test_many_pairs_come_in_portions(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("franca.data.ingest.duplicates._EDGES_AT_ONCE", 10)
    hashes = np.random.default_rng(0).integers(0, 64, 200, dtype=np.uint64)
    assert smallest_members(group_duplicates(hashes, 1)) == all_pairs(hashes, 1)


def test_none_and_one() -> None:
    assert group_duplicates(np.array([], dtype=np.uint64), 2).tolist() == []
    assert group_duplicates(np.array([5], dtype=np.uint64), 2).tolist() == [0]


def test_join_merges_whole_groups() -> None:
    labels = np.array([0, 0, 1, 1, 2])
    assert smallest_members(join(labels, np.array([1]), np.array([2]))) == [0, 0, 0, 0, 4]
