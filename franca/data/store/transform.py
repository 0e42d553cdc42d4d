"""Images as evaluation sees them: short side resized, center cropped, uint8."""

from collections.abc import Iterable

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from franca.data.store.prepared import ImageSet


def resize_and_crop(image: Image.Image, size: int) -> Image.Image:
    """Resize so that the short side is `size` (bicubic, antialiased), then cut the central square."""
    scale = size / min(image.size)
    width, height = (max(round(side * scale), size) for side in image.size)
    left, upper = (width - size) / 2 / scale, (height - size) / 2 / scale
    box = (left, upper, left + size / scale, upper + size / scale)
    return image.resize((size, size), Image.Resampling.BICUBIC, box=box)


def load_images(images: ImageSet, size: int, rows: Iterable[int] | None = None) -> Tensor:
    """uint8 (N, 3, size, size) of the given rows, or of all."""
    rows = range(len(images)) if rows is None else rows
    pixels = [np.asarray(resize_and_crop(image, size)) for image in images.fetch(rows)]
    if not pixels:
        return torch.zeros((0, 3, size, size), dtype=torch.uint8)
    return torch.from_numpy(np.stack(pixels)).permute(0, 3, 1, 2).contiguous()
