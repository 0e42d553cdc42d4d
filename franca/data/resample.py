"""Crops of a whole batch of images at once, on any device.

Resizing a box is linear on each axis, so a crop is A_y · image · A_x^T, where the rows of A hold the weights of
Pillow's antialiased bicubic filter. Pillow rounds to bytes after each axis, this only at the end: they differ by at
most one level.
"""

import math

import torch
from torch import Tensor
from torch.nn import functional as F


def cut_batch(images: Tensor, boxes: Tensor, transposed: Tensor, side: int) -> Tensor:
    """uint8 crops (crops B, 3, side, side), crop-major, of uint8 images (B, H, W, 3).

    `boxes` is float32 (B, crops, 4), left, upper, right, lower in pixels within the image; one with its ends exchanged
    is mirrored. `transposed` is bool (crops B,). Nothing waits for the device.
    """
    batch, height, width, _ = images.shape
    crops = boxes.shape[1]
    left, upper, right, lower = boxes.flatten(0, 1).unbind(1)
    across = bicubic_weights(left, right, side, width).view(batch, crops * side, width)
    down = bicubic_weights(upper, lower, side, height)
    # Pillow's order: first along x, cut to what a byte can hold, then along y.
    columns = images.permute(0, 2, 3, 1).to(torch.float32, memory_format=torch.contiguous_format).flatten(2)
    columns = torch.bmm(across, columns).clamp_(0, 255).view(batch * crops, side * 3, height)
    pixels = torch.bmm(columns, down.mT).round_().clamp_(0, 255).view(batch, crops, side, 3, side)
    turned = pixels.permute(1, 0, 3, 2, 4).to(torch.uint8, memory_format=torch.contiguous_format).flatten(0, 1)
    return torch.where(transposed[:, None, None, None], turned, turned.mT)


def bicubic_weights(starts: Tensor, ends: Tensor, side: int, length: int) -> Tensor:
    """Weights (N, side, length) that resample pixels between `starts` and `ends` (N,) of an axis to `side` pixels.

    Keys' cubic convolution with a = -1/2 as in Pillow: stretched by the ratio of box to crop where that shrinks, cut
    off at the ends of the axis, each row with the sum 1. Rows run backwards where the start lies beyond the end.
    """
    step = (ends - starts) / side
    places = torch.arange(side, device=starts.device)
    centers = (starts[:, None] + (places + 0.5) * step[:, None])[..., None]
    stretch = step.abs().clamp(min=1)[:, None, None]
    # Few pixels have a weight: those are computed, then spread over the axis by an index that is 0 everywhere else.
    taps = math.ceil(4 * max(length / side, 1)) + 1
    first = (centers - 2 * stretch + 0.5).floor()
    pixels = first + torch.arange(taps, device=starts.device)
    distances = ((pixels + 0.5 - centers) / stretch).abs()
    near = (1.5 * distances - 2.5) * distances.square() + 1
    far = ((-0.5 * distances + 2.5) * distances - 4) * distances + 2
    weights = torch.where(distances < 1, near, far) * ((distances < 2) & (pixels >= 0) & (pixels < length))
    weights = F.pad(weights / weights.sum(2, keepdim=True), (1, 1))
    index = torch.arange(1, length + 1, device=starts.device) - first.long()
    return weights.gather(2, index.clamp_(0, taps + 1))
