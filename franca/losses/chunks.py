"""Logits a chunk of rows at a time: the student's (tokens, prototypes) are never in memory as a whole."""

from collections.abc import Iterator

from torch import Tensor

ELEMENTS = {"cpu": 1 << 20, "cuda": 1 << 28}
"""Elements of a chunk of logits, by type of device: 4 MB on a CPU, 1 GB on a GPU."""
MIN_ROWS = 128
"""Fewest rows of a chunk. Each matrix product of a chunk reads all prototypes, so short chunks are slow."""


def chunks(rows: int, prototypes: Tensor, products: bool = True) -> Iterator[slice]:
    """Yield slices of 0..rows - 1 whose logits fit into a chunk.

    Args:
        rows: Number of rows.
        prototypes: (K, b), which give the number of columns and the device.
        products: Whether matrix products are computed for each chunk; if not, chunks may be shorter than MIN_ROWS.
    """
    size = max(MIN_ROWS if products else 1, ELEMENTS.get(prototypes.device.type, 1 << 24) // len(prototypes))
    for start in range(0, rows, size):
        yield slice(start, min(start + size, rows))


def exp_(x: Tensor) -> Tensor:
    """Replace x <= 0 by e^x, but at least e^-60, which float32 cannot add to 1."""
    # A CPU needs 12 to 37 times as long for results that are too small for a normal float32 (below e^-87), here and in
    # all operations on them: 44 % of the losses' time was spent there (docs/log.md, 2026-11-25).
    return x.clamp_(min=-60).exp_()


def logsumexp_(x: Tensor) -> Tensor:
    """Return log sum_k exp(x_nk), (N,); leaves exp(x_nk - max_k x_nk) in x (N, K)."""
    peak = x.amax(dim=1)
    return peak + exp_(x.sub_(peak[:, None])).sum(dim=1).log()
