"""Random halves of images, from which the interval of a score is computed that is no sum over images."""

import numpy as np
from numpy.typing import NDArray

HALVES = 50


def random_halves(count: int, seed: int = 0) -> list[NDArray[np.int64]]:
    """Return `HALVES` random halves of the rows 0 to `count` - 1.

    They do not depend on the seed of a run: models of different seeds could then not be compared on the same halves.
    """
    rng = np.random.default_rng(seed)
    return [rng.permutation(count)[: count // 2] for _ in range(HALVES)]
