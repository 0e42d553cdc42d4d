"""Samples of any depth become 8-bit RGB by the file's own tags, or are refused with the true reason."""

import io
from collections.abc import Callable

import imagecodecs
import numpy as np
import pytest
import tifffile
from numpy.typing import NDArray
from PIL import Image

from benchmarks.decoding.cases import upright
from benchmarks.decoding.writers import png, pnm, tiff, tiff_exif
from franca.data.store.images.decode import decode, refusal

RGB = np.random.default_rng(0).integers(0, 256, (24, 40, 3), dtype=np.uint8)


def pixels(content: bytes | bytearray) -> NDArray[np.uint8]:
    image = decode(bytes(content))
    assert image.mode == "RGB"
    return np.asarray(image)


def ramp(bits: int) -> NDArray[np.uint16]:
    """All values of up to 12 bits, or as many of more; (16, W, 1)."""
    return np.linspace(0, (1 << bits) - 1, 4096).round().astype(np.uint16).reshape(16, -1, 1)


def expected(samples: NDArray[np.uint16], bits: int) -> NDArray[np.uint8]:
    largest = (1 << bits) - 1
    return (samples >> (bits - 8) if bits >= 8 else np.rint(samples * (255 / largest))).astype(np.uint8)


def reason(content: bytes) -> str:
    with pytest.raises(Exception) as caught:
        decode(content)
    assert isinstance(caught.value, Exception)
    line = refusal(caught.value)
    assert "\n" not in line and "not an image of a known format" not in line
    return line


@pytest.mark.parametrize("bits", [1, 2, 4, 8, 10, 12, 14, 16])
@pytest.mark.parametrize("order", ["<", ">"])
def test_tiff_of_any_depth(bits: int, order: str) -> None:
    samples = ramp(bits)
    wanted = expected(samples, bits)
    for content in (
        tiff(samples, bits, 1, order=order),
        tiff(samples, bits, 1, order=order, big=True, rows=5),
        tiff((1 << bits) - 1 - samples, bits, 0, order=order, tile=16),
        tiff(samples.repeat(3, axis=2), bits, 2, order=order),
        tiff(samples.repeat(3, axis=2), bits, 2, order=order, planar=True, rows=7),
    ):
        assert np.abs(pixels(content).astype(int) - wanted).max() <= 1
    assert pixels(tiff(samples, bits, 1))[0, 0, 0] == 0 and pixels(tiff(samples, bits, 1))[-1, -1, 0] == 255


@pytest.mark.parametrize("bits", [1, 4, 7, 8, 9, 10, 12, 15, 16])
@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_jpeg_2000_of_any_depth(bits: int, channels: int) -> None:
    gray = ramp(bits).astype(np.uint16 if bits > 8 else np.uint8)
    opaque = np.full_like(gray, (1 << bits) - 1)
    samples = np.concatenate([gray] * (1 if channels < 3 else 3) + [opaque] * (channels in (2, 4)), axis=2)
    content = imagecodecs.jpeg2k_encode(samples.squeeze(), 0, bitspersample=bits, reversible=True)
    assert np.abs(pixels(content).astype(int) - expected(gray.astype(np.uint16), bits)).max() <= 1


def test_a_saturated_patch_of_12_bits_is_white() -> None:
    samples = np.full((64, 64, 3), 1000, dtype=np.uint16)
    samples[16:48, 16:48] = 4095
    image = pixels(imagecodecs.jpeg2k_encode(samples, 0, bitspersample=12, reversible=True))
    assert (image[16:48, 16:48] == 255).all() and (image[:16] == 62).all()


@pytest.mark.parametrize("interlaced", [False, True])
def test_the_transparent_color_of_a_deep_png_is_white(interlaced: bool) -> None:
    rgb = np.array([[[2561, 5122, 7683], [2561, 5122, 7684], [10240, 12800, 15360]]], dtype=np.uint16)
    content = png(rgb, 16, 2, key=rgb[0, 0].astype(">u2").tobytes(), interlaced=interlaced)
    assert pixels(content).tolist() == [[[255, 255, 255], [10, 20, 30], [40, 50, 60]]]
    gray = np.array([[[2561], [2562], [65535]]], dtype=np.uint16)
    content = png(gray, 16, 0, key=(2561).to_bytes(2, "big"), interlaced=interlaced)
    assert pixels(content)[0, :, 0].tolist() == [255, 10, 255]


