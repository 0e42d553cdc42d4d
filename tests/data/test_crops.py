import math

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from scipy.ndimage import gaussian_filter

from franca.data.color import LUMA, apply_color, color_map, gaussian_blur
from franca.data.crops import multi_crop, random_box
from franca.params import Augment, Crops

Strengths = tuple[float, float, float, float]
STILL: Strengths = (0.0, 0.0, 0.0, 0.0)


def make_pixels(side: int = 8) -> NDArray[np.uint8]:
    """Colors (3, side, side) in the middle of the range, so that mild changes clip nothing."""
    return np.random.default_rng(0).integers(100, 156, (3, side, side), dtype=np.uint8)


def changed(
    strengths: Strengths, gray: bool = False, seed: int = 0
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Pixels in 0..1 before and after a random color change, (3, H W)."""
    pixels = make_pixels()
    color = color_map(pixels, strengths, gray, np.random.default_rng(seed)).astype(np.float64)
    before = pixels.reshape(3, -1) / 255
    return before, color[:, :3] @ before + color[:, 3:]


def make_augment(**changes: object) -> Augment:
    still = {
        "orientation": "flip",
        "jitter": STILL,
        "jitter_probability": 0.0,
        "gray_probability": 0.0,
        "blur_probability": (0.0, 0.0, 0.0),
        "solarize_probability": 0.0,
    }
    return Augment.model_validate(still | changes)


def make_crops(**changes: object) -> Crops:
    whole = {"global_scale": (1.0, 1.0), "local_count": 2, "local_size": 8, "local_scale": (0.1, 0.3)}
    return Crops.model_validate(whole | changes)


def make_image(width: int = 32, height: int = 32) -> Image.Image:
    return Image.fromarray(np.random.default_rng(1).integers(0, 256, (height, width, 3), dtype=np.uint8))


def test_no_strength_changes_nothing() -> None:
    before, after = changed(STILL)
    np.testing.assert_allclose(after, before, atol=1e-6)


def test_gray_has_equal_channels_and_keeps_luma() -> None:
    before, after = changed(STILL, gray=True)
    np.testing.assert_allclose(after, np.broadcast_to(LUMA @ before, after.shape), atol=1e-3)


@pytest.mark.parametrize("strengths", [(0.0, 0.0, 0.5, 0.0), (0.0, 0.0, 0.0, 0.5)], ids=["saturation", "hue"])
def test_saturation_and_hue_keep_luma(strengths: Strengths) -> None:
    before, after = changed(strengths)
    assert np.abs(after - before).max() > 0.01
    np.testing.assert_allclose(LUMA @ after, LUMA @ before, atol=1e-3)


def test_brightness_is_a_factor() -> None:
    before, after = changed((0.4, 0.0, 0.0, 0.0))
    factors = after / before
    np.testing.assert_allclose(factors, factors[0, 0], rtol=1e-5)
    assert 0.6 <= factors[0, 0] <= 1.4 and abs(factors[0, 0] - 1) > 0.01


def test_contrast_spreads_about_the_mean_luma() -> None:
    before, after = changed((0.0, 0.4, 0.0, 0.0))
    mean = (LUMA @ before).mean()
    np.testing.assert_allclose((LUMA @ after).mean(), mean, atol=1e-5)
    factors = (after - mean) / (before - mean)
    np.testing.assert_allclose(factors, factors[0, 0], rtol=1e-3)


def apply(color: NDArray[np.float32], sigma: float = 0.0, solarize: bool = False, side: int = 8) -> torch.Tensor:
    pixels = torch.from_numpy(make_pixels(side))[None]
    return apply_color(pixels, torch.from_numpy(color)[None], torch.tensor([sigma]), torch.tensor([solarize]))


IDENTITY = np.eye(3, 4, dtype=np.float32)


def test_unchanged_colors_are_the_pixels_in_0_to_1() -> None:
    torch.testing.assert_close(apply(IDENTITY)[0], torch.from_numpy(make_pixels()) / 255)


def test_changed_colors_stay_in_0_to_1() -> None:
    assert apply(IDENTITY * 3).max() == 1
    assert apply(-IDENTITY).max() == 0


def test_solarize_inverts_the_bright_half() -> None:
    plain = apply(IDENTITY)
    torch.testing.assert_close(apply(IDENTITY, solarize=True), torch.where(plain > 0.5, 1 - plain, plain))


def test_no_crops_at_all() -> None:
    empty = torch.zeros(0, 3, 8, 8, dtype=torch.uint8)
    assert apply_color(empty, torch.zeros(0, 3, 4), torch.zeros(0), torch.zeros(0) > 0).shape == (0, 3, 8, 8)


def test_blur_is_gaussian() -> None:
    images = torch.rand(3, 3, 20, 24, generator=torch.Generator().manual_seed(0))
    sigmas = torch.tensor([0.5, 1.0, 2.0])
    for image, sigma, got in zip(images, sigmas.tolist(), gaussian_blur(images, sigmas), strict=True):
        expected = gaussian_filter(image.numpy(), (0, sigma, sigma), mode="mirror", radius=6)
        np.testing.assert_allclose(got.numpy(), expected, atol=1e-5)


@pytest.mark.parametrize("side", [4, 16])
def test_blur_of_a_constant_and_with_no_width(side: int) -> None:
    constant = torch.full((2, 3, side, side), 0.3)
    torch.testing.assert_close(gaussian_blur(constant, torch.tensor([0.1, 2.0])), constant)
    noise = torch.rand(1, 3, side, side)
    torch.testing.assert_close(gaussian_blur(noise, torch.tensor([1e-2])), noise)


def test_blur_is_for_the_crops_that_ask_for_it() -> None:
    pixels = torch.from_numpy(np.stack([make_pixels(), make_pixels()]))
    colors = torch.from_numpy(IDENTITY).expand(2, 3, 4)
    still, blurred = apply_color(pixels, colors, torch.tensor([0.0, 1.0]), torch.tensor([False, False]))
    torch.testing.assert_close(still, pixels[0] / 255)
    assert blurred.std() < 0.7 * still.std()


def test_shapes_and_types_of_crops() -> None:
    crops = make_crops(global_scale=(0.4, 1.0), local_count=3)
    global_views, local_views = multi_crop(make_image(50, 40), 16, crops, make_augment(), np.random.default_rng(0))
    for views, count, side in ((global_views, 2, 16), (local_views, 3, 8)):
        assert views.pixels.shape == (count, 3, side, side) and views.pixels.dtype == np.uint8
        assert views.color.shape == (count, 3, 4) and views.color.dtype == np.float32
        assert views.sigma.shape == (count,) and views.sigma.dtype == np.float32
        assert views.solarize.shape == (count,) and views.solarize.dtype == np.bool_
    none = multi_crop(make_image(), 16, make_crops(local_count=0), make_augment(), np.random.default_rng(0))[1]
    assert none.pixels.shape == (0, 3, 8, 8) and none.color.shape == (0, 3, 4)
    assert none.sigma.shape == none.solarize.shape == (0,)


@pytest.mark.parametrize(("orientation", "count"), [("flip", 2), ("dihedral", 8)])
def test_every_orientation_comes_up(orientation: str, count: int) -> None:
    image = make_image()
    upright = np.asarray(image).transpose(2, 0, 1)
    turned = [np.rot90(upright, turns, axes=(1, 2)) for turns in range(4 if orientation == "dihedral" else 1)]
    allowed = {pixels.tobytes() for pixels in turned} | {pixels[:, :, ::-1].tobytes() for pixels in turned}
    rng = np.random.default_rng(0)
    crops, augment = make_crops(local_count=0), make_augment(orientation=orientation)
    seen = {view.tobytes() for _ in range(50) for view in multi_crop(image, 32, crops, augment, rng)[0].pixels}
    assert seen == allowed and len(seen) == count


def test_changes_come_as_often_as_asked() -> None:
    augment = make_augment(
        jitter=(0.4, 0.4, 0.2, 0.1),
        jitter_probability=0.5,
        blur_probability=(1.0, 0.0, 0.5),
        solarize_probability=1.0,
    )
    rng = np.random.default_rng(0)
    views = [multi_crop(make_image(), 8, make_crops(local_count=8), augment, rng) for _ in range(40)]
    global_sigma = np.stack([view.sigma for view, _ in views])
    assert (global_sigma[:, 0] >= 0.1).all() and (global_sigma[:, 0] <= 2).all() and (global_sigma[:, 1] == 0).all()
    assert all(view.solarize.tolist() == [False, True] for view, _ in views)
    local_sigma = np.stack([view.sigma for _, view in views])
    jittered = np.stack([np.abs(view.color - IDENTITY).max(axis=(1, 2)) > 1e-5 for _, view in views])
    for share in ((local_sigma > 0).mean(), jittered.mean()):
        assert abs(share - 0.5) < 5 * 0.5 / math.sqrt(320)


@pytest.mark.parametrize("size", [(64, 64), (100, 40)])
def test_boxes_lie_within_the_image_and_have_the_asked_area(size: tuple[int, int]) -> None:
    rng = np.random.default_rng(0)
    for _ in range(200):
        left, upper, right, lower = random_box(size, (0.1, 0.3), rng)
        width, height = right - left, lower - upper
        assert 0 <= left < right <= size[0] and 0 <= upper < lower <= size[1]
        assert 0.1 <= width * height / (size[0] * size[1]) <= 0.3 + 1e-9
        assert 3 / 4 <= width / height <= 4 / 3


def test_where_no_box_fits_the_largest_central_one_is_taken() -> None:
    box = random_box((1000, 30), (1.0, 1.0), np.random.default_rng(0))
    assert box == (480, 0, 520, 30)
