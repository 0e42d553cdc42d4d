"""Agreement of two views of an image: a measure of quality that needs no labels."""

import torch
from torch import Tensor
from torch.nn import functional as F

SHARE = 0.75
"""Side of a view, share of the image's side."""


def two_views(images: Tensor) -> tuple[Tensor, Tensor]:
    """Return two views of square images, uint8 (B, 3, S, S) each, brought back to S pixels.

    The first is cut from the upper left corner, the second from the lower right, mirrored; they share a quarter of the
    image. They are the same for every model, so scores can be compared whatever a model was trained with.
    """
    size = images.shape[-1]
    side = max(round(SHARE * size), 1)
    first, second = images[..., :side, :side], images[..., size - side :, size - side :].flip(-1)
    return _resized(first, size), _resized(second, size)


def found(first: Tensor, second: Tensor) -> Tensor:
    """Return, bool (N,), whether the nearest of the second views is that of the same image, by cosine similarity.

    Args:
        first: (N, D), features of the first views.
        second: (N, D), those of the second views, in the same order.
    """
    similarities = F.normalize(first.float(), dim=1) @ F.normalize(second.float(), dim=1).T
    return similarities.argmax(dim=1) == torch.arange(len(first), device=first.device)


def _resized(views: Tensor, size: int) -> Tensor:
    resized = F.interpolate(views.float(), size=(size, size), mode="bicubic", antialias=True)
    return resized.round().clamp(0, 255).to(torch.uint8)
