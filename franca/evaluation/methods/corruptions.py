"""The corruptions of ImageNet-C (arXiv 1903.12261) at five levels, without frost, which needs photographs of frost.

The strengths are those of the paper for images of 224 pixels; lengths are scaled to the size of the images. Noise and
the other random parts have the distributions of the paper, not its random numbers, and "glass blur" replaces pixels by
neighbors instead of exchanging them. So errors are comparable between models here, not with published ones.
"""

import io
import math
from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from scipy.ndimage import gaussian_filter
from torch import Tensor
from torch.nn import functional as F

LEVELS = 5
NATIVE_SIDE = 224
Rng = np.random.Generator
Corruption = Callable[[Tensor, int, float, Rng], Tensor]
"""Maps images (N, 3, S, S) float32 in 0..1, a level 0..4, S / 224 and a generator to images before clipping."""


def corrupt(name: str, images: Tensor, level: int, seed: int = 0) -> Tensor:
    """Return corrupted images; the result depends on the arguments alone.

    Args:
        name: One of `CORRUPTIONS`.
        images: (N, 3, S, S) uint8, on the CPU.
        level: Severity, 1 to 5.
        seed: Seed of the random parts.

    Returns:
        (N, 3, S, S) uint8.
    """
    rng = np.random.default_rng((seed, list(CORRUPTIONS).index(name), level))
    found = CORRUPTIONS[name](images.float() / 255, level - 1, images.shape[-1] / NATIVE_SIDE, rng)
    return (found.clamp(0, 1) * 255).round().to(torch.uint8)


def _gaussian_noise(x: Tensor, level: int, scale: float, rng: Rng) -> Tensor:
    return x + (0.08, 0.12, 0.18, 0.26, 0.38)[level] * _normal(x.shape, rng)


def _shot_noise(x: Tensor, level: int, scale: float, rng: Rng) -> Tensor:
    photons = (60, 25, 12, 5, 3)[level]
    return torch.from_numpy(rng.poisson(x.numpy() * photons).astype(np.float32)) / photons


def _impulse_noise(x: Tensor, level: int, scale: float, rng: Rng) -> Tensor:
    share = (0.03, 0.06, 0.09, 0.17, 0.27)[level]
    draws = torch.from_numpy(rng.random(x.shape))
    return torch.where(draws < share / 2, 0.0, torch.where(draws < share, 1.0, x))


def _defocus_blur(x: Tensor, level: int, scale: float, rng: Rng) -> Tensor:
    radius, softness = ((3, 0.1), (4, 0.5), (6, 0.5), (8, 0.5), (10, 0.5))[level]
    reach = math.ceil(radius * scale) + 1
    rows, columns = _offsets(reach)
    # Pixels at the rim count in part, so that a radius need not be a whole number.
    disk = (radius * scale + 0.5 - torch.hypot(rows, columns)).clamp(0, 1)
    return _filter(_blur(x, softness * scale), (disk / disk.sum()).expand(len(x), -1, -1))


def _glass_blur(x: Tensor, level: int, scale: float, rng: Rng) -> Tensor:
    sigma, reach, rounds = ((0.7, 1, 2), (0.9, 2, 1), (1, 2, 3), (1.1, 3, 2), (1.5, 4, 2))[level]
    x, side, steps = _blur(x, sigma * scale), x.shape[-1], max(1, round(reach * scale))
    for _ in range(rounds):
        rows, columns = (
            (np.arange(side).reshape(shape) + rng.integers(-steps, steps + 1, (len(x), side, side))).clip(0, side - 1)
            for shape in ((side, 1), (1, side))
        )
        flat = torch.from_numpy(rows * side + columns).flatten(1)[:, None].expand(-1, 3, -1)
        x = x.flatten(2).gather(2, flat).unflatten(2, (side, side))
    return _blur(x, sigma * scale)


def _motion_blur(x: Tensor, level: int, scale: float, rng: Rng) -> Tensor:
    radius, sigma = ((10, 3), (15, 5), (15, 8), (15, 12), (20, 15))[level]
    return _filter(x, _lines(radius * scale, sigma * scale, rng.uniform(-45, 45, len(x))))


