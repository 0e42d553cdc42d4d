"""Measurements of each image: size, channel sums and perceptual hash."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from franca.data.store.images.decode import decode

HASH_BITS = 64
_LUMA = np.array([0.299, 0.587, 0.114])
"""Weights of R, G and B in the brightness of a pixel (ITU-R BT.601), as in Pillow."""


class ImageFacts(NamedTuple):
    """Measurements of an image, on its 8-bit RGB pixels after `decode`."""

    height: int
    """In pixels, upright."""
    width: int
    """In pixels, upright."""
    sums: NDArray[np.int64]
    """Sum and sum of squares of each channel's bytes, shape (2, 3)."""
    perceptual_hash: int
    """64 bits; pictures that look the same differ in few bits or none."""


def measure(content: bytes) -> ImageFacts:
    """Decode an image in full and measure it; raises as `decode` does."""
    image = decode(content)
    # From a histogram, sums are exact integers, and no copy of the pixels as floats is made.
    histogram = np.array(image.histogram(), dtype=np.int64).reshape(3, 256)
    values = np.arange(256, dtype=np.int64)
    sums = np.stack([histogram @ values, histogram @ values**2])
    mean_color = sums[0] / (image.height * image.width)
    return ImageFacts(image.height, image.width, sums, perceptual_hash(image, mean_color))


def perceptual_hash(image: Image.Image, mean_color: NDArray[np.float64]) -> int:
    """Hash an image to 64 bits: 49 for where brightness rises along the rows of a 7 x 8 grid, 15 for the mean color.

    Mean brightness, blue and red are counted in steps of 8, 4 and 4 levels and written in Gray code, in which
    neighboring counts differ in one bit.

    Args:
        image: An RGB image.
        mean_color: Mean of R, G and B, 0 to 255, shape (3,).
    """
    # Not rounded to bytes first: in flat pictures (water, snow) the differences are below one gray level, and after
    # rounding all of these would have the same hash.
    brightness = np.asarray(image.convert("F").resize((8, 7), Image.Resampling.BOX))
    bits = (brightness[:, 1:] > brightness[:, :-1]).ravel()
    luma = float(mean_color @ _LUMA)
    counts = (luma / 8, (mean_color[2] - luma) / 4 + 16, (mean_color[0] - luma) / 4 + 16)
    clipped = [min(max(int(count), 0), 31) for count in counts]
    gray_code = np.array([[(number ^ number >> 1) >> bit & 1 for bit in range(5)] for number in clipped], dtype=bool)
    return int.from_bytes(np.packbits(np.concatenate([bits, gray_code.ravel()])).tobytes(), "big")
