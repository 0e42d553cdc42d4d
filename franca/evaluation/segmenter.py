"""Linear segmentation: a linear head on patch features, upsampled to the pixels of the image."""

import math
from dataclasses import dataclass

import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from franca.evaluation.features import FeatureExtractor, to_tensor
from franca.probes.regression import LinearMap

MAX_TOKENS = 1 << 14
"""Patches of the windows that go through a model at once, about."""


@dataclass(frozen=True)
class Segmenter:
    """An extractor with a linear head of K classes.

    Attributes:
        extractor: Computes the patch features.
        side: Short side in pixels, about, to which images are resized.
        head: Maps patch features (h, w, D) to logits (h, w, K).
    """

    extractor: FeatureExtractor
    side: int
    head: LinearMap

    def __call__(self, image: Image.Image) -> Tensor:
        """Return the class of each pixel of the image at its own size, (H, W) int64."""
        return upsample(self.head(patch_features(self.extractor, image, self.side)), image)


@torch.inference_mode()
def patch_features(extractor: FeatureExtractor, image: Image.Image, side: int) -> Tensor:
    """Return patch features of an image, computed in sliding windows of the size that a model was trained at.

    In a single pass over a larger image, a model sees several times more tokens than in training, and its features
    lose more than the larger context gains. Windows overlap by about a third (DINOv3, arXiv 2508.10104, has windows of
    512 pixels and a stride of 341); where they do, features are averaged.

    Args:
        extractor: Computes the features. Those of pixel baselines do not depend on the other patches: one pass.
        image: An RGB image.
        side: Short side, about, to which the image is resized; at least one window.

    Returns:
        (h, w, D) float32.
    """
    patch = extractor.patch_size
    window = extractor.image_size // patch if extractor.learned else 0
    scale = max(side, window * patch) / min(image.size) / patch
    columns, rows = (max(1, window, round(length * scale)) for length in image.size)
    pixels = to_tensor(image.resize((columns * patch, rows * patch), Image.Resampling.BICUBIC))
    if not extractor.learned:
        return extractor.embed(pixels[None]).patches[0]
    corners = [(top, left) for top in _window_starts(rows, window) for left in _window_starts(columns, window)]
    total, counts = None, torch.zeros(rows, columns, 1)
    at_once = max(1, MAX_TOKENS // window**2)
    for start in range(0, len(corners), at_once):
        part = corners[start : start + at_once]
        tiles = [
            pixels[:, top * patch : (top + window) * patch, left * patch : (left + window) * patch]
            for top, left in part
        ]
        found = extractor.embed(torch.stack(tiles)).patches.float()
        if total is None:
            total, counts = found.new_zeros(rows, columns, found.shape[-1]), counts.to(found.device)
        for (top, left), features in zip(part, found, strict=True):
            total[top : top + window, left : left + window] += features
            counts[top : top + window, left : left + window] += 1
    assert total is not None
    return total / counts


def _window_starts(length: int, window: int) -> list[int]:
    """Return the first patches of evenly spaced windows that cover `length` patches and overlap by a third, about."""
    count = 1 + math.ceil((length - window) / math.ceil(2 * window / 3))
    return [round(start) for start in torch.linspace(0, length - window, count).tolist()]


def upsample(logits: Tensor, image: Image.Image) -> Tensor:
    """Return the most likely class of each pixel, (H, W) int64, from logits (h, w, K) interpolated bilinearly."""
    grown = F.interpolate(logits.permute(2, 0, 1)[None], size=(image.height, image.width), mode="bilinear")
    return grown[0].argmax(0)