def _zoom_blur(x: Tensor, level: int, scale: float, rng: Rng) -> Tensor:
    last, step = ((1.11, 0.01), (1.16, 0.01), (1.21, 0.02), (1.26, 0.02), (1.31, 0.03))[level]
    factors = np.arange(1, last, step)
    return (x + sum(_zoom(x, float(factor)) for factor in factors)) / (len(factors) + 1)


def _snow(x: Tensor, level: int, scale: float, rng: Rng) -> Tensor:
    mean, std, zoom, threshold, radius, sigma, share = (
        (0.1, 0.3, 3, 0.5, 10, 4, 0.8),
        (0.2, 0.3, 2, 0.5, 12, 4, 0.7),
        (0.55, 0.3, 4, 0.9, 12, 8, 0.7),
        (0.55, 0.3, 4.5, 0.85, 12, 8, 0.65),
        (0.55, 0.3, 2.5, 0.85, 12, 12, 0.55),
    )[level]
    flakes = _zoom(mean + std * _normal((len(x), 1, *x.shape[2:]), rng), zoom)
    flakes = torch.where(flakes < threshold, 0.0, flakes).clamp(0, 1).expand(-1, 3, -1, -1)
    flakes = _filter(flakes, _lines(radius * scale, sigma * scale, rng.uniform(-135, -45, len(x))))
    white = torch.maximum(x, _gray(x) * 1.5 + 0.5)
    return share * x + (1 - share) * white + flakes + flakes.flip(2, 3)


def _fog(x: Tensor, level: int, scale: float, rng: Rng) -> Tensor:
    strength, decay = ((1.5, 2.0), (2.0, 2.0), (2.5, 1.7), (2.5, 1.5), (3.0, 1.4))[level]
    clouds = torch.zeros(len(x), 1, *x.shape[2:])
    for octave in range(1, 1 + max(1, math.ceil(math.log2(x.shape[-1])))):
        cells = torch.from_numpy(rng.random((len(x), 1, 2**octave, 2**octave)).astype(np.float32))
        clouds += F.interpolate(cells, size=x.shape[2:], mode="bilinear", align_corners=True) / decay**octave
    low, high = clouds.amin((2, 3), keepdim=True), clouds.amax((2, 3), keepdim=True)
    brightest = x.amax((1, 2, 3), keepdim=True)
    return (x + strength * (clouds - low) / (high - low).clamp(min=1e-6)) * brightest / (brightest + strength)


def _brightness(x: Tensor, level: int, scale: float, rng: Rng) -> Tensor:
    """Add to the value of HSV; hue and saturation stay."""
    value = x.amax(1, keepdim=True)
    brighter = (value + 0.1 * (level + 1)).clamp(max=1)
    return torch.where(value > 0, x * brighter / value.clamp(min=1e-6), brighter)


def _contrast(x: Tensor, level: int, scale: float, rng: Rng) -> Tensor:
    mean = x.mean((2, 3), keepdim=True)
    return (x - mean) * (0.4, 0.3, 0.2, 0.1, 0.05)[level] + mean


def _elastic_transform(x: Tensor, level: int, scale: float, rng: Rng) -> Tensor:
    # In units of an image side, for the 244 pixels of the paper's code.
    strength, sigma, affine = (
        (2, 0.7, 0.1),
        (2, 0.08, 0.2),
        (0.05, 0.01, 0.02),
        (0.07, 0.01, 0.02),
        (0.12, 0.01, 0.02),
    )[level]
    count, side = len(x), x.shape[-1]
    noise = rng.uniform(-1, 1, (count, 2, side, side))
    # Smoothing over more pixels leaves less of the noise: the square keeps the shift in proportion to the side.
    shift = gaussian_filter(noise, (0, 0, sigma * side, sigma * side), mode="reflect", truncate=3)
    shift = torch.from_numpy(shift.astype(np.float32)) * strength * 244 * (side / 244) ** 2
    corners = np.array([[-1, -1], [1, -1], [-1, 1]]) / 3
    moved = corners + rng.uniform(-affine, affine, (count, 3, 2))
    base = np.concatenate([corners, np.ones((3, 1))], axis=1)
    theta = torch.from_numpy(np.linalg.solve(base, moved).transpose(0, 2, 1).astype(np.float32))
    grid = F.affine_grid(theta, [count, 3, side, side], align_corners=False)
    grid = grid + 2 * shift.permute(0, 2, 3, 1) / side
    return F.grid_sample(x, grid, padding_mode="reflection", align_corners=False)


