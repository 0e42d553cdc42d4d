"""Color augmentation of whole batches: brightness, contrast, saturation, hue and gray are one linear map a crop."""

import math

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

LUMA = np.array([0.299, 0.587, 0.114])
# From RGB to luma and two chroma axes (YIQ, NTSC 1953): hue turns the chroma plane, which keeps luma.
RGB_TO_YIQ = np.array([[0.299, 0.587, 0.114], [0.5959, -0.2746, -0.3213], [0.2115, -0.5227, 0.3112]])
YIQ_TO_RGB = np.linalg.inv(RGB_TO_YIQ)


def color_map(
    pixels: NDArray[np.uint8], strengths: tuple[float, float, float, float], gray: bool, rng: np.random.Generator
) -> NDArray[np.float32]:
    """The map (3, 4) of channels in 0..1 that jitters one crop (3, H, W) by random amounts within `strengths`.

    Brightness and contrast are factors in 1 +- strength, contrast about the crop's mean luma; saturation scales the
    chroma plane and hue turns it by up to strength whole turns.
    """
    brightness, contrast, saturation = (max(rng.uniform(1 - s, 1 + s), 0.0) for s in strengths[:3])
    angle = 2 * math.pi * rng.uniform(-strengths[3], strengths[3])
    scale = 0.0 if gray else saturation
    turn = np.array(
        [
            [1, 0, 0],
            [0, scale * math.cos(angle), -scale * math.sin(angle)],
            [0, scale * math.sin(angle), scale * math.cos(angle)],
        ]
    )
    matrix = brightness * contrast * (YIQ_TO_RGB @ turn @ RGB_TO_YIQ)
    mean = float(LUMA @ pixels.mean(axis=(1, 2))) / 255
    offset = np.full((3, 1), (1 - contrast) * brightness * mean)
    return np.hstack([matrix, offset]).astype(np.float32)


def apply_color(pixels: Tensor, color: Tensor, sigma: Tensor, solarize: Tensor) -> Tensor:
    """float32 crops in 0..1 from uint8 crops (N, 3, H, W), on any device; arguments as in `crops.Views`."""
    images = pixels.float().div_(255).flatten(2)
    images = torch.baddbmm(color[:, :, 3:], color[:, :, :3], images).clamp_(0, 1).unflatten(2, pixels.shape[2:])
    if sigma.any():
        images = torch.where((sigma > 0)[:, None, None, None], gaussian_blur(images, sigma), images)
    if solarize.any():
        images = torch.where(solarize[:, None, None, None] & (images > 0.5), 1 - images, images)
    return images


def gaussian_blur(images: Tensor, sigma: Tensor) -> Tensor:
    """Separable Gaussian blur, each image (N, 3, H, W) with its own standard deviation in pixels (N,)."""
    radius = min(math.ceil(3 * float(sigma.max())), min(images.shape[-2:]) - 1)
    taps = torch.arange(-radius, radius + 1, device=images.device, dtype=torch.float32)
    kernel = torch.softmax(-(taps**2) / (2 * sigma.clamp(min=1e-3)[:, None] ** 2), dim=1)
    kernel = kernel.repeat_interleave(3, dim=0)[:, None]
    batch, channels, height, width = images.shape
    padded = F.pad(images, (radius,) * 4, mode="reflect").reshape(1, batch * channels, *_grown(height, width, radius))
    rows = F.conv2d(padded, kernel[..., None, :], groups=batch * channels)
    return F.conv2d(rows, kernel[..., None], groups=batch * channels).reshape(batch, channels, height, width)


def _grown(height: int, width: int, radius: int) -> tuple[int, int]:
    return height + 2 * radius, width + 2 * radius
