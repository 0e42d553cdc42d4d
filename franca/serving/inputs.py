"""Turn the body of a request into squares for the model, by the preprocessing of `franca embed`."""

import io
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from franca.data.ingest.tar_images import all_images
from franca.data.ingest.tars import member_name, open_tar
from franca.data.store.files.names import as_text
from franca.data.store.images.decode import decode, refusal
from franca.data.store.images.file_types import format_of
from franca.data.store.transform import resize_and_crop
from franca.errors import FrancaError
from franca.serving.limits import Limits, Refused

FORMATS = ("JPEG", "PNG", "WEBP")
"""Formats that are accepted: those whose size is known from the header, before anything is decoded."""
ARRAY, TAR = "application/x-npy", "application/x-tar"


class Squares(NamedTuple):
    """Images of a request, ready for the model.

    Attributes:
        names: Names of the images in a tar, as written by `as_text`; "0", "1", ... otherwise.
        pixels: (N, side, side, 3) uint8.
    """

    names: list[str]
    pixels: NDArray[np.uint8]


def read_squares(body: bytes, content_type: str, side: int, limits: Limits) -> Squares:
    """Decode, resize and crop the images of a body.

    Args:
        body: One JPEG, PNG or WebP; an uncompressed tar of them; or an array in NumPy's format npy, uint8 (H, W, 3) or
            (N, H, W, 3) in RGB.
        content_type: `application/x-npy`, `application/x-tar`, or another one for an image.
        side: Image size of the model in pixels.
        limits: What is refused.

    Raises:
        Refused: The body is of another kind, exceeds a limit, or has an image that cannot be read.
    """
    kind = content_type.partition(";")[0].strip().lower()
    if kind == ARRAY:
        images = _array_images(body, limits)
    elif kind == TAR:
        images = _tar_images(body, limits)
    else:
        images = iter([("0", _decode(body, limits, "body"))])
    names, squares = [], []
    for name, image in images:
        names.append(name)
        squares.append(np.asarray(resize_and_crop(image, side)))
    return Squares(names, np.stack(squares))


def _decode(content: bytes, limits: Limits, where: str) -> Image.Image:
    format = format_of(content)
    if format not in FORMATS:
        raise Refused(
            415, f"{where}: not a JPEG, PNG or WebP; convert it, or send an array as {ARRAY} or a tar as {TAR}"
        )
    try:
        # Reads the header only.
        with Image.open(io.BytesIO(content), formats=(format,)) as header:
            width, height = header.size
        _check_pixels(width, height, limits, where)
        return decode(content)
    except (Refused, MemoryError):
        raise
    except Image.DecompressionBombError:  # Pillow's own limit, which is never below ours
        raise Refused(413, f"{where}: more than {limits.pixels:,} pixels; make it smaller") from None
    except Exception as error:  # Pillow raises many kinds of errors for invalid bytes
        reason = refusal(error)
    raise Refused(422, f"{where}: the image cannot be read: {reason}")


def _check_pixels(width: int, height: int, limits: Limits, where: str) -> None:
    if width * height > limits.pixels:
        raise Refused(413, f"{where}: {width} x {height} pixels, more than {limits.pixels:,}; make it smaller")
    if not width or not height:
        raise Refused(422, f"{where}: {width} x {height} pixels")


def _tar_images(body: bytes, limits: Limits) -> Iterator[tuple[str, Image.Image]]:
    try:
        with open_tar(io.BytesIO(body), "body") as tar:
            images = all_images(tar)
            _check_count(len(images), limits)
            for position, entry in images.items():
                member = tar.members[position]
                name = as_text(member_name(member))
                if entry.problem:
                    raise Refused(422, f"{name}: {entry.problem}")
                yield name, _decode(tar.read(member), limits, name)
    except FrancaError as error:
        raise Refused(422, str(error)) from None


def _array_images(body: bytes, limits: Limits) -> Iterator[tuple[str, Image.Image]]:
    array = read_array(body)
    if array.dtype != np.uint8 or array.ndim not in (3, 4) or array.shape[-1] != 3:
        raise Refused(
            422,
            f"body: an array of {array.dtype} {array.shape}; send uint8 (H, W, 3) or (N, H, W, 3), RGB, and convert"
            " values in 0..1 by (images * 255).round().astype(numpy.uint8)",
        )
    if array.ndim == 3:
        array = array[None]
    _check_count(len(array), limits)
    _check_pixels(array.shape[2], array.shape[1], limits, "body")
    for position, pixels in enumerate(array):
        yield str(position), Image.fromarray(np.ascontiguousarray(pixels))


def read_array(body: bytes) -> NDArray[np.generic]:
    """Return the array of a file in NumPy's format npy as a view of its bytes; nothing is allocated or unpickled.

    Raises:
        Refused: The bytes are no array of a plain dtype, or more or fewer than its header says.
    """
    file = io.BytesIO(body)
    try:
        version = np.lib.format.read_magic(file)
        read_header = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
        shape, fortran, dtype = read_header[version](file)
        if dtype.hasobject or fortran:
            raise ValueError("objects, or columns first")
        return np.frombuffer(body, dtype, offset=file.tell()).reshape(shape)
    except (ValueError, KeyError, TypeError, SyntaxError, RecursionError, MemoryError, OverflowError) as error:
        reason = " ".join(str(error).split())[:200]
    raise Refused(422, f"body: not an array in NumPy's format npy ({reason}); write it by numpy.save")


def _check_count(count: int, limits: Limits) -> None:
    if not count:
        raise Refused(422, "body: no images")
    if count > limits.images:
        raise Refused(413, f"body: {count:,} images, more than {limits.images}; send several requests")
