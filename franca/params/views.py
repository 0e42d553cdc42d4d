"""The parts of `pretrain` that make a training sample of an image: crops, augmentation and masks."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from franca.params.section import NonNegative, Probability, Section


class Crops(Section):
    """Random crops of an image."""

    global_scale: tuple[Probability, Probability] = Field(
        description="Smallest and largest area of a global crop, as a share of the image."
    )
    local_count: int = Field(ge=0, le=32, description="Number of local crops of each image.")
    local_size: int = Field(ge=8, description="Side of a local crop, in pixels.")
    local_scale: tuple[Probability, Probability] = Field(
        description="Smallest and largest area of a local crop, as a share of the image."
    )

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        for name in ("global_scale", "local_scale"):
            low, high = getattr(self, name)
            if not 0 < low <= high:
                raise ValueError(f"{name} [{low}, {high}] must rise from above 0")
        return self


class Augment(Section):
    """Random changes of a crop's orientation and colors."""

    orientation: Literal["flip", "dihedral"] = Field(
        description="Random horizontal flip (flip), or random flips and 90-degree rotations (dihedral)."
    )
    jitter: tuple[NonNegative, NonNegative, NonNegative, Annotated[float, Field(ge=0, le=0.5)]] = Field(
        description="Strength of brightness, contrast, saturation and hue jitter."
    )
    jitter_probability: Probability = Field(description="Share of crops with color jitter.")
    gray_probability: Probability = Field(description="Share of crops converted to grayscale.")
    blur_probability: tuple[Probability, Probability, Probability] = Field(
        description="Share of crops blurred: first global crop, second global crop, local crops."
    )
    solarize_probability: Probability = Field(description="Share of second global crops solarized.")


class Masks(Section):
    """Masks of patches for iBOT."""

    kind: Literal["inverse_block", "block", "multi_block", "random"] = Field(
        description="What is masked: all but a block, one block, several blocks (DINOv2), or random patches."
    )
    cyclic: bool = Field(description="Shift each mask cyclically by a random offset on both axes (CyclicMask).")
    image_share: Probability = Field(description="Share of global crops that are masked.")
    ratio: tuple[Probability, Probability] = Field(
        description="Smallest and largest share of masked patches in a masked crop."
    )

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if not self.ratio[0] <= self.ratio[1]:
            raise ValueError(f"ratio [{self.ratio[0]}, {self.ratio[1]}] must rise")
        return self
