"""Samples of any bit depth as an upright 8-bit RGB image."""

from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def to_bytes(samples: NDArray[Any], depth: int) -> NDArray[np.uint8]:
    """Scale unsigned samples of `depth` bits (1 to 16) to 8 bits: 0 stays 0, the largest value becomes 255.

    More than 8 bits lose their low bits, as in Pillow and libpng; fewer are spread evenly.
    """
    if depth > 8:
        return np.minimum(samples >> (depth - 8), 255).astype(np.uint8)
    if depth == 8:
        return samples.astype(np.uint8, copy=False)
    largest = (1 << depth) - 1
    table = np.rint(np.arange(largest + 1) * (255 / largest)).astype(np.uint8)
    return table[np.minimum(samples, largest)]


def to_rgb(samples: NDArray[np.uint8]) -> Image.Image:
    """Make an RGB image of 8-bit samples: (H, W) gray, or (H, W, C) with gray, gray and alpha, RGB or RGBA.

    Transparent pixels become white.
    """
    if samples.ndim == 2:
        samples = samples[..., None]
    if samples.shape[2] < 3:
        samples = np.concatenate([samples[..., :1].repeat(3, axis=2), samples[..., 1:]], axis=2)
    image = Image.fromarray(np.ascontiguousarray(samples))
    return on_white(image) if image.mode == "RGBA" else image


def on_white(image: Image.Image) -> Image.Image:
    """Compose an RGBA image over white."""
    return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")


def turn_upright(image: Image.Image, orientation: int) -> Image.Image:
    """Apply an EXIF orientation (1 to 8; unknown values count as 1)."""
    return image.transpose(_TURNS[orientation]) if orientation in _TURNS else image
