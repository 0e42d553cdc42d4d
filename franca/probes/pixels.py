"""Raw pixels as features: the baseline that knows nothing of images."""

from collections.abc import Sequence

import torch
from torch import Tensor

RAW_SIDE = 32


def standardize(images: Tensor, mean: Sequence[float], std: Sequence[float]) -> Tensor:
    """Return uint8 images (B, 3, H, W) as float32, standardized by the channels' mean and spread of values in 0..1."""
    center, spread = (torch.tensor(values, device=images.device).view(1, 3, 1, 1) for values in (mean, std))
    return (images.float() / 255 - center) / spread


def pixel_features(pixels: Tensor) -> Tensor:
    """Return the pixels (B, 3, H, W) of each image, at no more than `RAW_SIDE` a side, as one vector."""
    if max(pixels.shape[-2:]) > RAW_SIDE:
        sides = [min(side, RAW_SIDE) for side in pixels.shape[-2:]]
        pixels = torch.nn.functional.interpolate(pixels, size=sides, mode="area")
    return pixels.flatten(1)
