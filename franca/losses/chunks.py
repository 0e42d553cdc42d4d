"""Logits, some rows at a time: the student's tokens x prototypes never lie in memory as a whole."""

from collections.abc import Iterator

from torch import Tensor

ELEMENTS = {"cpu": 1 << 20, "cuda": 1 << 28}
MIN_ROWS = 128
"""Fewer would make the matrix products of a chunk slow, each of which reads all prototypes."""


def chunks(rows: int, prototypes: Tensor, products: bool = True) -> Iterator[slice]:
    """Slices of 0 … rows, for logits (rows, K) of `prototypes` (K, b); shorter ones where no `products` are made."""
    size = max(MIN_ROWS if products else 1, ELEMENTS.get(prototypes.device.type, 1 << 24) // len(prototypes))
    for start in range(0, rows, size):
        yield slice(start, min(start + size, rows))


def exp_(x: Tensor) -> Tensor:
    """e^x of x <= 0, in place, but at least e^-60, which float32 cannot add to 1.

    A CPU takes ten times as long and more for results that are too small for a normal float32, here and in whatever
    they go into.
    """
    return x.clamp_(min=-60).exp_()


def logsumexp_(x: Tensor) -> Tensor:
    """log sum_k exp(x_nk), (N,); leaves exp(x_nk - max_k x_nk) in x (N, K)."""
    peak = x.amax(dim=1)
    return peak + exp_(x.sub_(peak[:, None])).sum(dim=1).log()
