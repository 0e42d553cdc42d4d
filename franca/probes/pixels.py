"""Pixels as features: a baseline without a network, and the pixels of each patch."""

import torch
from torch import Tensor

MAX_SIDE = 32
"""Side in pixels to which larger images are reduced: 3,072 features at most."""


def pixel_features(pixels: Tensor) -> Tensor:
    """Return the pixels of each image as one vector, larger images reduced to `MAX_SIDE` pixels by area averaging.

    Args:
        pixels: (B, 3, H, W) float32.

    Returns:
        (B, 3 h w) float32 with h = min(H, `MAX_SIDE`) and w = min(W, `MAX_SIDE`).
    """
    if max(pixels.shape[-2:]) > MAX_SIDE:
        sides = [min(side, MAX_SIDE) for side in pixels.shape[-2:]]
        pixels = torch.nn.functional.interpolate(pixels, size=sides, mode="area")
    return pixels.flatten(1)


def patch_pixels(pixels: Tensor, patch_size: int) -> Tensor:
    """Return the pixels of each patch, (B, h, w, 3, P, P) of images (B, 3, H, W).

    Rows and columns of pixels at the bottom and at the right that fill no patch are dropped.
    """
    patches = pixels.unfold(2, patch_size, patch_size).unfold(3, patch_size, patch_size)
    return patches.permute(0, 2, 3, 1, 4, 5)
