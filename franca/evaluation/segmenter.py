"""Linear segmentation: a linear head on patch features, upsampled to the pixels of the image."""

from dataclasses import dataclass

import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from franca.evaluation.features import FeatureExtractor, to_tensor
from franca.probes.regression import LinearMap


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
    """Return patch features (h, w, D) float32 of an image resized to whole patches, about `side` on its short side."""
    scale = side / min(image.size) / extractor.patch_size
    columns, rows = (max(1, round(length * scale)) for length in image.size)
    size = (columns * extractor.patch_size, rows * extractor.patch_size)
    return extractor.embed(to_tensor(image.resize(size, Image.Resampling.BICUBIC))[None]).patches[0]


def upsample(logits: Tensor, image: Image.Image) -> Tensor:
    """Return the most likely class of each pixel, (H, W) int64, from logits (h, w, K) interpolated bilinearly."""
    grown = F.interpolate(logits.permute(2, 0, 1)[None], size=(image.height, image.width), mode="bilinear")
    return grown[0].argmax(0)
