"""Generated images of every format, depth, color space, layout and orientation, with the pixels they should give."""

import io
import itertools
from collections.abc import Iterator
from typing import Any, Literal, NamedTuple

import imagecodecs
import numpy as np
import pillow_heif
import tifffile
from numpy.typing import NDArray
from PIL import Image, ImageCms

from benchmarks.decoding.writers import Samples, bmp, png, pnm, tiff, tiff_exif

HEIGHT, WIDTH = 48, 64
DEPTHS = (1, 2, 4, 6, 8, 10, 12, 14, 16)


class Case(NamedTuple):
    """A generated file."""

    format: str
    kind: str
    """its property under test; files of one kind share a row of the table"""
    content: bytes
    pixels: NDArray[np.uint8] | None
    """upright RGB (H, W, 3), or None if the file must be refused"""
    tolerance: int = 1
    """largest difference in levels; more than 1 if the format is lossy"""


def all_cases() -> Iterator[Case]:
    """Yield all generated files."""
    for cases in (_jpeg, _png, _tiff, _compressed_tiff, _odd_tiff, _jpeg2000, _avif, _heic, _webp, _gif, _bmp, _pnm):
        yield from cases()


def ramp(bits: int, channels: int) -> Samples:
    """Return smooth samples (H, W, C) from 0 to the largest value, without symmetry in rows, columns or channels."""
    y, x = np.mgrid[0:HEIGHT, 0:WIDTH]
    parts = [x / (WIDTH - 1), (0.7 * x / (WIDTH - 1) + 0.3 * y / (HEIGHT - 1)), y / (HEIGHT - 1), 0.2 + 0 * x]
    values = np.stack(parts[:channels], axis=2)
    return np.rint(values * ((1 << bits) - 1)).astype(np.uint16 if bits > 8 else np.uint8)


def scaled(samples: Samples, bits: int) -> NDArray[np.uint8]:
    """Round to 8 bits; gray becomes RGB."""
    values = np.rint(samples.astype(np.float64) * 255 / ((1 << bits) - 1)).astype(np.uint8)
    return values.repeat(3, axis=2) if values.shape[2] == 1 else values