@pytest.mark.parametrize("bits", [1, 2, 4, 8])
def test_the_transparent_gray_of_a_shallow_png_is_white(bits: int) -> None:
    gray = np.arange(min(1 << bits, 16), dtype=np.uint8)[None, :, None]
    wanted = expected(gray.astype(np.uint16), bits)[0, :, 0]
    for key in gray.ravel().tolist():
        found = pixels(png(gray, bits, 0, key=key.to_bytes(2, "big"), exif=2))[0, ::-1, 0]
        assert found.tolist() == np.where(gray[0, :, 0] == key, 255, wanted).tolist()


def test_pgm_and_ppm_are_scaled_from_their_largest_value() -> None:
    for largest in (1, 7, 100, 255, 1000, 1023, 65535):
        gray = np.array([[[0], [largest // 2], [largest]]])
        middle = largest // 2 / largest * 255
        for samples in (gray, gray.repeat(3, axis=2)):
            for plain in (False, True):
                found = pixels(pnm(samples, largest, plain=plain))[0, :, 0]
                assert found[[0, 2]].tolist() == [0, 255] and abs(found[1] - middle) <= 1


def test_alpha_of_a_tiff() -> None:
    """Alpha is unassociated, associated or no alpha at all, as ExtraSamples says."""
    samples = np.array([[[200, 100, 50, 255], [100, 50, 0, 128], [0, 0, 0, 0]]], dtype=np.uint8)
    for depth, factor in ((8, 1), (16, 257)):
        values = samples.astype(np.uint16) * factor
        loose = pixels(tiff(values, depth, 2, extra=[2]))[0]
        assert np.abs(loose.astype(int) - [[200, 100, 50], [177, 152, 127], [255, 255, 255]]).max() <= 1
        bound = pixels(tiff(values, depth, 2, extra=[1]))[0]
        assert np.abs(bound.astype(int) - [[200, 100, 50], [227, 177, 127], [255, 255, 255]]).max() <= 1
        assert pixels(tiff(values, depth, 2, extra=[0]))[0].tolist() == samples[0, :, :3].tolist()
        gray = pixels(tiff(values[..., 2:], depth, 1, extra=[2]))[0, :, 0]
        assert np.abs(gray.astype(int) - [50, 127, 255]).max() <= 1


@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientation_is_applied_once(orientation: int) -> None:
    """In every format that carries one, whichever library decodes it."""
    exif = tiff_exif(orientation)
    image = Image.fromarray(RGB)
    wanted = upright(RGB, orientation)

    def save(format: str, **options: object) -> bytes:
        buffer = io.BytesIO()
        image.save(buffer, format, exif=exif, **options)
        return buffer.getvalue()

    deep = RGB.astype(np.uint16) * 257
    for content in (
        save("PNG"),
        save("WEBP", lossless=True),
        png(deep, 16, 2, exif=orientation),
        png(deep, 16, 2, key=bytes(6), exif=orientation),
        tiff(RGB, 8, 2, orientation=orientation),
        tiff(deep, 16, 2, orientation=orientation, planar=True),
    ):
        assert (pixels(content) == wanted).all()
    buffer = io.BytesIO()
    image.convert("YCbCr").save(buffer, "TIFF", tiffinfo={274: orientation})
    for content, limit in ((buffer.getvalue(), 3), (save("AVIF", quality=100, subsampling="4:4:4"), 20)):
        assert np.abs(pixels(content).astype(int) - wanted).mean() < limit


def test_palette_cmyk_and_pages_of_a_tiff() -> None:
    colors = np.random.default_rng(1).integers(0, 65536, (3, 16), dtype=np.uint16)
    indices = np.arange(16, dtype=np.uint8)[None, :, None]
    assert (pixels(tiff(indices, 4, 3, colors=colors))[0] == colors.T >> 8).all()
    small = (colors >> 8).astype(np.uint16)
    assert (pixels(tiff(indices, 4, 3, colors=small))[0] == small.T).all()
    inks = np.concatenate([255 - RGB, np.zeros_like(RGB[..., :1])], axis=2)
    assert (pixels(tiff(inks, 8, 5)) == RGB).all()
    assert (pixels(tiff(inks.astype(np.uint16) * 257, 16, 5, planar=True)) == RGB).all()
    buffer = io.BytesIO()
    Image.fromarray(RGB).save(buffer, "TIFF", save_all=True, append_images=[Image.new("RGB", (9, 9))])
    assert (pixels(buffer.getvalue()) == RGB).all()


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (lambda: tiff(RGB[..., :1], 8, 1, kind=2), "signed 8-bit samples"),
        (lambda: tiff(ramp(15), 16, 1, kind=2), "signed 16-bit samples"),
        (lambda: tiff(ramp(16), 32, 1), "32-bit samples, whose range is unknown"),
        (lambda: tiff(ramp(16), 32, 1, kind=3), "floating-point 32-bit samples"),
        (lambda: tiff(ramp(16), 16, 1, kind=3), "floating-point 16-bit samples"),
        (lambda: tiff(ramp(8), 8, None), "without PhotometricInterpretation"),
        (lambda: tiff(RGB, 8, 8), "colors of the kind CIELAB"),
        (lambda: tiff(RGB, 8, 1, extra=[0, 0]), "3 samples a pixel with photometric MINISBLACK"),
        (lambda: tiff(RGB, 8, 2, tags={254: (4, [1])}), "first page is a preview"),
        (lambda: tiff(RGB, 8, 2, tags={259: (3, [34661])}), "kind of TIFF that is not supported"),
        (lambda: tiff(RGB, 8, 2)[:-700], "kind of TIFF that is not supported"),
        (lambda: b"PF\n4 4\n-1.0\n" + bytes(192), "floating-point samples"),
        (lambda: imagecodecs.jpeg2k_encode(np.zeros((8, 8), np.int16), 0), "signed samples"),
        (lambda: imagecodecs.jpeg8_encode(ramp(12)[..., 0], bitspersample=12), "cannot handle 12-bit layers"),
    ],
)
def test_the_reason_of_a_refusal_is_true(content: Callable[[], bytes], why: str) -> None:
    assert why in reason(content())


@pytest.mark.parametrize("codec", ["lzw", "deflate", "packbits", "zstd", "jpeg", None])
def test_a_damaged_tiff_is_refused_in_silence(codec: str | None, capfd: pytest.CaptureFixture[str]) -> None:
    buffer = io.BytesIO()
    tifffile.imwrite(buffer, RGB, photometric="rgb", compression=codec, rowsperstrip=8)
    whole = buffer.getvalue()
    rng = np.random.default_rng(0)
    for length in range(9, len(whole), max(len(whole) // 40, 1)):
        assert reason(whole[:length])
    for _ in range(100):
        content = bytearray(whole)
        for place in rng.integers(8, len(content), 8):
            content[place] = int(rng.integers(256))
        try:
            decode(bytes(content))
        except MemoryError:
            raise
        except Exception as error:
            assert refusal(error)
    assert capfd.readouterr() == ("", "")


def test_a_missing_strip_is_not_taken_for_black() -> None:
    content = bytearray(tiff(RGB, 8, 2, rows=12))
    with tifffile.TiffFile(io.BytesIO(content)) as file:
        place = file.pages.first.tags["StripByteCounts"].valueoffset
    content[place + 4 : place + 8] = bytes(4)
    assert "strips or tiles are missing" in reason(bytes(content))


@pytest.mark.parametrize("tile", [False, True])
def test_a_tiff_of_too_many_pixels_is_refused(tile: bool) -> None:
    width, height = (322, 323) if tile else (256, 257)
    with pytest.raises(Image.DecompressionBombError):
        decode(tiff(RGB, 8, 2, tags={width: (4, [1 << 20]), height: (4, [1 << 20])}, tile=16 * tile))
