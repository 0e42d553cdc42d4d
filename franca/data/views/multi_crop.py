"""Multi-crop of the images of a step: two global crops and some local ones of each, with the color changes of each."""

from collections.abc import Iterable, Iterator
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from franca.data.views.batch import Cuts, FlatCuts, Views
from franca.data.views.color import COLOR_DRAWS, Color, random_color
from franca.data.views.crops import BOX_DRAWS, ORIENTATION_DRAWS, Floats, cut, orient, random_boxes
from franca.data.views.resample import plan_cuts
from franca.params import Augment, Crops

Frame = tuple[float, float, float, float]
"""Left, upper, right, lower of what counts as the image, in pixels; an image that was shrunk may end within one."""
SHRINKS = (8, 4, 2, 1)
"""Factors by which a JPEG can be decoded smaller."""


class Draws(NamedTuple):
    """Uniform numbers in 0..1 behind the crops of B images."""

    box: Floats
    """(22, B, crops)"""
    orientation: Floats
    """(3, B, crops)"""
    color: Floats
    """(9, B, crops)"""


class MultiCrop:
    """Global crops of side `size` and local crops of images; both ways to cut them follow the same draws."""

    def __init__(self, size: int, crops: Crops, augment: Augment) -> None:
        self._sides = (size, crops.local_size)
        self._groups = (slice(0, 2), slice(2, 2 + crops.local_count))
        self._augment = augment
        self._scales = np.array([crops.global_scale] * 2 + [crops.local_scale] * crops.local_count)
        self._side_of_each = np.array([size] * 2 + [crops.local_size] * crops.local_count)
        first, second, local = augment.blur_probability
        self._blur = [first, second] + [local] * crops.local_count
        self._solarize = [0.0, augment.solarize_probability] + [0.0] * crops.local_count

    def draw(self, rng: np.random.Generator, batch_size: int, part: slice) -> Draws:
        """Draws for the images `part` of a batch: the whole batch's are made, so that each part finds its own."""
        counts = (BOX_DRAWS, ORIENTATION_DRAWS, COLOR_DRAWS)
        return Draws(*(rng.random((count, batch_size, len(self._scales)))[:, part] for count in counts))

    def views(self, images: Iterable[tuple[Image.Image, Frame]], draws: Draws) -> tuple[Views, Views]:
        """Crops of images of any size, cut by Pillow out of one after the other, none of which is kept."""
        batch = draws.box.shape[1]
        pixels = [
            np.empty((group.stop - group.start, batch, 3, side, side), dtype=np.uint8)
            for group, side in zip(self._groups, self._sides, strict=True)
        ]
        for row, (image, frame) in enumerate(images):
            boxes, transposed = self._boxes_in(frame, draws, row)
            for crops, group, side in zip(pixels, self._groups, self._sides, strict=True):
                crops[:, row] = cut(image, boxes[group], transposed[group], side)
        global_views, local_views = (
            Views(torch.from_numpy(crops).flatten(0, 1), color)
            for crops, color in zip(pixels, self._colors(draws), strict=True)
        )
        return global_views, local_views

    def shrink(self, box: Floats, size: tuple[int, int]) -> int:
        """Return the largest factor by which an image may be shrunk without any of its crops being enlarged for it.

        `box` (22, crops) are the image's draws. As boxes are shares of the image, the same draws give the same boxes,
        divided by the factor, in the shrunk image.
        """
        left, upper, right, lower = random_boxes(box, size, self._scales).T
        least = float((np.minimum(right - left, lower - upper) / self._side_of_each).min())
        return next((shrink for shrink in SHRINKS if shrink <= least), 1)

    def cuts(self, draws: Draws, side: int) -> tuple[Cuts, Cuts]:
        """What to cut out of square images of one side, later and out of all at once."""
        boxes, transposed = self._boxes(draws.box, draws.orientation, (side, side))
        global_cuts, local_cuts = (
            Cuts(
                torch.from_numpy(boxes[:, group].astype(np.float32)),
                torch.from_numpy(transposed[:, group].T.flatten()),
                crop_side,
                color,
            )
            for group, crop_side, color in zip(self._groups, self._sides, self._colors(draws), strict=True)
        )
        return global_cuts, local_cuts

    def flat_cuts(
        self, images: Iterable[tuple[Image.Image, Frame]], draws: Draws
    ) -> tuple[Tensor, FlatCuts, FlatCuts]:
        """Gather the pixels of images of any size, and what to cut out of them, later and out of all at once.

        Returns:
            pixels: uint8 (P, 3), those that crops are made of, row by row, one image after the other.
            global_cuts, local_cuts: How to cut them.
        """
        found = []
        for row, (image, frame) in enumerate(images):
            boxes, transposed = self._boxes_in(frame, draws, row)
            part, boxes = _needed(image, boxes, self._side_of_each)
            found.append((np.asarray(part).reshape(-1, 3), boxes, transposed, part.size))
        pixels, *rest = zip(*found, strict=True)
        boxes, transposed, sizes = (np.stack(values) for values in rest)
        lengths = np.array([len(part) for part in pixels])
        firsts = np.cumsum(lengths) - lengths

        def cuts(group: slice, side: int, color: Color) -> FlatCuts:
            own = boxes[:, group].swapaxes(0, 1)
            count = len(own)
            plan = plan_cuts(own.reshape(-1, 4), np.tile(sizes, (count, 1)), side, np.tile(firsts, count))
            return FlatCuts(plan, torch.from_numpy(transposed[:, group].T.flatten()), side, color)

        global_cuts, local_cuts = map(cuts, self._groups, self._sides, self._colors(draws))
        return torch.from_numpy(np.concatenate(pixels)), global_cuts, local_cuts

    def _boxes_in(self, frame: Frame, draws: Draws, row: int) -> tuple[Floats, NDArray[np.bool_]]:
        """Boxes (crops, 4) and transposed crops of the image `row`, of which `frame` counts as the image."""
        left, upper, right, lower = frame
        size = (right - left, lower - upper)
        boxes, transposed = self._boxes(draws.box[:, row], draws.orientation[:, row], size)
        boxes += (left, upper, left, upper)
        return boxes, transposed

    def _boxes(self, box: Floats, orientation: Floats, size: tuple[float, float]) -> tuple[Floats, NDArray[np.bool_]]:
        return orient(random_boxes(box, size, self._scales), orientation, self._augment.orientation)

    def _colors(self, draws: Draws) -> Iterator[Color]:
        for group in self._groups:
            yield random_color(draws.color[:, :, group], self._augment, self._blur[group], self._solarize[group])


def _needed(image: Image.Image, boxes: Floats, sides: NDArray[np.int64]) -> tuple[Image.Image, Floats]:
    """Return the part of an image that crops of `sides` pixels (crops,) are made of, and their boxes in it."""
    low, high = np.minimum(boxes[:, :2], boxes[:, 2:]), np.maximum(boxes[:, :2], boxes[:, 2:])
    # As far as the filter reaches beyond the boxes, and a pixel more for rounding.
    reach = 2 * np.maximum((high - low) / sides[:, None], 1) + 1
    left, upper = np.maximum(np.floor((low - reach).min(axis=0)), 0).astype(int).tolist()
    right, lower = np.minimum(np.ceil((high + reach).max(axis=0)), image.size).astype(int).tolist()
    return image.crop((left, upper, right, lower)), boxes - (left, upper, left, upper)


def stack(images: Iterable[tuple[Image.Image, Frame]], side: int) -> Tensor:
    """uint8 (B, side, side, 3); a frame of another size, as a window of a dense image, is brought to this one."""
    pixels = [np.asarray(image.resize((side, side), Image.Resampling.BICUBIC, box=frame)) for image, frame in images]
    return torch.from_numpy(np.stack(pixels))
