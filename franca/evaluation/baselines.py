"""What a trained model is measured against, in the shape of backbones: pixels, colors, and its own random weights."""

from collections.abc import Sequence

import torch
from torch import Tensor

from franca.evaluation.features import Backbone
from franca.models import Features, FrancaModel
from franca.probes.pixels import pixel_features, standardize


def model_backbone(name: str, model: FrancaModel, device: torch.device) -> Backbone:
    """A Franca model as a backbone; it moves to `device`."""
    model = model.to(device)
    return Backbone(
        name,
        lambda images: model(images.to(device)),
        model.image_size,
        model.patch_size,
        levels=model.levels,
        learned=True,
    )


def raw_pixels(
    mean: Sequence[float], std: Sequence[float], image_size: int, patch_size: int, device: torch.device
) -> Backbone:
    """The pixels themselves: `pixel_features` of the image, and all of a patch's standardized pixels."""

    def embed(images: Tensor) -> Features:
        pixels = standardize(images.to(device), mean, std)
        return Features(pixel_features(pixels), _patches(pixels, patch_size).flatten(3))

    return Backbone("raw_pixels", embed, image_size, patch_size)


def color_histogram(image_size: int, patch_size: int, device: torch.device) -> Backbone:
    """Square root of the share of pixels in each of 8 x 8 x 8 RGB bins; a patch's mean and spread of each color."""

    def embed(images: Tensor) -> Features:
        patches = _patches(images.to(device).float() / 255, patch_size).flatten(4)
        colors = torch.cat([patches.mean(4), patches.std(4, unbiased=False)], dim=3)
        return Features(histogram(images), colors)

    def histogram(images: Tensor) -> Tensor:
        red, green, blue = (images.to(device) >> 5).int().unbind(1)
        bins = (red << 6) + (green << 3) + blue
        start = 512 * torch.arange(len(bins), device=device, dtype=torch.int32).view(-1, 1, 1)
        counts = torch.bincount((bins + start).flatten(), minlength=512 * len(bins)).view(-1, 512)
        return (counts.float() / bins[0].numel()).sqrt()

    return Backbone("color_histogram", embed, image_size, patch_size, native=histogram)


def _patches(pixels: Tensor, patch_size: int) -> Tensor:
    """(B, h, w, 3, P, P) of pixels (B, 3, H, W); what is over at the right and at the bottom is left out."""
    parts = pixels.unfold(2, patch_size, patch_size).unfold(3, patch_size, patch_size)
    return parts.permute(0, 2, 3, 1, 4, 5)
