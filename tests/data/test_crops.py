import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from franca.data.views.crops import ASPECT, BOX_DRAWS, ORIENTATION_DRAWS, cut, orient, random_boxes


def make_image(width: int = 32, height: int = 32) -> Image.Image:
    return Image.fromarray(np.random.default_rng(1).integers(0, 256, (height, width, 3), dtype=np.uint8))


def make_boxes(
    size: tuple[int, int], count: int, scale: tuple[float, float] = (0.1, 0.3), seed: int = 0
) -> NDArray[np.float64]:
    uniform = np.random.default_rng(seed).random((BOX_DRAWS, count))
    return random_boxes(uniform, size, np.array([scale] * count))


@pytest.mark.parametrize("size", [(64, 64), (100, 40)])
def test_boxes_lie_within_the_image_and_have_the_asked_area(size: tuple[int, int]) -> None:
    left, upper, right, lower = make_boxes(size, 2000).T
    width, height = right - left, lower - upper
    assert (left >= 0).all() and (upper >= 0).all() and (right <= size[0]).all() and (lower <= size[1]).all()
    share, aspect = width * height / (size[0] * size[1]), width / height
    assert 0.1 <= share.min() < 0.11 and 0.29 < share.max() <= 0.3 + 1e-9
    assert ASPECT[0] <= aspect.min() < 0.76 and 1.32 < aspect.max() <= ASPECT[1]


def test_area_is_uniform_aspect_log_uniform_and_the_place_anywhere() -> None:
    """In a large square every first try fits."""
    left, upper, right, lower = make_boxes((100, 100), 4000, (0.1, 0.3)).T
    width, height = right - left, lower - upper
    low, high = np.log(ASPECT)
    for uniform in (
        (width * height / 1e4 - 0.1) / 0.2,
        (np.log(width / height) - low) / (high - low),
        left / (100 - width),
        upper / (100 - height),
    ):
        gaps = np.sort(uniform) - (np.arange(4000) + 0.5) / 4000
        assert np.abs(gaps).max() < 1.95 / np.sqrt(4000)  # Kolmogorov-Smirnov, 0.1 %


def test_the_first_try_that_fits_is_taken() -> None:
    """In an image twice as wide as high, half of its area fits where the aspect is at least 1."""
    uniform = np.full((BOX_DRAWS, 1), 0.5)
    uniform[10:13, 0] = (0.0, 0.8, 0.9)
    (box,) = random_boxes(uniform, (80, 40), np.array([[0.5, 0.5]]))
    aspect = ASPECT[0] * (ASPECT[1] / ASPECT[0]) ** 0.8
    sides = np.sqrt([1600 * aspect, 1600 / aspect])
    np.testing.assert_allclose(box, [*(np.array([80, 40]) - sides) / 2, *(np.array([80, 40]) + sides) / 2])


def test_where_no_box_fits_the_largest_central_one_is_taken() -> None:
    assert make_boxes((1000, 30), 3, (1.0, 1.0)).tolist() == [[480, 0, 520, 30]] * 3


@pytest.mark.parametrize(("orientation", "count"), [("flip", 2), ("dihedral", 8)])
def test_every_orientation_comes_up_as_often(orientation: str, count: int) -> None:
    image = make_image()
    upright = np.asarray(image).transpose(2, 0, 1)
    turned = [np.rot90(upright, turns, axes=(1, 2)) for turns in range(4 if orientation == "dihedral" else 1)]
    allowed = {pixels.tobytes() for pixels in turned} | {pixels[:, :, ::-1].tobytes() for pixels in turned}
    uniform = np.random.default_rng(0).random((ORIENTATION_DRAWS, 800))
    boxes, transposed = orient(np.tile([0.0, 0.0, 32.0, 32.0], (800, 1)), uniform, orientation)
    seen = [crop.tobytes() for crop in cut(image, boxes, transposed, 32)]
    assert set(seen) == allowed and len(allowed) == count
    expected = 800 / count
    assert all(abs(seen.count(pixels) - expected) < 5 * np.sqrt(expected) for pixels in allowed)


def test_crops_of_one_image() -> None:
    image = make_image(50, 40)
    boxes, transposed = orient(make_boxes((50, 40), 3), np.ones((3, 3)), "dihedral")
    crops = cut(image, boxes, transposed, 16)
    assert crops.shape == (3, 3, 16, 16) and crops.dtype == np.uint8
    for crop, box in zip(crops, boxes, strict=True):
        expected = image.resize((16, 16), Image.Resampling.BICUBIC, box=tuple(box))
        assert (crop == np.asarray(expected).transpose(2, 0, 1)).all()
    assert cut(image, boxes[:0], transposed[:0], 16).shape == (0, 3, 16, 16)
