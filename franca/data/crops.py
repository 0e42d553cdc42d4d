"""Multi-crop: from one image to its global and local crops and the color changes each of them gets.

All draws of a sample come from one generator, so that a crop depends on (seed, epoch, sample) alone. Geometry is done
here, image by image; color is a linear map of the channels, drawn here and applied to whole batches in `color.py`.
"""

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from franca.data.color import color_map
from franca.params import Augment, Crops

ASPECT = (3 / 4, 4 / 3)
SIGMA = (0.1, 2.0)


class Views(NamedTuple):
    """Crops of one size with their color changes; a leading axis of crops, and of crops x batch once collated."""

    pixels: NDArray[np.uint8]
    """(crops, 3, side, side)"""
    color: NDArray[np.float32]
    """(crops, 3, 4): linear map of the channels in 0..1, the last column an offset"""
    sigma: NDArray[np.float32]
    """(crops,): standard deviation of the blur in pixels, 0 for none"""
    solarize: NDArray[np.bool_]
    """(crops,): whether values above one half are inverted"""


def multi_crop(
    image: Image.Image, size: int, crops: Crops, augment: Augment, rng: np.random.Generator
) -> tuple[Views, Views]:
    """Two global crops of side `size` and `crops.local_count` local ones of side `crops.local_size`."""
    first, second, local = augment.blur_probability
    blurs = [first, second] + [local] * crops.local_count
    solarize = [0.0, augment.solarize_probability] + [0.0] * crops.local_count
    views = [
        _view(
            image,
            size if index < 2 else crops.local_size,
            crops.global_scale if index < 2 else crops.local_scale,
            augment,
            (blurs[index], solarize[index]),
            rng,
        )
        for index in range(2 + crops.local_count)
    ]
    return stack_views(views[:2], size), stack_views(views[2:], crops.local_size)


def stack_views(views: list[Views], side: int) -> Views:
    """Put crops of one size together along the first axis."""
    if not views:
        empty = np.zeros((0,), dtype=np.float32)
        return Views(np.zeros((0, 3, side, side), np.uint8), np.zeros((0, 3, 4), np.float32), empty, empty > 0)
    return Views(*(np.stack(parts) for parts in zip(*views, strict=True)))


def _view(
    image: Image.Image,
    side: int,
    scale: tuple[float, float],
    augment: Augment,
    probabilities: tuple[float, float],
    rng: np.random.Generator,
) -> Views:
    box = random_box(image.size, scale, rng)
    crop = np.asarray(image.resize((side, side), Image.Resampling.BICUBIC, box=box))
    pixels = np.ascontiguousarray(_orient(crop, augment, rng).transpose(2, 0, 1))
    jitter, gray, blur, solarize, sigma = rng.random(5)
    strengths = augment.jitter if jitter < augment.jitter_probability else (0.0, 0.0, 0.0, 0.0)
    color = color_map(pixels, strengths, gray < augment.gray_probability, rng)
    blurred = SIGMA[0] + (SIGMA[1] - SIGMA[0]) * sigma if blur < probabilities[0] else 0.0
    return Views(pixels, color, np.float32(blurred), np.bool_(solarize < probabilities[1]))  # type: ignore[arg-type]


def random_box(
    size: tuple[int, int], scale: tuple[float, float], rng: np.random.Generator
) -> tuple[float, float, float, float]:
    """A box (left, upper, right, lower) whose area is a uniform share of the image's, its aspect ratio log-uniform.

    Ten tries as in Inception's crop; then the largest central box within the aspect limits.
    """
    width, height = size
    for _ in range(10):
        area = width * height * rng.uniform(*scale)
        aspect = math.exp(rng.uniform(math.log(ASPECT[0]), math.log(ASPECT[1])))
        w, h = math.sqrt(area * aspect), math.sqrt(area / aspect)
        if w <= width and h <= height:
            left, upper = rng.uniform(0, width - w), rng.uniform(0, height - h)
            return left, upper, left + w, upper + h
    w, h = min(width, height * ASPECT[1]), min(height, width / ASPECT[0])
    left, upper = (width - w) / 2, (height - h) / 2
    return left, upper, left + w, upper + h


def _orient(crop: NDArray[np.uint8], augment: Augment, rng: np.random.Generator) -> NDArray[np.uint8]:
    flip, turns = rng.integers(2), rng.integers(4)
    crop = crop[:, ::-1] if flip else crop
    return np.rot90(crop, int(turns)) if augment.orientation == "dihedral" else crop
