"""Decode JPEG 2000 of other depths than 8 bits. Pillow decodes them wrong: its rounding wraps white to black."""

from PIL import Image

from franca.data.store.images.rgb import to_bytes, to_rgb

_START = b"\xff\x4f\xff\x51"
_GRAY_OR_RGB = (16, 17)
"""Enumerated color spaces: sRGB and gray."""


def is_plain(content: bytes) -> bool:
    """Return whether all components are unsigned with 8 bits, which Pillow decodes correctly.

    Raises:
        ValueError: The file has no complete header.
    """
    return set(_precisions(content)) == {(8, False)}


def decode_deep(content: bytes, mode: str) -> Image.Image:
    """Decode components of any depth to an 8-bit RGB image.

    Args:
        content: The bytes of the file.
        mode: The mode that Pillow finds in the file's header.

    Raises:
        ValueError: The components differ in depth or have a sign, or the color space is neither gray nor RGB.
    """
    precisions = sorted(set(_precisions(content)))
    if any(signed for _, signed in precisions):
        raise ValueError("signed samples, whose range is unknown; convert the image to unsigned 8 or 16 bits")
    if len(precisions) > 1:
        depths = ", ".join(str(depth) for depth, _ in precisions)
        raise ValueError(f"components of different depths ({depths} bits); convert the image to 8 bits")
    ((depth, _),) = precisions
    if depth > 16:
        raise ValueError(f"{depth} bits a sample; convert the image to 8 or 16 bits")
    if mode not in ("I;16", "L", "LA", "RGB", "RGBA") or not _is_gray_or_rgb(content):
        raise ValueError(f"{depth} bits a sample in a color space that is neither gray nor RGB; convert it to RGB")
    import imagecodecs

    try:
        samples = imagecodecs.jpeg2k_decode(content, planar=False, numthreads=1)
    except (RuntimeError, NotImplementedError) as error:
        raise ValueError(f"damaged, or a kind of JPEG2000 that is not supported: {error}") from None
    if samples.ndim not in (2, 3) or (samples.ndim == 3 and samples.shape[2] > 4):
        raise ValueError(f"samples of shape {samples.shape}; convert the image to RGB")
    return to_rgb(to_bytes(samples, depth))


def _precisions(content: bytes) -> list[tuple[int, bool]]:
    """Return bits and sign of each component, from the SIZ segment of the codestream."""
    start = content.find(_START)
    count = int.from_bytes(content[start + 40 : start + 42], "big")
    sizes = content[start + 42 : start + 42 + 3 * count : 3]
    if start < 0 or not count or len(sizes) < count:
        raise ValueError("damaged JPEG2000: no complete header")
    return [((size & 0x7F) + 1, bool(size & 0x80)) for size in sizes]


def _is_gray_or_rgb(content: bytes) -> bool:
    """Return whether no color box names another enumerated color space, such as sYCC."""
    header = content[: content.find(_START)]
    place = header.find(b"colr")
    if place < 0 or header[place + 4 : place + 5] != b"\1":
        return True
    return int.from_bytes(header[place + 7 : place + 11], "big") in _GRAY_OR_RGB