def over_white(colors: NDArray[np.uint8], alpha: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Blend colors (H, W, 3) over white."""
    weight = alpha / 255
    return np.rint(colors * weight + 255 * (1 - weight)).astype(np.uint8)


def upright(pixels: NDArray[np.uint8], orientation: int) -> NDArray[np.uint8]:
    """Apply an EXIF orientation, by the standard's table of the sides to which row 0 and column 0 belong."""
    if orientation > 4:
        pixels = pixels.swapaxes(0, 1)
    mirrored, flipped = orientation in (2, 3, 6, 7), orientation in (3, 4, 7, 8)
    return pixels[:: -1 if flipped else 1, :: -1 if mirrored else 1]


def _alpha(bits: int) -> Samples:
    """Return alpha (H, W, 1) that is opaque except for a transparent and a half-transparent patch."""
    largest = (1 << bits) - 1
    alpha = np.full((HEIGHT, WIDTH, 1), largest, dtype=np.uint16 if bits > 8 else np.uint8)
    alpha[:10, :20], alpha[20:, 30:] = 0, largest // 2
    return alpha


def _with_alpha(bits: int, channels: int) -> tuple[Samples, NDArray[np.uint8]]:
    colors, alpha = ramp(bits, channels), _alpha(bits)
    return np.concatenate([colors, alpha], axis=2), over_white(scaled(colors, bits), scaled(alpha, bits))


def _save(image: Image.Image, format: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format, **options)
    return buffer.getvalue()


def _jpeg8(data: Samples, **options: Any) -> bytes:
    return bytes(imagecodecs.jpeg8_encode(data, **options))


def _jpeg2k(data: NDArray[Any], level: int, **options: Any) -> bytes:
    return bytes(imagecodecs.jpeg2k_encode(data, level, **options))


def _exif(orientation: int) -> bytes:
    return b"Exif\0\0" + tiff_exif(orientation)


def _jpeg() -> Iterator[Case]:
    rgb, gray = ramp(8, 3), ramp(8, 1)
    image = Image.fromarray(rgb)
    for orientation, subsampling, progressive in itertools.product(range(1, 9), (0, 1, 2), (False, True)):
        options = {"quality": 97, "subsampling": subsampling, "progressive": progressive}
        content = _save(image, "JPEG", exif=_exif(orientation), **options)
        yield Case("JPEG", "YCbCr, EXIF orientation", content, upright(rgb, orientation), 12)
        content = _save(Image.fromarray(gray[..., 0]), "JPEG", exif=_exif(orientation), **options)
        yield Case("JPEG", "gray, EXIF orientation", content, upright(scaled(gray, 8), orientation), 8)
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    yield Case("JPEG", "ICC profile", _save(image, "JPEG", quality=97, subsampling=0, icc_profile=profile), rgb, 8)
    for quality in (90, 97):
        cmyk = np.concatenate([255 - rgb, np.zeros_like(gray)], axis=2)
        adobe = _save(Image.fromarray(cmyk, mode="CMYK"), "JPEG", quality=quality)
        yield Case("JPEG", "CMYK and YCCK, Adobe (inverted)", adobe, rgb, 14)
        for stored in ("CMYK", "YCCK"):
            content = _jpeg8(255 - cmyk, level=quality, colorspace="CMYK", outcolorspace=stored)
            yield Case("JPEG", "CMYK and YCCK, Adobe (inverted)", content, rgb, 14)
        content = _jpeg8(rgb, level=quality, colorspace="RGB", outcolorspace="RGB")
        yield Case("JPEG", "RGB (Adobe transform 0)", content, rgb, 8)
    for bits, lossless in ((12, False), (12, True), (16, True)):
        content = _jpeg8(ramp(bits, 1)[..., 0], bitspersample=bits, lossless=lossless)
        yield Case("JPEG", "12 and 16 bits", content, None)
    yield Case("JPEG", "lossless, 8 bits", _jpeg8(rgb, lossless=True), rgb)


def _png() -> Iterator[Case]:
    orientations = itertools.cycle(range(1, 9))
    for bits in (1, 2, 4, 8, 16):
        gray = ramp(bits, 1)
        for orientation in range(1, 9):
            yield Case("PNG", "gray of 1, 2, 4, 8, 16 bits, EXIF orientation", png(gray, bits, 0, exif=orientation),
                       upright(scaled(gray, bits), orientation))  # fmt: skip
        for value in range(min(1 << bits, 16)):
            level = value * ((1 << bits) - 1) // 15 if bits > 4 else value
            orientation = next(orientations)
            pixels = np.where(gray == level, 255, scaled(gray, bits)).astype(np.uint8)
            for interlaced in (False, True):
                content = png(gray, bits, 0, key=level.to_bytes(2, "big"), exif=orientation, interlaced=interlaced)
                yield Case("PNG", "gray with tRNS", content, upright(pixels, orientation))
    for bits, orientation in itertools.product((8, 16), range(1, 9)):
        for color, channels, alpha in ((2, 3, False), (4, 1, True), (6, 3, True)):
            samples, pixels = _with_alpha(bits, channels) if alpha else (ramp(bits, 3), scaled(ramp(bits, 3), bits))
            name = {2: "RGB", 4: "gray and alpha", 6: "RGBA"}[color]
            content = png(samples, bits, color, exif=orientation)
            yield Case("PNG", f"{name} of 8 and 16 bits", content, upright(pixels, orientation))
        rgb = ramp(bits, 3)
        y, x = 3 * orientation, 5 * orientation
        hit = (rgb == rgb[y, x]).all(axis=2, keepdims=True)
        pixels = np.where(hit, 255, scaled(rgb, bits)).astype(np.uint8)
        for interlaced in (False, True):
            key = rgb[y, x].astype(">u2").tobytes()
            content = png(rgb, bits, 2, key=key, exif=orientation, interlaced=interlaced)
            yield Case("PNG", "RGB with tRNS", content, upright(pixels, orientation))
    for bits in (1, 2, 4, 8):
        colors = np.random.default_rng(bits).integers(0, 256, (1 << bits, 3), dtype=np.uint8)
        indices = ramp(bits, 1)
        for transparent in (0, 1, 2):
            opaque = np.full((len(colors), 1), 255, dtype=np.uint8)
            opaque[:transparent] = 0
            pixels = over_white(colors, opaque)[indices[..., 0]]
            content = png(indices, bits, 3, palette=colors.tobytes(), key=opaque[:transparent].tobytes())
            yield Case("PNG", "palette, with and without tRNS", content, pixels)
    frames = [Image.fromarray(ramp(8, 3)), Image.new("RGB", (WIDTH, HEIGHT))]
    yield Case("PNG", "animated", _save(frames[0], "PNG", save_all=True, append_images=frames[1:]), ramp(8, 3))


def _tiff() -> Iterator[Case]:
    orientations = itertools.cycle(range(1, 9))
    layouts: list[dict[str, Any]] = [{}, {"rows": 7}, {"tile": 32}]
    for bits, order, big, layout in itertools.product(DEPTHS, "<>", (False, True), layouts):
        shared = {"order": order, "big": big, **layout}
        gray, rgb, largest = ramp(bits, 1), ramp(bits, 3), (1 << bits) - 1
        for photometric, name in ((1, "BlackIsZero"), (0, "WhiteIsZero")):
            orientation = next(orientations)
            content = tiff(
                gray if photometric else largest - gray, bits, photometric, orientation=orientation, **shared
            )
            yield Case("TIFF", f"gray, {name}, 1 to 16 bits", content, upright(scaled(gray, bits), orientation))
        for planar in (False, True):
            orientation = next(orientations)
            content = tiff(rgb, bits, 2, planar=planar, orientation=orientation, **shared)
            yield Case("TIFF", "RGB, 1 to 16 bits", content, upright(scaled(rgb, bits), orientation))
            if bits in (8, 16):
                samples, pixels = _with_alpha(bits, 3)
                content = tiff(samples, bits, 2, planar=planar, orientation=orientation, extra=[2], **shared)
                yield Case("TIFF", "RGBA, 8 and 16 bits", content, upright(pixels, orientation))
                inks = np.concatenate([largest - rgb, np.zeros_like(gray)], axis=2)
                content = tiff(inks, bits, 5, planar=planar, orientation=orientation, **shared)
                yield Case("TIFF", "CMYK, 8 and 16 bits", content, upright(scaled(rgb, bits), orientation))
        if bits in (8, 16):
            samples, pixels = _with_alpha(bits, 1)
            content = tiff(samples, bits, 1, extra=[2], **shared)
            yield Case("TIFF", "gray and alpha, 8 and 16 bits", content, pixels)
            opaque = np.concatenate([rgb, np.zeros_like(gray)], axis=2)
            content = tiff(opaque, bits, 2, extra=[0], **shared)
            yield Case("TIFF", "RGB and a fourth sample of no meaning", content, scaled(rgb, bits))
            alpha = _alpha(bits).astype(np.float64) / largest
            multiplied = np.rint(np.concatenate([rgb * alpha, alpha * largest], axis=2)).astype(gray.dtype)
            pixels = over_white(scaled(rgb, bits), scaled(_alpha(bits), bits))
            yield Case("TIFF", "RGB multiplied by alpha", tiff(multiplied, bits, 2, extra=[1], **shared), pixels, 2)
        if bits <= 8:
            colors = np.random.default_rng(bits).integers(0, 1 << 16, (3, 1 << bits), dtype=np.uint16)
            content = tiff(gray, bits, 3, colors=colors, **shared)
            yield Case("TIFF", "palette", content, (colors.T >> 8).astype(np.uint8)[gray[..., 0]])


def _compressed_tiff() -> Iterator[Case]:
    codecs = ("lzw", "deflate", "packbits", "zstd", "lzma", "jpeg", "webp")
    orders: tuple[Literal["<", ">"], ...] = ("<", ">")
    options = itertools.product(codecs, (8, 16), (None, (16, 16)), (False, True), orders)
    for codec, bits, tile, predictor, order in options:
        if (codec in ("jpeg", "webp") and (bits == 16 or predictor)) or (codec == "packbits" and predictor):
            continue
        for channels, photometric in ((1, "minisblack"), (3, "rgb")):
            if codec == "webp" and channels == 1:
                continue
            samples = ramp(bits, channels)
            buffer = io.BytesIO()
            data = samples[..., 0] if channels == 1 else samples
            arguments = {"level": 97} if codec == "jpeg" else None
            tifffile.imwrite(buffer, data, photometric=photometric, compression=codec, compressionargs=arguments,
                             predictor=predictor, tile=tile, rowsperstrip=None if tile else 16, byteorder=order,
                             )  # fmt: skip
            tolerance = 12 if codec in ("jpeg", "webp") else 1
            yield Case("TIFF", f"compressed: {codec}", buffer.getvalue(), scaled(samples, bits), tolerance)
    bilevel = Image.fromarray((ramp(1, 1)[..., 0] * 255).astype(np.uint8)).convert("1")
    for codec in ("group3", "group4", "tiff_ccitt"):
        content = _save(bilevel, "TIFF", compression=codec)
        yield Case("TIFF", "compressed: CCITT fax", content, scaled(ramp(1, 1), 1))
    rgb = Image.fromarray(ramp(8, 3))
    for quality in (95, 97):
        content = _save(rgb, "TIFF", compression="jpeg", quality=quality)
        yield Case("TIFF", "compressed: jpeg", content, ramp(8, 3), 12)
    reverse = np.packbits(np.unpackbits(np.arange(256, dtype=np.uint8)[:, None], axis=1, bitorder="little"), axis=1)
    for bits in (1, 2, 4):
        samples = ramp(bits, 1)
        content = tiff(samples, bits, 1, tags={266: (3, [2])})
        end = 8 + HEIGHT * WIDTH * bits // 8
        turned = bytes(reverse[list(content[8:end]), 0])
        yield Case("TIFF", "FillOrder 2", content[:8] + turned + content[end:], scaled(samples, bits))
    for orientation in range(1, 9):
        content = _save(rgb.convert("YCbCr"), "TIFF", tiffinfo={274: orientation})
        yield Case("TIFF", "YCbCr, not compressed", content, upright(ramp(8, 3), orientation), 3)


def _odd_tiff() -> Iterator[Case]:
    gray, rgb = ramp(16, 1), ramp(8, 3)
    for order in "<>":
        for bits, kind, name in ((8, 2, "signed"), (16, 2, "signed"), (32, 1, "32 bits"), (32, 2, "32 bits")):
            yield Case("TIFF", f"{name} integers", tiff(gray % 128, bits, 1, kind=kind, order=order), None)
        for bits, channels in itertools.product((16, 32), (1, 3)):
            data = ramp(16, channels).astype(np.uint32)
            content = tiff(data, bits, 2 if channels == 3 else 1, kind=3, order=order)
            yield Case("TIFF", "floats", content, None)
        yield Case("TIFF", "samples of undefined format", tiff(gray, 16, 1, kind=4, order=order), None)
        preview = tiff(rgb, 8, 2, order=order, tags={254: (4, [1])})
        yield Case("TIFF", "first page is a preview", preview, None)
        yield Case("TIFF", "no PhotometricInterpretation", tiff(gray, 16, None, order=order), None)
        yield Case("TIFF", "CIELAB", tiff(rgb, 8, 8, order=order), None)
        for channels in (2, 4, 13):
            bands = np.concatenate([gray] * channels, axis=2)
            content = tiff(bands, 16, 1, extra=[0] * (channels - 1), order=order)
            yield Case("TIFF", "2, 4, 13 bands that are no colors", content, None)
        yield Case("TIFF", "inks other than CMYK", tiff(ramp(8, 4), 8, 5, order=order, tags={332: (3, [2])}), None)
    pages = [Image.fromarray(rgb), Image.new("RGB", (WIDTH, HEIGHT))]
    content = _save(pages[0], "TIFF", save_all=True, append_images=pages[1:])
    yield Case("TIFF", "several pages", content, rgb)


def _jpeg2000() -> Iterator[Case]:
    for bits, container in itertools.product((1, 2, 4, 7, *range(8, 17)), ("jp2", "j2k")):
        for channels, alpha in ((1, False), (3, False), (1, True), (3, True)):
            if alpha:
                samples, pixels = _with_alpha(bits, channels)
            else:
                samples, pixels = ramp(bits, channels), scaled(ramp(bits, channels), bits)
            data = samples[..., 0] if samples.shape[2] == 1 else samples
            for reversible, level in ((True, 0), (False, 60)):
                if not reversible and (bits < 8 or alpha):
                    continue
                content = _jpeg2k(data, level, bitspersample=bits, reversible=reversible, codecformat=container)
                name = ("gray", "RGB")[channels == 3] + (" and alpha" if alpha else "")
                depth = "8 bits" if bits == 8 else "1 to 7 bits" if bits < 8 else "9 to 16 bits"
                yield Case("JPEG 2000", f"{name}, {depth}", content, pixels, 1 if reversible else 4)
    for bits, channels in itertools.product((8, 16), (1, 3)):
        data = ramp(bits, channels).squeeze().astype(np.int16 if bits == 16 else np.int8)
        content = _jpeg2k(data, 0, reversible=True)
        yield Case("JPEG 2000", "signed", content, None)


def _avif() -> Iterator[Case]:
    for orientation in range(1, 9):
        for rgb, pixels in ((ramp(8, 3), ramp(8, 3)), _with_alpha(8, 3)):
            content = _save(Image.fromarray(rgb), "AVIF", quality=95, subsampling="4:4:4", exif=tiff_exif(orientation))
            kind = ("RGB" if rgb.shape[2] == 3 else "RGBA") + ", 8 bits"
            yield Case("AVIF", kind, content, upright(pixels, orientation), 14)
    for bits, level, alpha in itertools.product((10, 12), (90, 100), (False, True)):
        rgb, pixels = _with_alpha(bits, 3) if alpha else (ramp(bits, 3), scaled(ramp(bits, 3), bits))
        content = bytes(imagecodecs.avif_encode(rgb, level, bitspersample=bits, numthreads=1))
        yield Case("AVIF", "RGB, 10 and 12 bits", content, pixels, 14)


def _heic() -> Iterator[Case]:
    pillow_heif.register_heif_opener()
    for orientation in range(1, 9):
        for samples, pixels in ((ramp(8, 3), ramp(8, 3)), _with_alpha(8, 3)):
            image = Image.fromarray(samples)
            content = _save(image, "HEIF", quality=95, chroma=444, exif=tiff_exif(orientation))
            kind = ("RGB" if samples.shape[2] == 3 else "RGBA") + ", 8 bits"
            yield Case("HEIC", kind, content, upright(pixels, orientation), 16)
    rgb = ramp(16, 3)
    for quality in (90, 95):
        file = pillow_heif.from_bytes("RGB;16", (WIDTH, HEIGHT), rgb.tobytes())
        buffer = io.BytesIO()
        file.save(buffer, quality=quality, chroma=444)
        yield Case("HEIC", "RGB, 10 or 12 bits", buffer.getvalue(), scaled(rgb, 16), 16)


def _webp() -> Iterator[Case]:
    for orientation, lossless in itertools.product(range(1, 9), (True, False)):
        for samples, pixels in ((ramp(8, 3), ramp(8, 3)), _with_alpha(8, 3)):
            content = _save(
                Image.fromarray(samples), "WEBP", lossless=lossless, quality=95, exact=True, exif=_exif(orientation)
            )
            kind = "RGB" if samples.shape[2] == 3 else "RGBA"
            yield Case("WebP", kind, content, upright(pixels, orientation), 1 if lossless else 16)
    frames = [Image.fromarray(ramp(8, 3)), Image.new("RGB", (WIDTH, HEIGHT))]
    content = _save(frames[0], "WEBP", save_all=True, append_images=frames[1:], lossless=True)
    yield Case("WebP", "animated", content, ramp(8, 3))


def _gif() -> Iterator[Case]:
    for seed in range(8):
        colors = np.random.default_rng(seed).integers(0, 256, (256, 3), dtype=np.uint8)
        image = Image.fromarray(ramp(8, 1)[..., 0], mode="P")
        image.putpalette(colors.tobytes())
        pixels = colors[ramp(8, 1)[..., 0]]
        yield Case("GIF", "palette", _save(image, "GIF"), pixels)
        key = 16 * seed
        hit = ramp(8, 1) == key
        yield Case("GIF", "transparent color", _save(image, "GIF", transparency=key), np.where(hit, 255, pixels))
        other = image.transpose(Image.Transpose.ROTATE_180)
        yield Case("GIF", "animated", _save(image, "GIF", save_all=True, append_images=[other]), pixels)


def _bmp() -> Iterator[Case]:
    layouts: list[tuple[str, int, tuple[int, int, int, int], int]] = [
        ("16 bits, 5-5-5", 16, (0x7C00, 0x3E0, 0x1F, 0), 5),
        ("32 bits", 32, (0xFF0000, 0xFF00, 0xFF, 0), 8),
        ("32 bits with alpha", 32, (0xFF0000, 0xFF00, 0xFF, 0xFF000000), 8),
    ]
    for (kind, bits, masks, depth), upside_down, size in itertools.product(layouts, (True, False), (108, 124)):
        samples, pixels = ramp(depth, 3), scaled(ramp(depth, 3), depth)
        if masks[3]:
            samples, pixels = _with_alpha(8, 3)
        yield Case("BMP", kind, bmp(samples, masks, bits, size=size, upside_down=upside_down), pixels)
    for mode in ("1", "L", "P", "RGB"):
        image = Image.fromarray(ramp(8, 3)).convert(mode)
        yield Case("BMP", "1, 8, 24 bits", _save(image, "BMP"), np.asarray(image.convert("RGB")))


def _pnm() -> Iterator[Case]:
    for largest, channels, plain in itertools.product(
        (1, 7, 100, 255, 1000, 1023, 4095, 65535), (1, 3), (False, True)
    ):
        samples = np.rint(ramp(16, channels) / 65535 * largest).astype(np.uint16)
        pixels = np.rint(samples / largest * 255).astype(np.uint8)
        pixels = pixels.repeat(3, axis=2) if channels == 1 else pixels
        kind = ("PGM" if channels == 1 else "PPM") + (
            ", largest value 255" if largest == 255 else ", other largest values"
        )
        yield Case("PNM", kind, pnm(samples, largest, plain=plain), pixels)
    bits = ramp(1, 1)
    body = np.packbits(1 - bits[..., 0], axis=1).tobytes()
    yield Case("PNM", "PBM", f"P4 {WIDTH} {HEIGHT}\n".encode() + body, scaled(bits, 1))
    text = " ".join(map(str, (1 - bits).ravel().tolist()))
    yield Case("PNM", "PBM", f"P1 {WIDTH} {HEIGHT}\n{text}\n".encode(), scaled(bits, 1))
    for head, channels in (("Pf", 1), ("PF", 3)):
        data = ramp(8, channels).astype("<f4") / 255
        yield Case("PNM", "PFM (floats)", f"{head}\n{WIDTH} {HEIGHT}\n-1.0\n".encode() + data.tobytes(), None)
