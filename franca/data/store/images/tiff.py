"""TIFF: depth, sign, color space and orientation are taken from the file's tags; what has no clear meaning is refused.

Pillow is not used here. It takes 12 bits for 16, ignores WhiteIsZero at 16 bits, and its libtiff writes errors to
stderr without the file's name. tifffile reads the tags. The libtiff in imagecodecs decodes the samples and raises its
errors; tifffile decodes what libtiff cannot, or only after a conversion of its own.
"""

import io
import logging
import math
from typing import Any

import imagecodecs
import numpy as np
from numpy.typing import NDArray
from PIL import Image
from tifffile import COMPRESSION, PHOTOMETRIC, TiffFile, TiffPage

from franca.data.store.images.bit_depth import to_bytes, to_rgb, turn_upright

# tifffile logs what it finds wrong with a file; the checks below refuse it instead.
logging.getLogger("tifffile").addHandler(logging.NullHandler())
logging.getLogger("tifffile").propagate = False

_ORIENTATION = 274
_INK_SET = 332
_CMYK = 1
_ASSOCIATED, _UNASSOCIATED = 1, 2
_UNSIGNED = 1
_KINDS = {2: "signed", 3: "floating-point", 4: "undefined", 5: "complex", 6: "complex"}
_COLORS: dict[int, int] = {PHOTOMETRIC.RGB: 3, PHOTOMETRIC.SEPARATED: 4}
_LIBTIFF = frozenset(
    {
        COMPRESSION.NONE, COMPRESSION.LZW, COMPRESSION.JPEG, COMPRESSION.ADOBE_DEFLATE, COMPRESSION.DEFLATE,
        COMPRESSION.PACKBITS, COMPRESSION.CCITTRLE, COMPRESSION.CCITTFAX3, COMPRESSION.CCITTFAX4, COMPRESSION.LZMA,
        COMPRESSION.ZSTD, COMPRESSION.WEBP,
    }
)  # fmt: skip


def decode_tiff(content: bytes) -> Image.Image:
    """Decode the first page of a TIFF or BigTIFF to upright 8-bit RGB.

    Gray, palette, RGB and CMYK of 1 to 16 unsigned bits a sample, and YCbCr of 8, with or without alpha.

    Raises:
        ValueError: The file is broken, or of another kind.
        Image.DecompressionBombError: It has more pixels than `Image.MAX_IMAGE_PIXELS`.
    """
    try:
        with TiffFile(io.BytesIO(content)) as file:
            page = file.pages.first
            assert isinstance(page, TiffPage)
            _check_size(page)
            _check_kind(page)
            _check_segments(page, len(content))
            image = _decode_ycbcr(content, page) if _is_raw_ycbcr(page) else _decode_samples(content, page)
            return turn_upright(image, page.tags.valueof(_ORIENTATION, 1))
    except (_Unsupported, Image.DecompressionBombError):
        raise
    # Wrong tags make tifffile and the codecs raise nearly anything. An absurd size that passes the checks above is the
    # file's fault as well, so the caller must not see a MemoryError.
    except Exception as error:
        reason = "no complete directory" if isinstance(error, LookupError) else str(error) or type(error).__name__
        raise ValueError(f"damaged, or a kind of TIFF that is not supported: {reason}") from None


class _Unsupported(ValueError):
    """The file is valid, but not of a kind that has one meaning as 8-bit RGB."""


def _check_size(page: TiffPage) -> None:
    """Raise if the page has no pixels, or more than are safe to decode."""
    if min(page.imagewidth, page.imagelength, page.samplesperpixel) < 1 or page.imagedepth != 1:
        raise _Unsupported(f"a TIFF of {page.imagewidth} x {page.imagelength} x {page.imagedepth} pixels")
    limit = Image.MAX_IMAGE_PIXELS or math.inf
    pixels = max(page.imagewidth * page.imagelength, page.tilewidth * page.tilelength)
    if pixels > limit:
        raise Image.DecompressionBombError(f"{pixels} pixels exceed the limit of {limit} pixels")


def _check_kind(page: TiffPage) -> None:
    """Raise if the samples cannot be taken for colors without guessing."""
    bits, kind, samples, photometric = page.bitspersample, page.sampleformat, page.samplesperpixel, page.photometric
    if page.is_reduced:
        raise _Unsupported("its first page is a preview of another page; save the image itself as the first page")
    if not isinstance(bits, int):
        raise _Unsupported(f"{', '.join(map(str, bits))} bits a sample; convert the image to 8 or 16 bits")
    if kind != _UNSIGNED:
        name = _KINDS.get(int(kind), f"SampleFormat {int(kind)}")
        raise _Unsupported(f"{name} {bits}-bit samples, whose range is unknown; convert them to unsigned 8 or 16 bits")
    if bits > 16:
        raise _Unsupported(f"{bits}-bit samples, whose range is unknown; convert them to 8 or 16 bits")
    if "PhotometricInterpretation" not in page.tags and page.compression != COMPRESSION.OJPEG:
        raise _Unsupported("a TIFF without PhotometricInterpretation, so that black may be white; set that tag")
    name = getattr(photometric, "name", str(photometric))
    if photometric in (PHOTOMETRIC.MINISWHITE, PHOTOMETRIC.MINISBLACK):
        fits = samples == 1 or (samples == 2 and _alpha_code(page) is not None)
    elif photometric == PHOTOMETRIC.PALETTE:
        fits = samples == 1 and page.colormap is not None
    elif photometric in _COLORS:
        fits = samples >= _COLORS[photometric]
    elif photometric == PHOTOMETRIC.YCBCR:
        fits = samples == 3
    else:
        raise _Unsupported(f"colors of the kind {name}; convert the image to RGB or gray")
    if not fits:
        raise _Unsupported(f"{samples} samples a pixel with photometric {name}; convert the image to RGB or gray")
    if photometric == PHOTOMETRIC.SEPARATED and page.tags.valueof(_INK_SET, _CMYK) != _CMYK:
        raise _Unsupported("inks other than CMYK; convert the image to RGB")


