"""Bytes become upright 8-bit RGB, and the perceptual hash tells copies from other pictures."""

import io
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from franca.data.store.images.decode import decode, examine


def encode(image: Image.Image, format: str = "PNG", **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format, **options)
    return buffer.getvalue()


def pixels(content: bytes) -> NDArray[np.uint8]:
    image = decode(content)
    assert image.mode == "RGB"
    return np.asarray(image)


def test_16_bit_gray_is_scaled_from_its_full_range() -> None:
    values = np.array([[0, 256, 32768, 65535]], dtype=np.uint16)
    for format in ("PNG", "TIFF"):
        assert pixels(encode(Image.fromarray(values), format))[0, :, 0].tolist() == [0, 1, 128, 255]


@pytest.mark.parametrize("mode", ["I", "F"])
def test_32_bit_samples_are_refused(mode: str) -> None:
    with pytest.raises(ValueError, match="32-bit samples"):
        decode(encode(Image.new(mode, (4, 4)), "TIFF"))


def test_gray_cmyk_and_palette() -> None:
    assert pixels(encode(Image.new("L", (2, 2), 7)))[0, 0].tolist() == [7, 7, 7]
    assert pixels(encode(Image.new("1", (2, 2), 1)))[0, 0].tolist() == [255, 255, 255]
    palette = Image.new("RGB", (2, 2), (10, 200, 30)).convert("P", palette=Image.Palette.ADAPTIVE)
    assert pixels(encode(palette))[0, 0].tolist() == [10, 200, 30]
    cmyk = pixels(encode(Image.new("CMYK", (8, 8), (0, 255, 255, 0)), "JPEG", quality=100))
    assert np.abs(cmyk.astype(int) - [255, 0, 0]).max() < 4


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P", "RGB"])
def test_transparent_pixels_lie_on_white(mode: str) -> None:
    image = Image.new("RGBA", (2, 1), (200, 100, 50, 255))
    image.putpixel((1, 0), (0, 0, 0, 0))
    if mode == "P":
        content = encode(image.quantize(4), "PNG")
    elif mode == "RGB":
        content = encode(Image.new("RGB", (2, 1), (1, 2, 3)), transparency=(1, 2, 3))
    else:
        content = encode(image.convert(mode))
    assert pixels(content)[0, 1].tolist() == [255, 255, 255]


def test_exif_orientation_is_applied() -> None:
    image = Image.new("RGB", (40, 20), "red")
    exif = Image.Exif()
    exif[0x0112] = 6
    content = encode(image, "JPEG", exif=exif)
    assert decode(content).size == (20, 40)
    facts = examine(content)
    assert (facts.height, facts.width) == (40, 20)


@pytest.mark.parametrize("shrink", [2, 4, 8])
@pytest.mark.parametrize(("size", "orientation"), [((339, 241), 1), ((336, 240), 6), ((339, 241), 6), ((336, 241), 3)])
def test_a_jpeg_is_decoded_smaller(photo: Image.Image, shrink: int, size: tuple[int, int], orientation: int) -> None:
    """Not where a side is no multiple and EXIF turns it: the incomplete last pixels would become the first."""
    image, exif = photo.crop((0, 0, *size)), Image.Exif()
    exif[0x0112] = orientation
    content = encode(image, "JPEG", quality=95, exif=exif)
    small, whole = decode(content, shrink), decode(content)
    kept = orientation != 1 and size != (336, 240)
    expected = whole if kept else whole.reduce(shrink)
    assert small.size == expected.size
    assert np.abs(np.asarray(small).astype(int) - np.asarray(expected)).mean() < 3
    assert decode(encode(image), shrink).size == image.size


def test_first_frame_counts() -> None:
    frames = [Image.new("RGB", (4, 4), color) for color in ("red", "blue")]
    assert pixels(encode(frames[0], "GIF", save_all=True, append_images=frames[1:]))[0, 0].tolist() == [255, 0, 0]


def test_formats_that_start_other_programs_are_no_images() -> None:
    with pytest.raises(Image.UnidentifiedImageError):
        decode(encode(Image.new("RGB", (4, 4)), "EPS"))


def test_sums_of_an_image() -> None:
    content = encode(Image.new("RGB", (6, 5), (3, 100, 255)))
    assert examine(content).sums.tolist() == [[90, 3000, 7650], [270, 300_000, 1_950_750]]


def bits_apart(one: bytes, other: bytes) -> int:
    return (examine(one).perceptual_hash ^ examine(other).perceptual_hash).bit_count()


def test_hash_of_a_copy_is_near_and_of_another_picture_far(picture: Callable[..., bytes]) -> None:
    original = picture(0, (160, 140))
    assert bits_apart(original, picture(0, (160, 140), format="JPEG", quality=80)) <= 2
    assert bits_apart(original, picture(0, (80, 70), format="WEBP", quality=90)) <= 2
    assert min(bits_apart(original, picture(seed, (160, 140))) for seed in range(1, 50)) > 8


def test_hash_tells_flat_pictures_apart() -> None:
    """Water: all of one color but for a noise of less than a gray level after averaging."""
    rng = np.random.default_rng(0)
    noise = rng.integers(-2, 3, (50, 64, 64, 3))
    hashes = [examine(encode(Image.fromarray((n + 90).astype(np.uint8)))).perceptual_hash for n in noise]
    apart = [(one ^ other).bit_count() for i, one in enumerate(hashes) for other in hashes[:i]]
    assert min(apart) > 2


def test_hash_of_constant_pictures_tells_colors_and_sizes_do_not_matter() -> None:
    colors = ("black", "white", "gray", "red", "blue", "green", "yellow")
    hashes = {color: examine(encode(Image.new("RGB", (64, 64), color))).perceptual_hash for color in colors}
    assert len(set(hashes.values())) == len(colors)
    for size in ((1, 1), (3, 500), (333, 217)):
        assert examine(encode(Image.new("RGB", size, "red"))).perceptual_hash == hashes["red"]
