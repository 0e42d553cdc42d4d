"""The section `prepare`: sources, storage and splits."""

from typing import Literal

from pydantic import Field

from franca.params.section import Probability, Section


class Prepare(Section):
    """The section `prepare`."""

    source: str = Field(min_length=1, description="Folder or URL of the images; see docs/data.md for its layouts.")
    dense_source: str | None = Field(
        description="Folder of images with segmentation masks for dense evaluation; null for none."
    )
    storage: Literal["pack", "in_place"] = Field(
        description="Copy the images into the store (pack), or read them from their tars (in_place)."
    )
    val_fraction: float = Field(
        gt=0, lt=1, description="Share of the training images held out as val, if the source has no val folder."
    )
    test_fraction: float = Field(
        gt=0, lt=1, description="Share of all images held out as test, if the source has no test folder."
    )
    duplicate_bits: int = Field(
        ge=0,
        le=16,
        description="Maximum number of different bits (of 64) between the perceptual hashes of two duplicates.",
    )
    max_refused: Probability = Field(
        description="Share of images that may be unreadable, in prepare and in training, before the stage fails."
    )
