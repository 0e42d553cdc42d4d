"""Crop a whole batch of images at once, on any device.

Resizing a box is linear on each axis, so a crop is A_y · image · A_x^T; the rows of A are the weights of Pillow's
antialiased bicubic filter. Pillow rounds to bytes after each axis, this code only at the end, so results differ by at
most one level.

For small images of one size (`crop_batch`) these are two matrix products. For images of any size (`crop_flat`) most
of A would be zero, so only the pixels with a weight are gathered: along x for each line that a crop needs, then
along y.
"""

import math
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

CHUNK = 1 << 24
"""Approximate number of pixels that `crop_flat` resamples along x at once: half a gigabyte of intermediate results."""


def crop_batch(images: Tensor, boxes: Tensor, transposed: Tensor, side: int) -> Tensor:
    """Crop images of one size; the host does not wait for the device.

    Args:
        images: uint8 (B, H, W, 3).
        boxes: Left, upper, right and lower edge in pixels, float32 (B, crops, 4). Exchanged edges mirror the crop.
        transposed: Whether to exchange x and y of each crop, bool (crops B,), crop-major.
        side: Side of the crops, in pixels.

    Returns:
        uint8 (crops B, 3, side, side), crop-major.
    """
    batch, height, width, _ = images.shape
    crops = boxes.shape[1]
    left, upper, right, lower = boxes.flatten(0, 1).unbind(1)
    across = bicubic_weights(left, right, side, width).view(batch, crops * side, width)
    down = bicubic_weights(upper, lower, side, height)
    # As in Pillow: first along x, clamped to 0..255, then along y.
    columns = images.permute(0, 2, 3, 1).to(torch.float32, memory_format=torch.contiguous_format).flatten(2)
    columns = torch.bmm(across, columns).clamp_(0, 255).view(batch * crops, side * 3, height)
    pixels = torch.bmm(columns, down.mT).round_().clamp_(0, 255).view(batch, crops, side, 3, side)
    turned = pixels.permute(1, 0, 3, 2, 4).to(torch.uint8, memory_format=torch.contiguous_format).flatten(0, 1)
    return torch.where(transposed[:, None, None, None], turned, turned.mT)


def bicubic_weights(starts: Tensor, ends: Tensor, side: int, length: int) -> Tensor:
    """Compute the weights that resample a section of an axis to `side` pixels.

    Args:
        starts: Start of each section in pixels, float32 (N,).
        ends: End of each section in pixels, float32 (N,); a section that ends before its start is mirrored.
        side: Number of output pixels.
        length: Number of input pixels.

    Returns:
        float32 (N, side, length); each row has the sum 1.
    """
    # Few pixels have a weight. Compute only those, then place them by an index that is 0 everywhere else.
    taps = math.ceil(4 * max(length / side, 1)) + 1
    first, weights = _taps(starts, ends, side, length, taps)
    index = torch.arange(1, length + 1, device=starts.device) - first.long()
    return F.pad(weights, (1, 1)).gather(2, index.clamp_(0, taps + 1))


def _taps(starts: Tensor, ends: Tensor, side: int, length: int | Tensor, taps: int) -> tuple[Tensor, Tensor]:
    """Return the weights of the `taps` consecutive input pixels of each output pixel, and which one is the first.

    The filter is Keys' cubic convolution with a = -1/2 (IEEE Trans. ASSP 29, 1981), as in Pillow. It is stretched by
    the ratio of box to crop if that is above 1, and truncated at the ends of the axis.

    Args:
        starts: Start of each section in pixels, float32 (N,).
        ends: End of each section in pixels, float32 (N,).
        side: Number of output pixels.
        length: Number of input pixels, an int or (N, 1, 1). Pixels outside have the weight 0.
        taps: Number of weights.

    Returns:
        first: float32 (N, side, 1), may be negative.
        weights: float32 (N, side, taps), with the sum 1.
    """
    step = (ends - starts) / side
    places = torch.arange(side, device=starts.device)
    centers = (starts[:, None] + (places + 0.5) * step[:, None])[..., None]
    stretch = step.abs().clamp(min=1)[:, None, None]
    first = (centers - 2 * stretch + 0.5).floor()
    pixels = first + torch.arange(taps, device=starts.device)
    distances = ((pixels + 0.5 - centers) / stretch).abs()
    near = (1.5 * distances - 2.5) * distances.square() + 1
    far = ((-0.5 * distances + 2.5) * distances - 4) * distances + 2
    weights = torch.where(distances < 1, near, far) * ((distances < 2) & (pixels >= 0) & (pixels < length))
    return first, weights / weights.sum(2, keepdim=True)


class Chunk(NamedTuple):
    """Consecutive crops of a plan that are resampled at once."""

    first: int
    stop: int
    first_band: int
    stop_band: int
    across: int
    """Largest number of input pixels along x for one output pixel."""
    down: int
    """The same along y."""


class CropPlan(NamedTuple):
    """How to take N crops of one size from images of any size, sorted so that similar crops are in one chunk.

    A band is one line of a crop's box, resampled along x: (side, 3). Numbers that determine shapes, such as the number
    of bands, are computed on the host together with the boxes; to read them from a GPU, the host would have to wait.
    """

    boxes: Tensor
    """float32 (N, 4): left, upper, right, lower in pixels; exchanged edges mirror the crop"""
    sizes: Tensor
    """int32 (N, 2): width and height of the crop's image"""
    bands: Tensor
    """int32 (N, 3): first line that the crop needs, number of lines, index of the first one among all bands"""
    crops: Tensor
    """int32 (bands,): crop of each band"""
    lines: Tensor
    """int32 (bands,): index, among all pixels, at which the band's line of the image begins"""
    places: Tensor
    """int64 (N,): position of each crop in this order"""
    chunks: list[Chunk]


