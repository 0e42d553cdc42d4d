"""In-context segmentation (Hummingbird, arXiv 2306.01667): the classes of a patch's nearest patches in a memory.

The steps are those of open-hummingbird-eval, without its faults: unlabeled pixels are left out instead of counting as
class 0, and predictions are classes, so nothing is matched to the masks afterwards.
"""

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from franca.evaluation.methods.neighbors import QUERIES, nearest

NEIGHBORS = 30
TEMPERATURE = 0.02
CROP_AREA = (0.5, 1.0)
"""Share of an image's area that a crop has, at least and at most."""
CROP_ASPECT = (3 / 4, 4 / 3)
"""Change of the sides' ratio by a crop, at least and at most."""


def random_crop(image: Image.Image, mask: NDArray[np.uint8], seed: tuple[int, ...]) -> tuple[Image.Image, Tensor]:
    """Return a random crop of an image and of its mask (H, W); it depends on the seed and the size alone."""
    rng = np.random.default_rng(seed)
    area, aspect = rng.uniform(*CROP_AREA), np.exp(rng.uniform(*np.log(CROP_ASPECT)))
    sides = []
    for length, scale in zip(image.size, ((area * aspect) ** 0.5, (area / aspect) ** 0.5), strict=True):
        side = max(1, min(length, round(length * scale)))
        start = int(rng.integers(length - side + 1))
        sides.append((start, start + side))
    (left, right), (top, bottom) = sides
    return image.crop((left, top, right, bottom)), torch.from_numpy(mask[top:bottom, left:right].astype(np.int64))


def patch_counts(mask: Tensor, ignore: int, classes: int, height: int, width: int) -> Tensor:
    """Return the labeled pixels of each class in each patch.

    Args:
        mask: (H, W) int64, class of each pixel.
        ignore: Value of unlabeled pixels.
        classes: Number of classes K.
        height: Rows of patches.
        width: Columns of patches.

    Returns:
        (height x width, K) float32.
    """
    rows, columns = (
        torch.arange(length, device=mask.device) * patches // length
        for length, patches in zip(mask.shape, (height, width), strict=True)
    )
    cells = (rows[:, None] * width + columns) * classes + mask
    counts = torch.bincount(cells[mask != ignore], minlength=height * width * classes)
    return counts.view(height * width, classes).float()


def choose_patches(counts: Tensor, kept: int, seed: tuple[int, ...]) -> Tensor:
    """Return the patches of an image that go into the memory, at most `kept`, (n,) int64.

    A patch's score is the number of patches that have its classes, added up over these classes, times a random number;
    the smallest scores win, which favors rare classes. Patches without a labeled pixel are left out.

    Args:
        counts: (P, K), labeled pixels of each class in each patch.
        kept: Number of patches.
        seed: Seed of the random numbers.
    """
    present = counts > 0
    labeled = present.any(dim=1).nonzero()[:, 0]
    chances = torch.from_numpy(np.random.default_rng(seed).random(len(counts))).to(counts.device)
    scores = (present.double() @ present.sum(dim=0).double()) * chances
    return labeled[scores[labeled].argsort(stable=True)[:kept]]


def attend(memory: Tensor, labels: Tensor, queries: Tensor) -> Tensor:
    """Return shares of the classes for each query by attention to its nearest features in the memory.

    Args:
        memory: (N, D) float32, of any length.
        labels: (N, K) float32, shares of the classes.
        queries: (M, D) float32, of any length.

    Returns:
        (M, K) float32.
    """
    k = min(NEIGHBORS, len(memory))
    found = []
    for part in queries.split(QUERIES):
        similarities, rows = nearest(memory, part, k, memory.device)
        weights = (similarities / TEMPERATURE).softmax(dim=1)
        found.append(torch.einsum("mk,mkc->mc", weights, labels[rows]))
    return torch.cat(found)
