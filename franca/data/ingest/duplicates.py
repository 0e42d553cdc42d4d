"""Groups of images that look the same: connected components of perceptual hashes few bits apart."""

from collections.abc import Iterator
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components

from franca.data.store.images.decode import HASH_BITS

_EDGES_AT_ONCE = 1 << 22


def group_duplicates(hashes: NDArray[np.uint64], bits: int) -> NDArray[np.int64]:
    """Group number of each image, shape (N,), counted from 0.

    Two images are in one group where a chain of images joins them whose neighbors' hashes differ in at most `bits`
    bits. Byte-equal images have equal hashes and so are in one group whatever `bits` is. Hashes this near agree in
    at least one of `bits` + 1 bands of bits, so only pairs that share a band are compared.
    """
    distinct, where = np.unique(hashes, return_inverse=True)
    labels = np.arange(len(distinct), dtype=np.int64)
    if bits:
        for left, right in _near_pairs(distinct, bits):
            labels = join(labels, left, right)
    return np.asarray(labels[where], dtype=np.int64)


def join(labels: NDArray[np.int64], left: NDArray[np.int64], right: NDArray[np.int64]) -> NDArray[np.int64]:
    """Merge the groups of items `left[i]` and `right[i]`, for every i; returns new group numbers, counted from 0."""
    size = int(labels.max()) + 1 if len(labels) else 0
    edges = coo_matrix((np.ones(len(left), dtype=np.int8), (labels[left], labels[right])), shape=(size, size))
    return np.asarray(connected_components(edges, directed=False)[1], dtype=np.int64)[labels]


def _near_pairs(hashes: NDArray[np.uint64], bits: int) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64]]]:
    """Indices of all pairs at most `bits` apart, in portions; a pair may come more than once."""
    edges = np.linspace(0, HASH_BITS, bits + 2).astype(int)
    left: list[NDArray[np.int64]] = []
    right: list[NDArray[np.int64]] = []
    held = 0
    for low, high in pairwise(edges):
        band = (hashes >> np.uint64(low)) & np.uint64((1 << int(high - low)) - 1)
        order = np.argsort(band, kind="stable")
        ends = np.searchsorted(band[order], band[order], side="right")
        position = np.arange(len(order))
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
