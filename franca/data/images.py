"""What counts as an image, how its bytes become 8-bit RGB pixels, and what preparation measures on it."""

import io
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp", ".tif", ".tiff", ".bmp", ".gif", ".ppm", ".jp2"})
# Named one by one: other readers of Pillow start foreign programs (EPS) or read formats that are no pictures.
FORMATS = ("JPEG", "PNG", "WEBP", "TIFF", "BMP", "GIF", "PPM", "JPEG2000")
HASH_BITS = 64


class ImageFacts(NamedTuple):
    """Facts of one image, on its pixels after `decode`."""

    height: int
    width: int
    sums: NDArray[np.int64]
    """Sum and sum of squares of each channel's bytes, shape (2, 3)."""
    perceptual_hash: int
    """64 bits; equal or few bits apart where two pictures look the same."""


def decode(content: bytes) -> Image.Image:
    """Decode to 8-bit RGB, upright.

    EXIF orientation is applied; gray and palette images become RGB; transparent pixels lie on white; 16-bit gray is
    scaled from its full range; of several frames the first counts. Raises whatever Pillow raises on bad bytes, and
    ValueError on 32-bit samples, whose range nothing tells.
    """
    image: Image.Image = Image.open(io.BytesIO(content), formats=FORMATS)
    image.load()
    ImageOps.exif_transpose(image, in_place=True)
    if image.mode == "RGB" and not image.has_transparency_data:
        return image
    if image.mode in ("I", "F"):
        raise ValueError("32-bit samples; convert the image to 8 or 16 bits")
    if image.mode.startswith("I;16"):
        return Image.fromarray((np.asarray(image) >> 8).astype(np.uint8)).convert("RGB")
    if image.has_transparency_data:
        image = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")
    return image.convert("RGB")


def examine(content: bytes) -> ImageFacts:
    """Decode fully and measure; raises as `decode` does."""
    image = decode(content)
    histogram = np.array(image.histogram(), dtype=np.int64).reshape(3, 256)
    values = np.arange(256, dtype=np.int64)
    sums = np.stack([histogram @ values, histogram @ values**2])
    return ImageFacts(image.height, image.width, sums, perceptual_hash(image))


def perceptual_hash(image: Image.Image) -> int:
    """Signs of horizontal brightness steps on an 8 x 9 grid (dHash)."""
    gray = np.asarray(image.convert("L").resize((9, 8), Image.Resampling.BOX))
    return int.from_bytes(np.packbits(gray[:, 1:] > gray[:, :-1]).tobytes(), "big")
