"""What all sources of images with segmentation masks share: class names, and checks of the masks."""

import io
from collections.abc import Callable, Mapping
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from pydantic import BaseModel, ConfigDict, Field, model_validator

from franca.data.ingest.sources.source import Sample, Source
from franca.data.store.files.folders import Unreadable
from franca.data.store.images.file_types import PNG_DEPTH

Readers = Mapping[str, Callable[[], bytes]]
"""For each file, by its relative name, a function that returns its bytes."""


class DenseClasses(BaseModel):
    """Class names in the order of their indices, and the index of unlabelled pixels."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    classes: list[str] = Field(min_length=2, max_length=255)
    ignore: int = Field(ge=0, le=255)

    @model_validator(mode="after")
    def _distinct(self) -> Self:
        if self.ignore < len(self.classes):
            raise ValueError(f"ignore {self.ignore} is the index of class {self.classes[self.ignore]}")
        return self


class MaskSource(Source):
    """Images with segmentation masks. Subclasses set `classes`."""

    has_classes = False
    classes: DenseClasses

    def check(self, sample: Sample, height: int, width: int) -> str | None:
        """Return what is wrong with the mask of a sample, or None."""
        mask = read_mask(sample.mask or b"", height, width)
        if isinstance(mask, str):
            return mask
        values = np.flatnonzero(np.bincount(mask.ravel(), minlength=256))
        wrong = values[(values >= len(self.classes.classes)) & (values != self.classes.ignore)]
        if len(wrong):
            return f"its mask holds the value {wrong[0]}, which is no class and not ignore ({self.classes.ignore})"
        return None

    def about(self) -> dict[str, Any]:
        """Return class names and the ignored index, for the manifest."""
        return self.classes.model_dump()


def read_mask(content: bytes, height: int, width: int) -> NDArray[np.uint8] | str:
    """Return the numbers in an index PNG of the given size, uint8 (H, W), or what is wrong with it."""
    try:
        image = Image.open(io.BytesIO(content), formats=("PNG",))
        mask = np.asarray(image)
    except Exception as error:  # Pillow raises many types of exceptions on bad bytes
        return f"its mask is not a readable PNG ({error})"
    if image.mode not in ("L", "P"):
        return f"its mask has mode {image.mode}; it must be an 8-bit index PNG"
    # Pillow scales gray of 2 and 4 bits to 0..255, so the indices would be lost.
    if image.mode == "L" and content[PNG_DEPTH] != 8:
        return f"its mask is a gray PNG of {content[PNG_DEPTH]} bits; it must be an 8-bit index PNG"
    if mask.shape != (height, width):
        return f"its mask is {mask.shape[1]}x{mask.shape[0]}, the image {width}x{height}"
    return mask


def read_pair(
    readers: Readers, image: str | None, mask: str | None, what: str = "mask"
) -> tuple[bytes, bytes, str | None]:
    """Return the bytes of an image and of its mask, called `what`, or the reason why one of them is missing."""
    if image is None or mask is None:
        return b"", b"", f"it has no {'image' if image is None else what}"
    try:
        image_bytes = readers[image]()
    except Unreadable as error:
        return b"", b"", str(error)
    try:
        return image_bytes, readers[mask](), None
    except Unreadable as error:
        return b"", b"", f"its {what} cannot be read: {error}"
