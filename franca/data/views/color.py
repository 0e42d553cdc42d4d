"""Color augmentation of whole batches: brightness, contrast, saturation, hue and gray are one linear map a crop."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from franca.params import Augment

SIGMA = (0.1, 2.0)
"""Smallest and largest standard deviation of the blur, in pixels."""
COLOR_DRAWS = 9
LUMA = (0.299, 0.587, 0.114)
# From RGB to luma and two chroma axes (YIQ, NTSC 1953): hue turns the chroma plane, which keeps luma.
RGB_TO_YIQ = np.array([LUMA, [0.5959, -0.2746, -0.3213], [0.2115, -0.5227, 0.3112]])
YIQ_TO_RGB = np.linalg.inv(RGB_TO_YIQ)
_KEPT = YIQ_TO_RGB[:, :1] @ RGB_TO_YIQ[:1]
_CHROMA = YIQ_TO_RGB[:, 1:] @ RGB_TO_YIQ[1:]
_TURNED = YIQ_TO_RGB[:, 1:] @ np.array([[0, -1], [1, 0]]) @ RGB_TO_YIQ[1:]


class Color(NamedTuple):
    """Color changes of N crops. Which crops are blurred or solarized is a list of rows: its length needs no device."""

    matrix: Tensor
    """float32 (N, 3, 3): linear map of the channels"""
    pull: Tensor
    """float32 (N,): how much of the crop's mean luma is added, which is what contrast keeps"""
    blurred: Tensor
    """int64 (k,): rows that are blurred"""
    sigma: Tensor
    """float32 (k,): standard deviation of their blur, in pixels"""
    solarized: Tensor
    """int64 (m,): rows of which values above one half are inverted"""


def random_color(
    uniform: NDArray[np.float64], augment: Augment, blur: Sequence[float], solarize: Sequence[float]
) -> Color:
    """Color changes of crops x B crops, crop-major, decided by `uniform` (9, B, crops).

    Each crop of an image is blurred and solarized with its own probability, `blur` and `solarize` (crops,). Brightness
    and contrast are factors in 1 +- strength, contrast about the crop's mean luma; saturation scales the chroma plane
    and hue turns it by up to strength whole turns.
    """
    jitter, gray, blurs, solarizes, sigma, *rest = uniform.swapaxes(1, 2).reshape(COLOR_DRAWS, -1)
    strengths = np.where(jitter < augment.jitter_probability, np.array(augment.jitter)[:, None], 0.0)
    amounts = (2 * np.stack(rest) - 1) * strengths
    brightness, contrast, saturation = np.maximum(1 + amounts[:3], 0)
    saturation = np.where(gray < augment.gray_probability, 0.0, saturation)
    angle = 2 * math.pi * amounts[3]
    x, y = saturation * np.cos(angle), saturation * np.sin(angle)
    matrix = _KEPT + x[:, None, None] * _CHROMA + y[:, None, None] * _TURNED
    matrix *= (brightness * contrast)[:, None, None]
    batch_size = uniform.shape[1]
    blurred = np.flatnonzero(blurs < np.repeat(blur, batch_size))
    return Color(
        torch.from_numpy(matrix.astype(np.float32)),
        torch.from_numpy(((1 - contrast) * brightness).astype(np.float32)),
        torch.from_numpy(blurred),
        torch.from_numpy((SIGMA[0] + (SIGMA[1] - SIGMA[0]) * sigma[blurred]).astype(np.float32)),
        torch.from_numpy(np.flatnonzero(solarizes < np.repeat(solarize, batch_size))),
    )


def apply_color(pixels: Tensor, color: Color) -> Tensor:
    """float32 crops in 0..1 from uint8 crops (N, 3, H, W), on the device of both; nothing waits for it."""
    images = pixels.float().div_(255).flatten(2)
    red, green, blue = images.mean(2).unbind(1)
    offset = color.pull * (LUMA[0] * red + LUMA[1] * green + LUMA[2] * blue)
    images = torch.baddbmm(offset[:, None, None], color.matrix, images).clamp_(0, 1).unflatten(2, pixels.shape[2:])
    if len(color.blurred):
        images.index_copy_(0, color.blurred, gaussian_blur(images[color.blurred], color.sigma))
    if len(color.solarized):
        bright = images[color.solarized]
        images.index_copy_(0, color.solarized, torch.where(bright > 0.5, 1 - bright, bright))
    return images


def gaussian_blur(images: Tensor, sigma: Tensor) -> Tensor:
    """Separable Gaussian blur, each image (N, 3, H, W) with its own standard deviation in pixels (N,)."""
    radius = min(math.ceil(3 * SIGMA[1]), min(images.shape[-2:]) - 1)
    taps = torch.arange(-radius, radius + 1, device=images.device, dtype=torch.float32)
    kernel = torch.softmax(-(taps**2) / (2 * sigma.clamp(min=1e-3)[:, None] ** 2), dim=1)
    kernel = kernel.repeat_interleave(3, dim=0)[:, None]
    batch, channels, height, width = images.shape
    padded = F.pad(images, (radius,) * 4, mode="reflect").reshape(1, batch * channels, *_grown(height, width, radius))
    rows = F.conv2d(padded, kernel[..., None, :], groups=batch * channels)
    return F.conv2d(rows, kernel[..., None], groups=batch * channels).reshape(batch, channels, height, width)


def _grown(height: int, width: int, radius: int) -> tuple[int, int]:
    return height + 2 * radius, width + 2 * radius
