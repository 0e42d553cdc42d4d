"""How many rows of logits are made at a time: tokens x prototypes never lie in memory as a whole."""

from collections.abc import Iterator

from torch import Tensor

ELEMENTS = {"cpu": 1 << 20, "cuda": 1 << 26}
MIN_ROWS = 256
"""Fewer would make the matrix products of a chunk slow, each of which reads all prototypes."""


def chunks(rows: int, prototypes: Tensor) -> Iterator[slice]:
    """Slices of 0 … rows, for logits (rows, K) of `prototypes` (K, b)."""
    size = max(MIN_ROWS, ELEMENTS.get(prototypes.device.type, 1 << 24) // len(prototypes))
    for start in range(0, rows, size):
        yield slice(start, min(start + size, rows))
