"""What counts as an image, how its bytes become 8-bit RGB pixels, and what preparation measures on it."""

import io
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError

SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp", ".tif", ".tiff", ".bmp", ".gif", ".ppm", ".jp2"})
# Named one by one: other readers of Pillow start foreign programs (EPS) or read formats that are no pictures.
FORMATS = ("JPEG", "PNG", "WEBP", "TIFF", "BMP", "GIF", "PPM", "JPEG2000")
HASH_BITS = 64
MAX_BYTES = 1 << 30
"""Longest file taken for an image."""
_MAGIC = (
    b"\xff\xd8\xff",
    b"\x89PNG\r\n\x1a\n",
    b"GIF87a",
    b"GIF89a",
    b"II*\0",
    b"MM\0*",
    b"\0\0\0\x0cjP  \r\n\x87\n",
    b"\xff\x4f\xff\x51",
)
_ORIENTATION = ExifTags.Base.Orientation
_LUMA = np.array([0.299, 0.587, 0.114])


class ImageFacts(NamedTuple):
    """Facts of one image, on its pixels after `decode`."""

    height: int
    width: int
    sums: NDArray[np.int64]
    """Sum and sum of squares of each channel's bytes, shape (2, 3)."""
    perceptual_hash: int
    """64 bits; equal or few bits apart where two pictures look the same."""


def decode(content: bytes, shrink: int = 1) -> Image.Image:
    """Decode to 8-bit RGB, upright.

    EXIF orientation is applied; gray and palette images become RGB; transparent pixels become white; 16-bit gray is
    scaled from its full range; of several frames the first is taken.

    Args:
        content: The bytes of an image file.
        shrink: 1, 2, 4 or 8: a JPEG is decoded to 1 / shrink of its width and height, rounded up. That takes less
            time, since fewer pixels are computed from the DCT coefficients. Other formats keep their size, and so do
            JPEGs that are turned or mirrored by EXIF if shrink does not divide their sides: the incomplete pixels at
            the right and the bottom would come to lie at another side.

    Raises:
        ValueError: The file is empty, or has 32-bit samples (their range of values is unknown).
        Exception: Whatever else Pillow raises on bad bytes.
    """
    if not content:
        raise ValueError("empty file")
    image: Image.Image = Image.open(io.BytesIO(content), formats=FORMATS)
    if shrink > 1 and (image.getexif().get(_ORIENTATION, 1) == 1 or not any(side % shrink for side in image.size)):
        image.draft(None, (image.width // shrink, image.height // shrink))
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


@contextmanager
def strict_decoding() -> Iterator[None]:
    """Within it, in all threads, `decode` raises on more pixels than Pillow takes for safe, and warns of nothing."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        yield


def refusal(error: Exception) -> str:
    """Why an image is left out, in one line, of what `decode` or reading its bytes has raised."""
    if isinstance(error, UnidentifiedImageError):
        return f"not an image of a known format ({', '.join(FORMATS)})"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return one_line(error)


def looks_like_image(first_bytes: bytes) -> bool:
    """Whether a file that begins with these bytes, 64 or all of it, is an image of a known format."""
    return first_bytes.startswith(_MAGIC) or (first_bytes[:4] == b"RIFF" and first_bytes[8:12] == b"WEBP")


def examine(content: bytes) -> ImageFacts:
    """Decode fully and measure; raises as `decode` does."""
    image = decode(content)
    histogram = np.array(image.histogram(), dtype=np.int64).reshape(3, 256)
    values = np.arange(256, dtype=np.int64)
    sums = np.stack([histogram @ values, histogram @ values**2])
    mean_color = sums[0] / (image.height * image.width)
    return ImageFacts(image.height, image.width, sums, perceptual_hash(image, mean_color))


def perceptual_hash(image: Image.Image, mean_color: NDArray[np.float64]) -> int:
    """64 bits: where brightness rises along the rows of a 7 x 8 grid (49), and the mean color (15).

    Brightness is not rounded to bytes first: in flat pictures (water, snow) all that tells two of them apart is less
    than one gray level, and rounded they would all be the same. Mean brightness, blue and red are counted in steps
    of 8, 4 and 4 levels and written in Gray code, where neighboring counts differ in one bit.
    """
    brightness = np.asarray(image.convert("F").resize((8, 7), Image.Resampling.BOX))
    bits = (brightness[:, 1:] > brightness[:, :-1]).ravel()
    luma = float(mean_color @ _LUMA)
    counts = (luma / 8, (mean_color[2] - luma) / 4 + 16, (mean_color[0] - luma) / 4 + 16)
    clipped = [min(max(int(count), 0), 31) for count in counts]
    gray_code = np.array([[(number ^ number >> 1) >> bit & 1 for bit in range(5)] for number in clipped], dtype=bool)
    return int.from_bytes(np.packbits(np.concatenate([bits, gray_code.ravel()])).tobytes(), "big")


def one_line(error: Exception) -> str:
    """The error's text, without line breaks and memory addresses."""
    text = re.sub(r"\s*<_io\.\w+ object at \w+>", "", str(error))
    return " ".join(text.split()) or type(error).__name__
