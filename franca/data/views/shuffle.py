"""In which order a training run meets its images: exact, without repeats in an epoch, and computed, never stored."""

import numpy as np
from numpy.typing import NDArray

_ROUNDS = 8


class Order:
    """`order[places]` are the images at places of an endless sequence, one epoch after the other.

    An epoch takes the shards in a random order, cuts that sequence into windows of `window` images and shuffles each
    window: what is read at about the same time lies in few shards. A window as large as the set shuffles all of it.
    Everything follows from (seed, epoch), and nothing of the size of the set is held.
    """

    def __init__(self, seed: int, firsts: NDArray[np.int64], window: int) -> None:
        """`firsts`, of shape (shards + 1,), is where each shard's images begin, and the size of the set."""
        self._seed, self._window = seed, window
        self._firsts, self._lengths = firsts[:-1], np.diff(firsts)
        self._size = int(firsts[-1])
        self._shards_of = (-1, firsts, firsts)

    def __getitem__(self, places: NDArray[np.int64]) -> NDArray[np.int64]:
        """Indices of images, int64 of the shape of `places`, (P,)."""
        epochs, places = np.divmod(places, self._size)
        windows, places = np.divmod(places, self._window)
        images = np.empty_like(places)
        for epoch, window in np.unique(np.stack([epochs, windows], axis=1), axis=0).tolist():
            here = (epochs == epoch) & (windows == window)
            start = window * self._window
            size = min(self._window, self._size - start)
            key = (self._seed, 0, epoch, 1 + window)
            images[here] = self._in_shard_order(epoch, start + permute(places[here], size, key))
        return images

    def _in_shard_order(self, epoch: int, places: NDArray[np.int64]) -> NDArray[np.int64]:
        """Images at places of the epoch's sequence of shards, each shard in its own order."""
        if self._shards_of[0] != epoch:
            seed = np.random.SeedSequence((self._seed, 0, epoch, 0))
            shards = np.random.Generator(np.random.Philox(seed)).permutation(len(self._lengths))
            self._shards_of = (epoch, shards, np.cumsum(self._lengths[shards]))
        _, shards, ends = self._shards_of
        turn = np.searchsorted(ends, places, side="right")
        shard = shards[turn]
        return self._firsts[shard] + places - (ends[turn] - self._lengths[shard])


def permute(places: NDArray[np.int64], size: int, key: tuple[int, ...]) -> NDArray[np.int64]:
    """Images of `places`, int64 in 0 … `size` - 1, under a permutation of these numbers that `key` chooses.

    A Feistel network (Luby and Rackoff, SIAM J. Comput. 17, 1988) permutes the smallest 4^k >= `size` numbers; one
    that lands outside goes on until it is inside (cycle walking: Black and Rogaway, CT-RSA 2002). Memory does not
    grow with `size`.
    """
    half = np.uint64(max((size - 1).bit_length() + 1, 2) // 2)
    low = np.uint64((1 << int(half)) - 1)
    round_keys = np.random.SeedSequence(key).generate_state(_ROUNDS, np.uint64)
    images = places.astype(np.uint64)
    outside = np.arange(len(places))
    while len(outside):
        left, right = images[outside] >> half, images[outside] & low
        for round_key in round_keys:
            left, right = right, left ^ (_mix(right + round_key) >> (np.uint64(64) - half))
        images[outside] = left << half | right
        outside = outside[images[outside] >= size]
    return images.astype(np.int64)


def _mix(x: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Scatter 64 bits: the finalizer of SplitMix64 (Steele, Lea and Flood, OOPSLA 2014)."""
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))
