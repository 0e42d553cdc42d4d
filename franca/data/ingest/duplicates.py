"""Group images that look the same: connected components of perceptual hashes that differ in few bits."""

from collections.abc import Iterator
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components

from franca.data.ingest.image_facts import HASH_BITS

_EDGES_AT_ONCE = 1 << 22
"""Pairs that are held in memory before they are merged into groups."""


def group_duplicates(hashes: NDArray[np.uint64], bits: int) -> NDArray[np.int64]:
    """Return the group number of each image, counted from 0.

    Two images are in one group if their hashes differ in at most `bits` bits, directly or through a chain of other
    images. Equal files have equal hashes, so they are in one group for any `bits`.

    Args:
        hashes: Perceptual hashes, uint64 (N,).
        bits: Largest number of bits in which near-duplicates differ.

    Returns:
        int64 (N,).
    """
    distinct, where = np.unique(hashes, return_inverse=True)
    labels = np.arange(len(distinct), dtype=np.int64)
    if bits:
        for left, right in _near_pairs(distinct, bits):
            labels = join(labels, left, right)
    return np.asarray(labels[where], dtype=np.int64)


def join(labels: NDArray[np.int64], left: NDArray[np.int64], right: NDArray[np.int64]) -> NDArray[np.int64]:
    """Merge the groups of the items `left[i]` and `right[i]` for every i.

    Args:
        labels: Group number of each item, int64 (N,).
        left: Indices of items, int64 (E,).
        right: Indices of items, int64 (E,).

    Returns:
        New group numbers, counted from 0, int64 (N,).
    """
    size = int(labels.max()) + 1 if len(labels) else 0
    edges = coo_matrix((np.ones(len(left), dtype=np.int8), (labels[left], labels[right])), shape=(size, size))
    return np.asarray(connected_components(edges, directed=False)[1], dtype=np.int64)[labels]


def _near_pairs(hashes: NDArray[np.uint64], bits: int) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64]]]:
    """Yield the indices of all pairs that differ in at most `bits` bits, in portions; pairs may repeat."""
    # Hashes that differ in at most `bits` bits are equal in at least one of `bits` + 1 bands of bits (pigeonhole), so
    # only pairs that share a band are compared, not all N^2.
    edges = np.linspace(0, HASH_BITS, bits + 2).astype(int)
    left: list[NDArray[np.int64]] = []
    right: list[NDArray[np.int64]] = []
    held = 0
    for low, high in pairwise(edges):
        band = (hashes >> np.uint64(low)) & np.uint64((1 << int(high - low)) - 1)
        order = np.argsort(band, kind="stable")
        ends = np.searchsorted(band[order], band[order], side="right")
        position = np.arange(len(order))
        # Sorted by band, hashes of equal bands are neighbors: compare each with the one `shift` places further on.
        for shift in range(1, len(order)):
            position = position[position + shift < ends[position]]
            if not len(position):
                break
            one, other = order[position], order[position + shift]
            near = np.bitwise_count(hashes[one] ^ hashes[other]) <= bits
            left.append(one[near])
            right.append(other[near])
            held += int(near.sum())
            if held > _EDGES_AT_ONCE:
                yield np.concatenate(left), np.concatenate(right)
                left, right, held = [], [], 0
    if left:
        yield np.concatenate(left), np.concatenate(right)