def _pixelate(x: Tensor, level: int, scale: float, rng: Rng) -> Tensor:
    small = max(1, int(x.shape[-1] * (0.6, 0.5, 0.4, 0.3, 0.25)[level]))
    return F.interpolate(F.interpolate(x, size=(small, small), mode="area"), size=x.shape[2:], mode="nearest")


def _jpeg_compression(x: Tensor, level: int, scale: float, rng: Rng) -> Tensor:
    quality = (25, 18, 15, 10, 7)[level]
    found = []
    for pixels in (x * 255).round().to(torch.uint8).permute(0, 2, 3, 1).numpy():
        buffer = io.BytesIO()
        Image.fromarray(pixels).save(buffer, "JPEG", quality=quality)
        found.append(torch.from_numpy(np.array(Image.open(buffer))))
    return torch.stack(found).permute(0, 3, 1, 2).float() / 255


def _normal(shape: tuple[int, ...], rng: Rng) -> Tensor:
    return torch.from_numpy(rng.standard_normal(shape, dtype=np.float32))


def _gray(x: Tensor) -> Tensor:
    red, green, blue = x.split(1, dim=1)
    return 0.299 * red + 0.587 * green + 0.114 * blue


def _blur(x: Tensor, sigma: float) -> Tensor:
    return torch.from_numpy(gaussian_filter(x.numpy(), (0, 0, sigma, sigma), mode="nearest"))


def _zoom(x: Tensor, factor: float) -> Tensor:
    """Return the center of the images, enlarged by a factor."""
    theta = torch.eye(2, 3).div(factor).expand(len(x), -1, -1)
    grid = F.affine_grid(theta, list(x.shape), align_corners=False)
    return F.grid_sample(x, grid, padding_mode="border", align_corners=False)


def _offsets(reach: int) -> tuple[Tensor, Tensor]:
    """Return row and column offsets from the center of a kernel, (2 reach + 1, 2 reach + 1) each."""
    steps = torch.arange(-reach, reach + 1, dtype=torch.float32)
    rows, columns = torch.meshgrid(steps, steps, indexing="ij")
    return rows, columns


def _lines(radius: float, sigma: float, degrees: NDArray[np.float64]) -> Tensor:
    """Return line kernels (N, k, k) whose weight falls off along the line as a normal distribution."""
    rows, columns = _offsets(math.ceil(radius))
    angles = torch.from_numpy(np.deg2rad(degrees).astype(np.float32)).view(-1, 1, 1)
    along = columns * angles.cos() + rows * angles.sin()
    across = rows * angles.cos() - columns * angles.sin()
    weights = (-0.5 * (along / sigma).square()).exp() * (1 - across.abs()).clamp(min=0)
    weights = torch.where(along.abs() <= max(radius, 1.0), weights, 0.0)
    return weights / weights.sum((1, 2), keepdim=True)


def _filter(x: Tensor, kernels: Tensor) -> Tensor:
    """Convolve each image with a kernel of its own (N, k, k); borders are repeated."""
    count, channels = x.shape[:2]
    reach = kernels.shape[-1] // 2
    padded = F.pad(x, [reach] * 4, mode="replicate").flatten(0, 1)[None]
    weights = kernels.repeat_interleave(channels, dim=0)[:, None]
    return F.conv2d(padded, weights, groups=count * channels)[0].unflatten(0, (count, channels))


CORRUPTIONS: dict[str, Corruption] = {
    "gaussian_noise": _gaussian_noise,
    "shot_noise": _shot_noise,
    "impulse_noise": _impulse_noise,
    "defocus_blur": _defocus_blur,
    "glass_blur": _glass_blur,
    "motion_blur": _motion_blur,
    "zoom_blur": _zoom_blur,
    "snow": _snow,
    "fog": _fog,
    "brightness": _brightness,
    "contrast": _contrast,
    "elastic_transform": _elastic_transform,
    "pixelate": _pixelate,
    "jpeg_compression": _jpeg_compression,
}