def plan_crops(boxes: NDArray[np.float64], sizes: NDArray[np.int64], side: int, firsts: NDArray[np.int64]) -> CropPlan:
    """Plan N crops of `side` pixels.

    Args:
        boxes: Left, upper, right and lower edge in pixels, (N, 4). Exchanged edges mirror the crop.
        sizes: Width and height of each crop's image in pixels, (N, 2).
        side: Side of the crops, in pixels.
        firsts: Index of the first pixel of each crop's image among the pixels of all images, (N,).
    """
    stretch = np.maximum(np.abs(boxes[:, 2:] - boxes[:, :2]) / side, 1)
    taps = np.ceil(4 * stretch).astype(np.int64) + 1
    # All crops of a chunk take as many taps as the one that is shrunk most, so do not mix huge and small images.
    order = np.argsort(taps.sum(axis=1), kind="stable")
    boxes, sizes, firsts = boxes[order], sizes[order], firsts[order]
    stretch, taps = stretch[order], taps[order]
    # One line more on either side than the filter reaches, since the device computes in float32.
    reach = 2 * stretch[:, 1] + 1
    upper = np.clip(np.floor(boxes[:, 1::2].min(axis=1) - reach), 0, sizes[:, 1] - 1).astype(np.int64)
    lower = np.clip(np.ceil(boxes[:, 1::2].max(axis=1) + reach), upper + 1, sizes[:, 1]).astype(np.int64)
    counts = lower - upper
    begins = np.cumsum(counts) - counts
    crops = np.repeat(np.arange(len(boxes)), counts)
    lines = firsts[crops] + (upper[crops] + np.arange(len(crops)) - begins[crops]) * sizes[crops, 0]
    numbers = begins // max(CHUNK // side, 1)
    edges = [*np.unique(numbers, return_index=True)[1].tolist(), len(boxes)]
    ends = [*begins.tolist(), len(crops)]
    chunks = [
        Chunk(first, stop, ends[first], ends[stop], *taps[first:stop].max(axis=0).tolist())
        for first, stop in pairwise(edges)
    ]
    return CropPlan(
        boxes=torch.from_numpy(boxes.astype(np.float32)),
        sizes=torch.from_numpy(sizes.astype(np.int32)),
        bands=torch.from_numpy(np.stack([upper, counts, begins], axis=1).astype(np.int32)),
        crops=torch.from_numpy(crops.astype(np.int32)),
        lines=torch.from_numpy(lines.astype(np.int32)),
        places=torch.from_numpy(np.argsort(order)),
        chunks=chunks,
    )


def crop_flat(pixels: Tensor, plan: CropPlan, transposed: Tensor, side: int) -> Tensor:
    """Crop images of any size; the host does not wait for the device.

    Args:
        pixels: Pixels of all images, row by row, one image after the other, uint8 (P, 3).
        plan: The result of `plan_crops` for N crops.
        transposed: Whether to exchange x and y of each crop, bool (N,).
        side: Side of the crops, in pixels.

    Returns:
        uint8 (N, 3, side, side).
    """
    chunks = [_crop_chunk(pixels, plan, chunk, side) for chunk in plan.chunks]
    crops = torch.cat(chunks or [pixels.new_zeros(0, side, side, 3)])[plan.places].permute(0, 3, 1, 2).contiguous()
    return torch.where(transposed[:, None, None, None], crops.mT, crops)


def _crop_chunk(pixels: Tensor, plan: CropPlan, chunk: Chunk, side: int) -> Tensor:
    """Return the crops of a chunk, uint8 (crops, side, side, 3)."""
    own, bands = slice(chunk.first, chunk.stop), slice(chunk.first_band, chunk.stop_band)
    left, upper, right, lower = plan.boxes[own].unbind(1)
    width, height = plan.sizes[own, :, None, None].unbind(1)
    crops, lines = plan.crops[bands] - chunk.first, plan.lines[bands, None]
    first_line, count, first_band = plan.bands[own, :, None, None].unbind(1)

    # One tap at a time: an index for all taps would take several times the memory of the pixels.
    first, weights = _taps(left, right, side, width, chunk.across)
    resampled = pixels.new_zeros((len(crops), side, 3), dtype=torch.float32)
    for tap in range(chunk.across):
        columns = (first[..., 0].int() + tap).clamp_(min=0).minimum(width[..., 0] - 1)
        index = columns.index_select(0, crops) + lines
        values = pixels.index_select(0, index.flatten()).view(-1, side, 3)
        resampled.addcmul_(values, weights[..., tap].index_select(0, crops)[..., None])
    resampled.clamp_(0, 255)

    first, weights = _taps(upper, lower, side, height, chunk.down)
    result = pixels.new_zeros((len(first), side, side, 3), dtype=torch.float32)
    for tap in range(chunk.down):
        place = (first[..., 0].int() + tap - first_line[..., 0]).clamp_(min=0).minimum(count[..., 0] - 1)
        place = place + (first_band[..., 0] - chunk.first_band)
        values = resampled.index_select(0, place.flatten()).view(-1, side, side, 3)
        result.addcmul_(values, weights[..., tap, None, None])
    return result.round_().clamp_(0, 255).to(torch.uint8)