def _check_segments(page: TiffPage, length: int) -> None:
    """Raise if a strip or tile is missing: tifffile would fill it with zeros, or guess where it is."""
    offsets, counts = page.dataoffsets, page.databytecounts
    if not len(offsets) == len(counts) == math.prod(page.chunked):
        raise ValueError(f"{len(offsets)} strips or tiles instead of {math.prod(page.chunked)}")
    if not all(offsets) or not all(counts):
        raise ValueError("strips or tiles are missing")
    if any(offset + count > length for offset, count in zip(offsets, counts, strict=True)):
        raise ValueError("truncated")


def _is_raw_ycbcr(page: TiffPage) -> bool:
    """Return whether the samples would stay YCbCr; those of JPEG are converted as they are decoded."""
    return page.photometric == PHOTOMETRIC.YCBCR and page.compression != COMPRESSION.JPEG


def _decode_ycbcr(content: bytes, page: TiffPage) -> Image.Image:
    """Let libtiff convert YCbCr, with any subsampling, to RGB; not yet upright."""
    image = Image.fromarray(imagecodecs.tiff_decode(content, asrgb=True)).convert("RGB")
    # libtiff has mirrored the image as far as the orientation asks for it, but never exchanged its axes. Undo that.
    orientation = page.tags.valueof(_ORIENTATION, 1)
    return turn_upright(image, orientation - 4 if orientation > 4 else orientation)


def _decode_samples(content: bytes, page: TiffPage) -> Image.Image:
    """Decode to RGB, not yet upright."""
    if page.compression in _LIBTIFF and page.photometric != PHOTOMETRIC.SEPARATED:
        samples = imagecodecs.tiff_decode(content)
    else:
        samples = page.asarray(maxworkers=1)
    if samples.shape != page.shape:
        raise ValueError(f"{samples.shape} samples instead of {page.shape}")
    if samples.dtype == bool:
        samples = samples.view(np.uint8)
    if samples.ndim == 2:
        samples = samples[..., None]
    elif page.axes == "SYX":
        samples = np.moveaxis(samples, 0, 2)
    depth = int(page.bitspersample)
    if page.photometric == PHOTOMETRIC.PALETTE:
        return to_rgb(_apply_palette(samples[..., 0], page))
    values = to_bytes(samples, depth)
    colors, alpha = _split_alpha(values, page)
    if page.photometric == PHOTOMETRIC.MINISWHITE:
        colors = 255 - colors
    if page.photometric == PHOTOMETRIC.SEPARATED:
        colors = np.asarray(Image.fromarray(np.ascontiguousarray(colors), mode="CMYK").convert("RGB"))
    if alpha is None:
        return to_rgb(colors)
    if _alpha_code(page) == _ASSOCIATED:
        # Already multiplied by alpha: what is missing to an opaque pixel is white.
        return to_rgb(np.minimum(colors + (255 - alpha.astype(np.uint16)), 255).astype(np.uint8))
    return to_rgb(np.concatenate([colors, alpha], axis=2))


def _split_alpha(values: NDArray[np.uint8], page: TiffPage) -> tuple[NDArray[np.uint8], NDArray[np.uint8] | None]:
    """Return the color samples and the alpha samples (H, W, 1), if there are any; further samples are left out."""
    count = 3 if page.photometric == PHOTOMETRIC.YCBCR else _COLORS.get(page.photometric, 1)
    alpha = values[..., count : count + 1] if _alpha_code(page) is not None else None
    return values[..., :count], alpha


def _alpha_code(page: TiffPage) -> int | None:
    """Return what ExtraSamples says of the first sample after the colors if it is alpha, else None.

    RGB with four samples and no ExtraSamples counts as RGBA, as other readers have it.
    """
    extra = page.extrasamples
    if not extra:
        return _UNASSOCIATED if page.photometric == PHOTOMETRIC.RGB and page.samplesperpixel == 4 else None
    return int(extra[0]) if int(extra[0]) in (_ASSOCIATED, _UNASSOCIATED) else None


def _apply_palette(indices: NDArray[Any], page: TiffPage) -> NDArray[np.uint8]:
    """Look the colors up; a map of 16-bit values may hold 8-bit ones, which libtiff recognizes likewise."""
    colors = np.asarray(page.colormap)
    depth = 16 if colors.max() > 255 else 8
    return to_bytes(colors, depth).T[indices]
