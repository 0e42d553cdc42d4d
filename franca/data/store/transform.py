"""The transform of evaluation: resize the short side, crop the center."""

from collections.abc import Iterable

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from franca.data.store.prepared import ImageSet


def resize_and_crop(image: Image.Image, size: int) -> Image.Image:
    """Resize the short side to `size` pixels (bicubic, antialiased) and crop the central square."""
    scale = size / min(image.size)
    width, height = (max(round(side * scale), size) for side in image.size)
    left, upper = (width - size) / 2 / scale, (height - size) / 2 / scale
    box = (left, upper, left + size / scale, upper + size / scale)
    return image.resize((size, size), Image.Resampling.BICUBIC, box=box)


def load_images(images: ImageSet, size: int, rows: Iterable[int] | None = None) -> Tensor:
    """Load and transform the images of the given rows, or all of them: uint8 (N, 3, size, size) on the CPU."""
    rows = range(len(images)) if rows is None else rows
    pixels = [np.asarray(resize_and_crop(image, size)) for image in images.fetch(rows)]
    if not pixels:
        return torch.zeros((0, 3, size, size), dtype=torch.uint8)
    return torch.from_numpy(np.stack(pixels)).permute(0, 3, 1, 2).contiguous()
