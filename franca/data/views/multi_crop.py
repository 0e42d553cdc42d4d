"""Multi-crop: two global crops and several local ones of each image of a step, each with its own color changes."""

from collections.abc import Iterable, Iterator
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from franca.data.views.batch import CropSpecs, FlatCropSpecs, Views
from franca.data.views.batched_crop import plan_crops
from franca.data.views.color import COLOR_DRAWS, Color, random_color
from franca.data.views.crop_boxes import BOX_DRAWS, ORIENTATION_DRAWS, Floats, crop_with_pillow, orient, random_boxes
from franca.params import Augment, Crops

Frame = tuple[float, float, float, float]
"""Left, upper, right and lower edge of the part to crop from, in pixels; fractions of a pixel if it was shrunk."""
SHRINKS = (8, 4, 2, 1)
"""Factors by which a JPEG can be decoded smaller."""


class Draws(NamedTuple):
    """Uniform numbers in 0..1 that determine the crops of B images."""

    box: Floats
    """(22, B, crops)"""
    orientation: Floats
    """(3, B, crops)"""
    color: Floats
    """(9, B, crops)"""


class MultiCrop:
    """Global and local crops of images.

    There are three implementations: `views` crops with Pillow, image by image. `specs` and `flat_specs` describe crops
    for `batched_crop`, which makes all of them at once. From the same draws, all three make the same crops, except for
    rounding.
    """

    def __init__(self, size: int, crops: Crops, augment: Augment) -> None:
        """Store the settings.

        Args:
            size: Side of global crops, in pixels.
            crops: Scales of both kinds of crops; side and number of local crops.
            augment: Orientation and color changes.
        """
        self._sides = (size, crops.local_size)
        self._groups = (slice(0, 2), slice(2, 2 + crops.local_count))
        self._augment = augment
        self._scales = np.array([crops.global_scale] * 2 + [crops.local_scale] * crops.local_count)
        self._side_of_each = np.array([size] * 2 + [crops.local_size] * crops.local_count)
        first, second, local = augment.blur_probability
        self._blur = [first, second] + [local] * crops.local_count
        self._solarize = [0.0, augment.solarize_probability] + [0.0] * crops.local_count

    def draw(self, rng: np.random.Generator, batch_size: int, part: slice) -> Draws:
        """Draw the numbers for the images `part` of a batch.

        The numbers of the whole batch are drawn, so every process gets the same ones for the same image.
        """
        counts = (BOX_DRAWS, ORIENTATION_DRAWS, COLOR_DRAWS)
        return Draws(*(rng.random((count, batch_size, len(self._scales)))[:, part] for count in counts))

    def views(self, images: Iterable[tuple[Image.Image, Frame]], draws: Draws) -> tuple[Views, Views]:
        """Crop images of any size with Pillow.

        Args:
            images: B images and their frames. They are used one at a time, so an iterator needs memory for one.
            draws: The numbers that determine the crops.

        Returns:
            Global and local views.
        """
        batch = draws.box.shape[1]
        pixels = [
            np.empty((group.stop - group.start, batch, 3, side, side), dtype=np.uint8)
            for group, side in zip(self._groups, self._sides, strict=True)
        ]
        for row, (image, frame) in enumerate(images):
            boxes, transposed = self._boxes_in(frame, draws, row)
            for crops, group, side in zip(pixels, self._groups, self._sides, strict=True):
                crops[:, row] = crop_with_pillow(image, boxes[group], transposed[group], side)
        global_views, local_views = (
            Views(torch.from_numpy(crops).flatten(0, 1), color)
            for crops, color in zip(pixels, self._colors(draws), strict=True)
        )
        return global_views, local_views

    def shrink(self, box: Floats, size: tuple[int, int]) -> int:
        """Return the largest factor by which a JPEG may be shrunk so that none of its crops has to be enlarged.

        Boxes are relative to the image, so the same draws give the same boxes, divided by the factor, in the shrunk
        image.

        Args:
            box: The image's numbers for boxes, (22, crops).
            size: Width and height of the image, in pixels.
        """
        left, upper, right, lower = random_boxes(box, size, self._scales).T
        least = float((np.minimum(right - left, lower - upper) / self._side_of_each).min())
        return next((shrink for shrink in SHRINKS if shrink <= least), 1)

    def specs(self, draws: Draws, side: int) -> tuple[CropSpecs, CropSpecs]:
        """Return the specifications of global and local crops of square images with `side` pixels a side."""
        boxes, transposed = self._boxes(draws.box, draws.orientation, (side, side))
        global_specs, local_specs = (
            CropSpecs(
                torch.from_numpy(boxes[:, group].astype(np.float32)),
                torch.from_numpy(transposed[:, group].T.flatten()),
                crop_side,
                color,
            )
            for group, crop_side, color in zip(self._groups, self._sides, self._colors(draws), strict=True)
        )
        return global_specs, local_specs

    def flat_specs(
        self, images: Iterable[tuple[Image.Image, Frame]], draws: Draws
    ) -> tuple[Tensor, FlatCropSpecs, FlatCropSpecs]:
        """Gather the pixels of images of any size, and specify their crops.

        Args:
            images: B images and their frames, used one at a time.
            draws: The numbers that determine the crops.

        Returns:
            pixels: The pixels that the crops need, row by row, one image after the other, uint8 (P, 3).
            global_specs: Specification of the global crops.
            local_specs: Specification of the local crops.
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

        def spec(group: slice, side: int, color: Color) -> FlatCropSpecs:
            own = boxes[:, group].swapaxes(0, 1)
            count = len(own)
            plan = plan_crops(own.reshape(-1, 4), np.tile(sizes, (count, 1)), side, np.tile(firsts, count))
            return FlatCropSpecs(plan, torch.from_numpy(transposed[:, group].T.flatten()), side, color)

        global_specs, local_specs = map(spec, self._groups, self._sides, self._colors(draws))
        return torch.from_numpy(np.concatenate(pixels)), global_specs, local_specs

    def _boxes_in(self, frame: Frame, draws: Draws, row: int) -> tuple[Floats, NDArray[np.bool_]]:
        """Return boxes (crops, 4) in pixels and transposed crops (crops,) of image `row`, within its frame."""
        left, upper, right, lower = frame
        size = (right - left, lower - upper)
        boxes, transposed = self._boxes(draws.box[:, row], draws.orientation[:, row], size)
        boxes += (left, upper, left, upper)
        return boxes, transposed

    def _boxes(self, box: Floats, orientation: Floats, size: tuple[float, float]) -> tuple[Floats, NDArray[np.bool_]]:
        """Return boxes (…, crops, 4) in an image of `size`, and transposed crops (…, crops)."""
        return orient(random_boxes(box, size, self._scales), orientation, self._augment.orientation)

    def _colors(self, draws: Draws) -> Iterator[Color]:
        """Yield the color changes of the global crops, then of the local crops."""
        for group in self._groups:
            yield random_color(draws.color[:, :, group], self._augment, self._blur[group], self._solarize[group])


def _needed(image: Image.Image, boxes: Floats, sides: NDArray[np.int64]) -> tuple[Image.Image, Floats]:
    """Return the part of an image that its crops need, and their boxes in that part.

    Args:
        image: The image.
        boxes: Boxes of the crops in pixels of the image, (crops, 4).
        sides: Sides of the crops in pixels, (crops,).
    """
    low, high = np.minimum(boxes[:, :2], boxes[:, 2:]), np.maximum(boxes[:, :2], boxes[:, 2:])
    # The filter reaches this far beyond the boxes; one pixel more for rounding.
    reach = 2 * np.maximum((high - low) / sides[:, None], 1) + 1
    left, upper = np.maximum(np.floor((low - reach).min(axis=0)), 0).astype(int).tolist()
    right, lower = np.minimum(np.ceil((high + reach).max(axis=0)), image.size).astype(int).tolist()
    return image.crop((left, upper, right, lower)), boxes - (left, upper, left, upper)


def stack(images: Iterable[tuple[Image.Image, Frame]], side: int) -> Tensor:
    """Stack images, uint8 (B, side, side, 3); frames of another size, such as windows of dense images, are resized."""
    pixels = [np.asarray(image.resize((side, side), Image.Resampling.BICUBIC, box=frame)) for image, frame in images]
    return torch.from_numpy(np.stack(pixels))
