"""Masks of patches for iBOT: blocks, inverse blocks and their cyclic shift (CyclicMask of the Franca paper)."""

import math

import numpy as np
from numpy.typing import NDArray

from franca.params import Masks

ASPECT = (0.3, 1 / 0.3)


def batch_masks(crops: int, grid: int, params: Masks, rng: np.random.Generator) -> NDArray[np.bool_]:
    """Masks (crops, grid * grid): a share of the crops is masked, their ratios spread evenly over the range.

    The i-th of n masks has a ratio drawn uniformly from the i-th of n equal parts of `params.ratio`; masks are then
    dealt to random crops.
    """
    count = int(crops * params.image_share)
    edges = np.linspace(*params.ratio, count + 1)
    masks = np.zeros((crops, grid, grid), dtype=bool)
    for index in range(count):
        masked = int(grid * grid * rng.uniform(edges[index], edges[index + 1]))
        masks[index] = mask(grid, masked, params, rng)
    return rng.permutation(masks).reshape(crops, grid * grid)


def official_buffer(crops: int, grid: int, params: Masks) -> int:
    """Rows that the official code sets aside for the masked patches of `crops` crops: the most that there can be."""
    edges = np.linspace(*params.ratio, int(crops * params.image_share) + 1)
    return int(sum(int(grid * grid * ratio) for ratio in edges[1:]))


def mask(grid: int, masked: int, params: Masks, rng: np.random.Generator) -> NDArray[np.bool_]:
    """One mask (grid, grid) with exactly `masked` patches."""
    match params.kind:
        case "random":
            chosen = (rng.permutation(grid * grid) < masked).reshape(grid, grid)
        case "block":
            chosen = block(grid, masked, rng)
        case "inverse_block":
            chosen = ~block(grid, grid * grid - masked, rng)
    if params.cyclic:
        chosen = np.roll(chosen, tuple(rng.integers(grid, size=2)), axis=(0, 1))
    return chosen


def block(grid: int, count: int, rng: np.random.Generator) -> NDArray[np.bool_]:
    """A rectangle of random aspect and place cut to exactly `count` patches, the last ones in row order dropped.

    The aspect is log-uniform, its limits narrowed so that the rectangle fits into the grid.
    """
    chosen = np.zeros((grid, grid), dtype=bool)
    if count <= 0:
        return chosen
    low = max(math.log(ASPECT[0]), math.log(count / grid**2))
    high = min(math.log(ASPECT[1]), math.log(grid**2 / count))
    aspect = math.exp(rng.uniform(low, high))
    height = min(grid, math.ceil(math.sqrt(count * aspect)))
    width = min(grid, math.ceil(math.sqrt(count / aspect)))
    top, left = rng.integers(grid - height + 1), rng.integers(grid - width + 1)
    chosen[top : top + height, left : left + width] = True
    chosen[tuple(np.argwhere(chosen)[count:].T)] = False
    return chosen
