"""Image formats by file suffix and by first bytes."""

SUFFIXES = frozenset(
    {
        ".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".apng", ".webp", ".tif", ".tiff", ".bmp", ".gif", ".pbm", ".pgm",
        ".ppm", ".pnm", ".pfm", ".jp2", ".j2k", ".j2c", ".jpc", ".jpf", ".jpx", ".avif", ".heic", ".heif", ".hif",
    }
)  # fmt: skip
# Listed one by one: other readers of Pillow start foreign programs (EPS), read formats that are not pictures, or take
# nearly any bytes for an image (TGA).
FORMATS = ("JPEG", "PNG", "WEBP", "TIFF", "BMP", "GIF", "PPM", "JPEG2000", "AVIF", "HEIF")
MAGIC_BYTES = 64
"""How many first bytes `looks_like_image` needs."""

_PREFIXES = {
    b"\xff\xd8\xff": "JPEG",
    b"\x89PNG\r\n\x1a\n": "PNG",
    b"II*\0": "TIFF",
    b"MM\0*": "TIFF",
    b"II+\0": "TIFF",
    b"MM\0+": "TIFF",
    b"GIF87a": "GIF",
    b"GIF89a": "GIF",
    b"\xff\x4f\xff\x51": "JPEG2000",
    b"\0\0\0\x0cjP  \r\n\x87\n": "JPEG2000",
    b"BM": "BMP",
}
_AVIF_BRANDS = frozenset({b"avif", b"avis"})
_HEIF_BRANDS = frozenset({b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm", b"hevs", b"mif1", b"msf1"})
_BMP_HEADERS = frozenset({12, 16, 40, 52, 56, 64, 108, 124})


def format_of(content: bytes) -> str | None:
    """Return the entry of `FORMATS` that the first bytes belong to, or None."""
    for prefix, name in _PREFIXES.items():
        if content.startswith(prefix):
            return name
    if content[:4] == b"RIFF" and content[8:12] == b"WEBP":
        return "WEBP"
    # P1 to P6 are the integer formats; PF and Pf hold floats and are recognized so that they are refused by name.
    if content[:1] == b"P" and content[1:2] in b"123456Ff" and content[2:3] in b" \t\r\n#" and len(content) > 2:
        return "PPM"
    if content[4:8] == b"ftyp":
        return _format_of_brands(content)
    return None


def looks_like_image(first_bytes: bytes) -> bool:
    """Return whether a file that starts with these bytes is an image.

    Use it for files without a suffix. Pass at least `MAGIC_BYTES` bytes, or the whole file if it is shorter.
    """
    name = format_of(first_bytes)
    if name == "BMP":
        # Two letters are too little to tell: check the reserved field and the length of the second header as well.
        return first_bytes[6:10] == bytes(4) and int.from_bytes(first_bytes[14:18], "little") in _BMP_HEADERS
    return name is not None


def _format_of_brands(content: bytes) -> str | None:
    """Return AVIF or HEIF if the brands of an ISO media file say so; a video has neither."""
    end = min(int.from_bytes(content[:4], "big"), len(content))
    brands = {content[8:12]} | {content[start : start + 4] for start in range(16, end, 4)}
    if brands & _AVIF_BRANDS:
        return "AVIF"
    return "HEIF" if brands & _HEIF_BRANDS else None
