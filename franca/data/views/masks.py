"""Draw the masks of patches for iBOT: blocks, inverse blocks, and their cyclic shift (CyclicMask, Franca paper)."""

import math

import numpy as np
from numpy.typing import NDArray

from franca.params import Masks

ASPECT = (0.3, 1 / 0.3)
"""Smallest and largest aspect ratio of a block."""
SMALLEST_BLOCK = 4
"""Smallest area of a block of `multi_block`, in patches."""
TRIES = 10
"""Draws for each block of `multi_block`."""


def batch_masks(
    images: int, group: int, grid: int, params: Masks, rng: np.random.Generator, part: slice = slice(None)
) -> NDArray[np.bool_]:
    """Draw the masks of both global crops of a batch, so that each group of images has about as many masked patches.

    Each `group` consecutive images follow the rule that the official code applies to the batch of one GPU: of their
    2 `group` crops, int(2 group `image_share`) random ones are masked, and the i-th of these n masks has a ratio that
    is uniform in the i-th of n equal parts of `params.ratio`. If 2 group image_share is not an integer, random groups
    get one mask more, so that int(2 images image_share) crops are masked in all.

    Ranks and parts of a step hold whole groups, so all of them do about the same work. With masks dealt over the whole
    batch, one of 96 ranks with 32 images each (16 x 16 patches) had 3,056 +- 442 masked patches and the largest of
    the ranks 4,170, for which the others waited in every step. Now it is 3,056 +- 7, the largest 3,074 (measured).

    Args:
        images: Number of images of the batch, a multiple of `group`.
        group: Number of images in a group (`losses.koleo_images`).
        grid: Number of patches along a side of a global crop.
        params: Kind of masks, share of masked crops and range of their ratios.
        rng: A generator that depends on the seed and the step alone.
        part: Images for which masks are drawn; they get the same masks as in a call for the whole batch.

    Returns:
        bool (2 * images of `part`, grid * grid), crop-major: all first global crops, then all second ones.
    """
    groups, crops = images // group, 2 * group
    base, rest = divmod(int(2 * images * params.image_share), groups)
    counts = base + (rng.permutation(groups) < rest)
    # One generator for each group, so a process draws the masks of its own groups only.
    key = int(rng.integers(1 << 63))
    first, stop, _ = part.indices(images)
    touched = range(first // group, -(-stop // group))
    masks = np.zeros((len(touched), crops, grid * grid), dtype=bool)
    for row, index in enumerate(touched):
        own = np.random.Generator(np.random.Philox(key=[key, index]))
        count = int(counts[index])
        chosen = own.permutation(crops)[:count]
        low, high = params.ratio
        ratios = low + (high - low) * (np.arange(count) + own.random(count)) / max(count, 1)
        drawn = random_masks((grid, grid), (grid * grid * ratios).astype(np.int64), params, own)
        masks[row, chosen] = drawn.reshape(count, grid * grid)
    crop_major = masks.reshape(len(touched), 2, group, -1).swapaxes(0, 1).reshape(2, len(touched) * group, -1)
    offset = touched.start * group
    return crop_major[:, first - offset : stop - offset].reshape(-1, grid * grid)


def official_buffer(groups: int, group: int, grid: int, params: Masks) -> int:
    """Return the rows that the official code reserves for the masked patches of `groups` groups of `group` images.

    This is the largest number of masked patches that `batch_masks` can give each group, if 2 group image_share is an
    integer.
    """
    edges = np.linspace(*params.ratio, int(2 * group * params.image_share) + 1)
    return groups * int(sum(int(grid * grid * ratio) for ratio in edges[1:]))


def random_masks(
    grid: tuple[int, int], masked: NDArray[np.int64], params: Masks, rng: np.random.Generator
) -> NDArray[np.bool_]:
    """Draw N masks, bool (N, rows, columns) for `grid` (rows, columns), all at once.

    The i-th has exactly `masked[i]` patches (int64 (N,)), or all if there are fewer; multi_block may have a few less.
    """
    rows, columns = grid
    total = rows * columns
    masked = np.minimum(masked, total)
    match params.kind:
        case "random":
            order = rng.permuted(np.tile(np.arange(total), (len(masked), 1)), axis=1)
            chosen = (order < masked[:, None]).reshape(-1, rows, columns)
        case "block":
            chosen = blocks(grid, masked, rng)
        case "inverse_block":
            chosen = ~blocks(grid, total - masked, rng)
        case "multi_block":
            chosen = np.zeros((len(masked), rows, columns), dtype=bool)
            for mask, count in zip(chosen, masked.tolist(), strict=True):
                mask[:] = multi_block(grid, count, rng)
    if params.cyclic:
        shifts = rng.integers(grid, size=(len(masked), 2))
        y = (np.arange(rows) - shifts[:, :1]) % rows
        x = (np.arange(columns) - shifts[:, 1:]) % columns
        chosen = chosen[np.arange(len(masked))[:, None, None], y[:, :, None], x[:, None, :]]
    return chosen


def blocks(grid: tuple[int, int], counts: NDArray[np.int64], rng: np.random.Generator) -> NDArray[np.bool_]:
    """Draw N rectangles of random aspect ratio and position, each reduced to an exact number of patches.

    Surplus patches are removed from the end in row order. The aspect ratio is log-uniform, within limits that let the
    rectangle fit into the grid.

    Args:
        grid: Rows and columns of patches.
        counts: Number of patches of each rectangle, int64 (N,).
        rng: A random generator.

    Returns:
        bool (N, rows, columns).
    """
    rows, columns = grid
    areas = np.maximum(counts, 1)
    low = np.maximum(math.log(ASPECT[0]), np.log(areas / columns**2))
    high = np.minimum(math.log(ASPECT[1]), np.log(rows**2 / areas))
    aspects = np.exp(low + (high - low) * rng.random(len(counts)))
    heights = np.minimum(rows, np.ceil(np.sqrt(areas * aspects)).astype(np.int64))
    widths = np.minimum(columns, np.ceil(np.sqrt(areas / aspects)).astype(np.int64))
    tops, lefts = rng.integers(rows - heights + 1), rng.integers(columns - widths + 1)
    y = np.arange(rows) - tops[:, None]
    x = np.arange(columns) - lefts[:, None]
    inside = ((y >= 0) & (y < heights[:, None]))[:, :, None] & ((x >= 0) & (x < widths[:, None]))[:, None, :]
    return inside & (y[:, :, None] * widths[:, None, None] + x[:, None, :] < counts[:, None, None])


def multi_block(grid: tuple[int, int], count: int, rng: np.random.Generator) -> NDArray[np.bool_]:
    """Draw overlapping rectangles until `count` patches are covered (BEiT, arXiv 2106.08254; DINOv2).

    Each rectangle adds at most the number of patches that are still missing, and at most half of the grid. If none of
    `TRIES` draws does, a few patches stay unmasked.

    Args:
        grid: Rows and columns of patches.
        count: Number of patches to mask.
        rng: A random generator.

    Returns:
        bool (rows, columns).
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
