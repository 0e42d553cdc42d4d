"""Decode the bytes of an image file to 8-bit RGB pixels."""

import io
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
from PIL import ExifTags, Image, ImageFile, ImageOps, UnidentifiedImageError

from franca.data.store.images.file_types import FORMATS, PNG_DEPTH, format_of
from franca.data.store.images.file_types import SUFFIXES as SUFFIXES
from franca.data.store.images.file_types import looks_like_image as looks_like_image
from franca.data.store.images.jpeg2000 import decode_deep, is_plain
from franca.data.store.images.rgb import on_white, to_bytes, to_rgb, turn_upright

MAX_BYTES = 1 << 30
"""Longest file that counts as an image, in bytes."""
_ORIENTATION = ExifTags.Base.Orientation


def decode(content: bytes, shrink: int = 1) -> Image.Image:
    """Decode to 8-bit RGB, upright.

    EXIF orientation is applied; gray, palette and CMYK images become RGB; transparent pixels become white; samples of
    other depths are scaled from their full range; of several frames the first is taken; ICC profiles are ignored.

    Args:
        content: The bytes of an image file.
        shrink: 1, 2, 4 or 8: a JPEG is decoded to 1 / shrink of its width and height, rounded up. That takes less
            time, since fewer pixels are computed from the DCT coefficients. Other formats keep their size, and so do
            JPEGs that EXIF turns or mirrors if shrink does not divide their sides: the partial pixels at the right
            and the bottom would end up on another side.

    Raises:
        ValueError: The file is empty or broken, or has samples whose range of values is unknown (signed integers,
            floats, integers of more than 16 bits).
        UnidentifiedImageError: The file is of no format in `FORMATS`.
        Exception: Whatever else Pillow raises on bad bytes.
    """
    if not content:
        raise ValueError("empty file")
    format = format_of(content)
    if format == "TIFF":
        # Imported where it is needed: a GPU machine without network can do without imagecodecs, which has 20 MB.
        from franca.data.store.images.tiff import decode_tiff

        return decode_tiff(content)
    if format == "PPM" and content[1:2] in b"Ff":
        raise ValueError("floating-point samples, whose range is unknown; convert them to unsigned 8 or 16 bits")
    image = _open(content, format)
    if format == "JPEG2000" and not is_plain(content):
        return decode_deep(content, image.mode)
    if format == "PNG" and "transparency" in image.info and content[PNG_DEPTH] in (2, 4, 16) and image.mode != "P":
        return _decode_keyed_png(content, image)
    if shrink > 1 and (image.getexif().get(_ORIENTATION, 1) == 1 or not any(side % shrink for side in image.size)):
        image.draft(None, (image.width // shrink, image.height // shrink))
    image.load()
    ImageOps.exif_transpose(image, in_place=True)
    if image.mode == "RGB" and not image.has_transparency_data:
        return image
    # Pillow scales PGM of more than 8 bits to 16 whatever its largest value, and calls that "I".
    if image.mode.startswith("I;16") or (image.mode == "I" and format == "PPM"):
        return to_rgb(to_bytes(np.asarray(image), 16))
    if image.mode == "I":
        raise ValueError("32-bit samples, whose range is unknown; convert them to 8 or 16 bits")
    return on_white(image.convert("RGBA")) if image.has_transparency_data else image.convert("RGB")


def _open(content: bytes, format: str | None) -> Image.Image:
    """Let Pillow read the header; raises ValueError with the reason if a file of a known format is damaged."""
    if format is None:
        raise UnidentifiedImageError
    if format == "HEIF":
        _register_heif()
    try:
        return Image.open(io.BytesIO(content), formats=(format,))
    except UnidentifiedImageError:
        reason = _header_fault(content, format)
    raise ValueError(f"damaged, or a kind of {format} that is not supported{reason}")


def _header_fault(content: bytes, format: str) -> str:
    """Return the reason that Pillow's reader of the format gives, which `Image.open` drops."""
    try:
        Image.OPEN[format][0](io.BytesIO(content), "")
    except Exception as error:
        return f": {one_line(error)}"
    return ""


def _register_heif() -> None:
    """Let Pillow read HEIF; raises ValueError if the package for it is missing."""
    try:
        from pillow_heif import register_heif_opener
    except ImportError:
        raise ValueError("HEIC needs another package; install pillow-heif") from None
    register_heif_opener()


def _decode_keyed_png(content: bytes, image: Image.Image) -> Image.Image:
    """Decode a PNG of 2, 4 or 16 bits a sample with a transparent color.

    Pillow is wrong here: it compares the unscaled color of the file with samples that it has scaled to 8 bits.
    """
    depth, key = content[PNG_DEPTH], np.array(image.info["transparency"])
    samples = np.asarray(image)
    if image.mode == "RGB":
        # Pillow keeps the high byte of each big-endian sample. Read as little-endian, the low byte takes its place.
        other = _open(content, "PNG")
        assert isinstance(other, ImageFile.ImageFile)
        other.tile = [tile._replace(args="RGB;16L") for tile in other.tile]
        samples = samples.astype(np.uint16) << 8 | np.asarray(other)
    elif depth < 8:
        key = key * (255 // ((1 << depth) - 1))
    samples = np.atleast_3d(samples)
    hit = (samples == key).all(axis=2, keepdims=True)
    colors = np.where(hit, np.uint8(255), to_bytes(samples, max(depth, 8)))
    return turn_upright(to_rgb(colors), image.getexif().get(_ORIENTATION, 1))


@contextmanager
def strict_decoding() -> Iterator[None]:
    """Make `decode` raise, in all threads, if an image exceeds Pillow's pixel limit; suppress other warnings."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        yield


def refusal(error: Exception) -> str:
    """Return in one line why an image is left out, from the exception that reading or decoding it has raised."""
    if isinstance(error, UnidentifiedImageError):
        return f"not an image of a known format ({', '.join(FORMATS)})"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return one_line(error)


def one_line(error: Exception) -> str:
    """Return the error's text without line breaks and memory addresses."""
    text = re.sub(r"\s*<_io\.\w+ object at \w+>", "", str(error))
    return " ".join(text.split()) or type(error).__name__
