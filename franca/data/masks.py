"""Masks of patches for iBOT: blocks, inverse blocks and their cyclic shift (CyclicMask of the Franca paper)."""

import math

import numpy as np
from numpy.typing import NDArray

from franca.params import Masks

ASPECT = (0.3, 1 / 0.3)
SMALLEST_BLOCK = 4
TRIES = 10


def batch_masks(
    crops: int, grid: int, params: Masks, rng: np.random.Generator, part: NDArray[np.int_] | None = None
) -> NDArray[np.bool_]:
    """Masks (crops, grid * grid): a share of the crops is masked, their ratios spread evenly over the range.

    The i-th of n masks has a ratio drawn uniformly from the i-th of n equal parts of `params.ratio`; masks are dealt
    to random crops. Where `part` has the numbers of some crops, theirs alone are made, and are the same.
    """
    count = int(crops * params.image_share)
    edges = np.linspace(*params.ratio, count + 1)
    key, dealt = int(rng.integers(1 << 63)), rng.permutation(crops)
    chosen = dealt if part is None else dealt[part]
    masks = np.zeros((len(chosen), grid, grid), dtype=bool)
    for row, index in enumerate(chosen.tolist()):
        if index < count:
            own = np.random.Generator(np.random.Philox(key=[key, index]))
            masked = int(grid * grid * own.uniform(edges[index], edges[index + 1]))
            masks[row] = mask((grid, grid), masked, params, own)
    return masks.reshape(-1, grid * grid)


def official_buffer(crops: int, grid: int, params: Masks) -> int:
    """Rows that the official code sets aside for the masked patches of `crops` crops: the most that there can be."""
    edges = np.linspace(*params.ratio, int(crops * params.image_share) + 1)
    return int(sum(int(grid * grid * ratio) for ratio in edges[1:]))


def mask(grid: tuple[int, int], masked: int, params: Masks, rng: np.random.Generator) -> NDArray[np.bool_]:
    """One mask of shape `grid` (rows, columns) with exactly `masked` patches, or all; multi_block has few less."""
    total = math.prod(grid)
    masked = min(masked, total)
    match params.kind:
        case "random":
            chosen = (rng.permutation(total) < masked).reshape(grid)
        case "block":
            chosen = block(grid, masked, rng)
        case "inverse_block":
            chosen = ~block(grid, total - masked, rng)
        case "multi_block":
            chosen = multi_block(grid, masked, rng)
    if params.cyclic:
        chosen = np.roll(chosen, tuple(rng.integers(grid)), axis=(0, 1))
    return chosen


def block(grid: tuple[int, int], count: int, rng: np.random.Generator) -> NDArray[np.bool_]:
    """A rectangle of random aspect and place cut to exactly `count` patches, the last ones in row order dropped.

    The aspect is log-uniform, its limits narrowed so that the rectangle fits into the grid.
    """
    chosen = np.zeros(grid, dtype=bool)
    if count <= 0:
        return chosen
    rows, columns = grid
    low = max(math.log(ASPECT[0]), math.log(count / columns**2))
    high = min(math.log(ASPECT[1]), math.log(rows**2 / count))
    aspect = math.exp(rng.uniform(low, high))
    height = min(rows, math.ceil(math.sqrt(count * aspect)))
    width = min(columns, math.ceil(math.sqrt(count / aspect)))
    top, left = rng.integers(rows - height + 1), rng.integers(columns - width + 1)
    chosen[top : top + height, left : left + width] = True
    chosen[tuple(np.argwhere(chosen)[count:].T)] = False
    return chosen


def multi_block(grid: tuple[int, int], count: int, rng: np.random.Generator) -> NDArray[np.bool_]:
    """Rectangles over one another until `count` patches are covered (BEiT, arXiv 2106.08254; DINOv2).

    Each adds at most what is still missing, and no more than half of the grid. Where none of some draws adds that
    little, a few patches stay uncovered.
    """
    chosen = np.zeros(grid, dtype=bool)
    rows, columns = grid
    added = 1
    while added and (missing := count - int(chosen.sum())) > 0:
        missing, added = min(missing, math.prod(grid) // 2), 0
        for _ in range(TRIES):
            area = SMALLEST_BLOCK + (missing - SMALLEST_BLOCK) * rng.random()
            aspect = math.exp(rng.uniform(math.log(ASPECT[0]), math.log(ASPECT[1])))
            height, width = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
            if not (height < rows and width < columns):
                continue
            top, left = rng.integers(rows - height + 1), rng.integers(columns - width + 1)
            window = chosen[top : top + height, left : left + width]
            if 0 < (new := int((~window).sum())) <= missing:
                window[:], added = True, new
                break
    return chosen
