"""Crops of a whole batch of images at once, on any device.

Resizing a box is linear on each axis, so a crop is A_y · image · A_x^T, where the rows of A hold the weights of
Pillow's antialiased bicubic filter. Pillow rounds to bytes after each axis, this only at the end: they differ by at
most one level.

For small images of one size (`cut_batch`) these are two matrix products. For images of any size (`cut_flat`) most of A
would be zero: only the pixels with a weight are gathered, along x for each line that a crop needs, then along y.
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
"""Pixels, about, that `cut_flat` resamples along x at once; half a gigabyte of intermediate results."""


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

    Each row has the sum 1; rows run backwards where the start lies beyond the end.
    """
    # Few pixels have a weight: those are computed, then spread over the axis by an index that is 0 everywhere else.
    taps = math.ceil(4 * max(length / side, 1)) + 1
    first, weights = _taps(starts, ends, side, length, taps)
    index = torch.arange(1, length + 1, device=starts.device) - first.long()
    return F.pad(weights, (1, 1)).gather(2, index.clamp_(0, taps + 1))


def _taps(starts: Tensor, ends: Tensor, side: int, length: int | Tensor, taps: int) -> tuple[Tensor, Tensor]:
    """Return the first of `taps` consecutive pixels that each output pixel is made of, and their weights.

    Keys' cubic convolution with a = -1/2 as in Pillow: stretched by the ratio of box to crop where that shrinks, cut
    off at the ends of the axis. `length` is the axis's, an int or (N, 1, 1); pixels outside it have the weight 0.

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
    """Pixels, at most, that a crop's pixel is made of along x"""
    down: int
    """the same along y"""


class Plan(NamedTuple):
    """How to cut N crops of one size out of images of any size, sorted so that similar ones are cut together.

    A band is one line of a crop's box, resampled along x: (side, 3). Numbers that decide shapes, as that of the bands,
    are computed on the host along with the boxes; read from a GPU, they would make the host wait.
    """

    boxes: Tensor
    """float32 (N, 4): left, upper, right, lower in pixels; mirrored where the ends are exchanged"""
    sizes: Tensor
    """int32 (N, 2): width and height of the crop's image"""
    bands: Tensor
    """int32 (N, 3): first line that the crop needs, number of lines, place of the first one among all bands"""
    crops: Tensor
    """int32 (bands,): which crop each band belongs to"""
    lines: Tensor
    """int32 (bands,): the place, among all pixels, at which the band's line of the image begins"""
    places: Tensor
    """int64 (N,): where each crop is in this order"""
    chunks: list[Chunk]


def plan_cuts(boxes: NDArray[np.float64], sizes: NDArray[np.int64], side: int, firsts: NDArray[np.int64]) -> Plan:
    """Plan the cutting of N crops of `side` pixels.

    Args:
        boxes: (N, 4) left, upper, right, lower in pixels of the image, mirrored where the ends are exchanged.
        sizes: (N, 2) width and height of each crop's image.
        side: Side of the crops in pixels.
        firsts: (N,) place of the first pixel of each crop's image among the pixels of all images.
    """
    stretch = np.maximum(np.abs(boxes[:, 2:] - boxes[:, :2]) / side, 1)
    taps = np.ceil(4 * stretch).astype(np.int64) + 1
    # A chunk takes as many taps as its most shrunk crop needs, so one huge image must not be among small ones.
    order = np.argsort(taps.sum(axis=1), kind="stable")
    boxes, sizes, firsts = boxes[order], sizes[order], firsts[order]
    stretch, taps = stretch[order], taps[order]
    # One line more on either side than the filter reaches, as the device rounds to float32.
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
    return Plan(
        boxes=torch.from_numpy(boxes.astype(np.float32)),
        sizes=torch.from_numpy(sizes.astype(np.int32)),
        bands=torch.from_numpy(np.stack([upper, counts, begins], axis=1).astype(np.int32)),
        crops=torch.from_numpy(crops.astype(np.int32)),
        lines=torch.from_numpy(lines.astype(np.int32)),
        places=torch.from_numpy(np.argsort(order)),
        chunks=chunks,
    )


def cut_flat(pixels: Tensor, plan: Plan, transposed: Tensor, side: int) -> Tensor:
    """Cut crops out of images of any size.

    Args:
        pixels: uint8 (P, 3), the images' pixels row by row, one image after the other.
        plan: What `plan_cuts` gives for N crops.
        transposed: bool (N,), crops of which x and y are exchanged.
        side: Side of the crops in pixels.

    Returns:
        uint8 (N, 3, side, side). Nothing waits for the device.
    """
    chunks = [_cut_chunk(pixels, plan, chunk, side) for chunk in plan.chunks]
    crops = torch.cat(chunks or [pixels.new_zeros(0, side, side, 3)])[plan.places].permute(0, 3, 1, 2).contiguous()
    return torch.where(transposed[:, None, None, None], crops.mT, crops)


def _cut_chunk(pixels: Tensor, plan: Plan, chunk: Chunk, side: int) -> Tensor:
    """Cut the crops of a chunk: uint8 (crops, side, side, 3)."""
    own, bands = slice(chunk.first, chunk.stop), slice(chunk.first_band, chunk.stop_band)
    left, upper, right, lower = plan.boxes[own].unbind(1)
    width, height = plan.sizes[own, :, None, None].unbind(1)
    crops, lines = plan.crops[bands] - chunk.first, plan.lines[bands, None]
    first_line, count, first_band = plan.bands[own, :, None, None].unbind(1)

    # One tap after the other: an index of all of them would take several times the memory of the pixels.
    first, weights = _taps(left, right, side, width, chunk.across)
    resampled = pixels.new_zeros((len(crops), side, 3), dtype=torch.float32)
    for tap in range(chunk.across):
        columns = (first[..., 0].int() + tap).clamp_(min=0).minimum(width[..., 0] - 1)
        index = columns.index_select(0, crops) + lines
        values = pixels.index_select(0, index.flatten()).view(-1, side, 3)
        resampled.addcmul_(values, weights[..., tap].index_select(0, crops)[..., None])
    resampled.clamp_(0, 255)

    first, weights = _taps(upper, lower, side, height, chunk.down)
    cut = pixels.new_zeros((len(first), side, side, 3), dtype=torch.float32)
    for tap in range(chunk.down):
        place = (first[..., 0].int() + tap - first_line[..., 0]).clamp_(min=0).minimum(count[..., 0] - 1)
        place = place + (first_band[..., 0] - chunk.first_band)
        values = resampled.index_select(0, place.flatten()).view(-1, side, side, 3)
        cut.addcmul_(values, weights[..., tap, None, None])
    return cut.round_().clamp_(0, 255).to(torch.uint8)
