"""Agreement of two views of an image: a measure of quality that needs no labels."""

import torch
from torch import Tensor
from torch.nn import functional as F

VIEW_SIDE = 0.75
"""Side of a view as a share of the image's side."""


def two_views(images: Tensor) -> tuple[Tensor, Tensor]:
    """Return two views of square images (B, 3, S, S) uint8, each resized back to (B, 3, S, S) uint8.

    The first is the upper left corner of the image, the second the lower right corner, mirrored; they share a quarter
    of the image. The views are fixed, so scores of models trained with different augmentations can be compared.
    """
    size = images.shape[-1]
    side = max(round(VIEW_SIDE * size), 1)
    first, second = images[..., :side, :side], images[..., size - side :, size - side :].flip(-1)
    return _resized(first, size), _resized(second, size)


def found(first: Tensor, second: Tensor) -> Tensor:
    """Return for each first view whether the most similar of the second views is of the same image.

    Args:
        first: (N, D) float, features of the first views.
        second: (N, D) float, features of the second views, in the same order.

    Returns:
        (N,) bool; similarity is cosine similarity.
    """
    similarities = F.normalize(first.float(), dim=1) @ F.normalize(second.float(), dim=1).T
    return similarities.argmax(dim=1) == torch.arange(len(first), device=first.device)


def _resized(views: Tensor, size: int) -> Tensor:
    resized = F.interpolate(views.float(), size=(size, size), mode="bicubic", antialias=True)
    return resized.round().clamp(0, 255).to(torch.uint8)
