import math

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter
from torch import Tensor

from franca.data.views.color import COLOR_DRAWS, LUMA, SIGMA, Color, apply_color, gaussian_blur, random_color
from franca.params import Augment

Strengths = tuple[float, float, float, float]
STILL: Strengths = (0.0, 0.0, 0.0, 0.0)


def make_pixels(count: int = 1, side: int = 8) -> Tensor:
    """Colors (count, 3, side, side) in the middle of the range, so that mild changes clip nothing."""
    pixels = np.random.default_rng(0).integers(100, 156, (count, 3, side, side), dtype=np.uint8)
    return torch.from_numpy(pixels)


def make_augment(**changes: object) -> Augment:
    still = {
        "orientation": "flip",
        "jitter": STILL,
        "jitter_probability": 1.0,
        "gray_probability": 0.0,
        "blur_probability": (0.0, 0.0, 0.0),
        "solarize_probability": 0.0,
    }
    return Augment.model_validate(still | changes)


def changed(**changes: object) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Pixels in 0..1 before and after random color changes, (16, 3, H W)."""
    uniform = np.random.default_rng(0).random((COLOR_DRAWS, 16, 1))
    pixels = make_pixels(16)
    after = apply_color(pixels, random_color(uniform, make_augment(**changes), [0.0], [0.0]))
    return pixels.flatten(2).numpy() / 255, after.flatten(2).double().numpy()


def luma(pixels: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.einsum("c,ncp->np", LUMA, pixels)


def test_no_strength_changes_nothing() -> None:
    before, after = changed()
    np.testing.assert_allclose(after, before, atol=1e-6)


def test_gray_has_equal_channels_and_keeps_luma() -> None:
    before, after = changed(gray_probability=1.0)
    np.testing.assert_allclose(after, np.broadcast_to(luma(before)[:, None], after.shape), atol=1e-3)


@pytest.mark.parametrize("jitter", [(0.0, 0.0, 0.5, 0.0), (0.0, 0.0, 0.0, 0.5)], ids=["saturation", "hue"])
def test_saturation_and_hue_keep_luma(jitter: Strengths) -> None:
    before, after = changed(jitter=jitter)
    assert (np.abs(after - before).max(axis=(1, 2)) > 0.001).all()
    np.testing.assert_allclose(luma(after), luma(before), atol=1e-3)


def test_half_a_turn_of_the_hue_gives_the_opposite_color() -> None:
    uniform = np.full((COLOR_DRAWS, 1, 1), 0.5)
    uniform[-1] = 1.0
    pixels = make_pixels()
    after = apply_color(pixels, random_color(uniform, make_augment(jitter=(0.0, 0.0, 0.0, 0.5)), [0.0], [0.0]))
    before = pixels.flatten(2).numpy() / 255
    gray = luma(before)[:, None]
    np.testing.assert_allclose(after.flatten(2), 2 * gray - before, atol=2e-3)


def test_brightness_is_a_factor() -> None:
    before, after = changed(jitter=(0.4, 0.0, 0.0, 0.0))
    factors = (after / before).reshape(16, -1)
    np.testing.assert_allclose(factors, factors[:, :1].repeat(factors.shape[1], axis=1), rtol=1e-5)
    assert 0.6 <= factors.min() < 0.75 and 1.25 < factors.max() <= 1.4


def test_contrast_spreads_about_the_mean_luma() -> None:
    before, after = changed(jitter=(0.0, 0.4, 0.0, 0.0))
    mean = luma(before).mean(axis=1)
    np.testing.assert_allclose(luma(after).mean(axis=1), mean, atol=1e-5)
    factors = ((after - mean[:, None, None]) / (before - mean[:, None, None])).reshape(16, -1)
    np.testing.assert_allclose(factors, np.median(factors, axis=1, keepdims=True).repeat(192, axis=1), rtol=1e-2)
    assert 0.6 <= np.median(factors, axis=1).min() < 0.75 and 1.25 < np.median(factors, axis=1).max() <= 1.4 + 1e-3


def test_changes_come_as_often_as_asked() -> None:
    uniform = np.random.default_rng(0).random((COLOR_DRAWS, 400, 3))
    augment = make_augment(jitter=(0.4, 0.4, 0.2, 0.1), jitter_probability=0.3)
    color = random_color(uniform, augment, [1.0, 0.0, 0.5], [0.0, 0.2, 0.0])
    assert color.matrix.shape == (1200, 3, 3) and color.pull.shape == (1200,)
    jittered = (color.matrix - torch.eye(3)).abs().amax(dim=(1, 2)) > 1e-4
    blurred, solarized = (torch.zeros(1200).index_fill(0, rows, 1) for rows in (color.blurred, color.solarized))
    for share, expected in (
        (jittered.float().mean(), 0.3),
        *zip(blurred.view(3, 400).mean(dim=1), (1, 0, 0.5), strict=True),
        *zip(solarized.view(3, 400).mean(dim=1), (0, 0.2, 0), strict=True),
    ):
        assert abs(float(share) - expected) <= 5 * math.sqrt(expected * (1 - expected) / 400)
    assert color.sigma.shape == color.blurred.shape
    assert SIGMA[0] <= color.sigma.min() < 0.2 and 1.9 < color.sigma.max() <= SIGMA[1]


def test_crops_of_an_image_lie_a_batch_apart() -> None:
    """The second image's third crop alone is gray."""
    uniform = np.full((COLOR_DRAWS, 2, 3), 0.5)
    uniform[1, 1, 2] = 0.0
    color = random_color(uniform, make_augment(gray_probability=0.1), [0.0] * 3, [0.0] * 3)
    gray = (color.matrix[:, 0] - color.matrix[:, 1]).abs().amax(dim=1) < 1e-6
    assert gray.tolist() == [False] * 5 + [True]


def apply(matrix: Tensor, sigma: float | None = None, solarize: bool = False) -> Tensor:
    rows = [torch.arange(int(asked)) for asked in (sigma is not None, solarize)]
    color = Color(matrix[None], torch.zeros(1), rows[0], torch.tensor([sigma] if sigma else []), rows[1])
    return apply_color(make_pixels(), color)[0]


def test_unchanged_colors_are_the_pixels_in_0_to_1() -> None:
    torch.testing.assert_close(apply(torch.eye(3)), make_pixels()[0] / 255)


def test_changed_colors_stay_in_0_to_1() -> None:
    assert apply(3 * torch.eye(3)).max() == 1
    assert apply(-torch.eye(3)).max() == 0


def test_solarize_inverts_the_bright_half() -> None:
    plain = apply(torch.eye(3))
    torch.testing.assert_close(apply(torch.eye(3), solarize=True), torch.where(plain > 0.5, 1 - plain, plain))


def test_no_crops_at_all() -> None:
    color = random_color(np.zeros((COLOR_DRAWS, 4, 0)), make_augment(), [], [])
    assert apply_color(torch.zeros(0, 3, 8, 8, dtype=torch.uint8), color).shape == (0, 3, 8, 8)


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
    pixels = make_pixels().expand(2, 3, 8, 8)
    matrix = torch.eye(3).expand(2, 3, 3)
    none = torch.zeros(0, dtype=torch.int64)
    still, blurred = apply_color(pixels, Color(matrix, torch.zeros(2), torch.tensor([1]), torch.tensor([1.0]), none))
    torch.testing.assert_close(still, pixels[0] / 255)
    torch.testing.assert_close(blurred, gaussian_blur(pixels[:1] / 255, torch.tensor([1.0]))[0])
