"""The section `base`: image size, channel statistics and architecture."""

from typing import Annotated, Any, Literal, NamedTuple, Self

from pydantic import Discriminator, Field, Tag, model_validator

from franca.params.section import Count, Positive, Probability, Section

Means = tuple[Probability, Probability, Probability]
Deviations = tuple[Positive, Positive, Positive]

_NUMBERS, _AUTO = "(numbers)", "(auto)"
TAGS = frozenset({_NUMBERS, _AUTO})
"""Names that pydantic adds to the path of an error below `mean` and `std`."""


def _kind(value: Any) -> str | None:
    if value == "auto":
        return _AUTO
    return _NUMBERS if isinstance(value, list | tuple) else None


_NUMBERS_OR_AUTO = Discriminator(
    _kind, custom_error_type="channels", custom_error_message="input should be a list of three numbers, or auto"
)
AnyMeans = Annotated[Annotated[Means, Tag(_NUMBERS)] | Annotated[Literal["auto"], Tag(_AUTO)], _NUMBERS_OR_AUTO]
AnyDeviations = Annotated[
    Annotated[Deviations, Tag(_NUMBERS)] | Annotated[Literal["auto"], Tag(_AUTO)], _NUMBERS_OR_AUTO
]


class ChannelStatistics(NamedTuple):
    """Mean and standard deviation of R, G and B, for pixel values from 0 to 1."""

    mean: Means
    std: Deviations


class Backbone(Section):
    """Architecture of the vision transformer."""

    patch_size: int = Field(ge=1, le=64, description="Side of a square patch, in pixels.")
    embed_dim: int = Field(ge=16, description="Embedding dimension D; a multiple of 16 and of num_heads.")
    depth: Count = Field(description="Number of transformer blocks.")
    num_heads: Count = Field(description="Number of attention heads in each block.")
    ffn: Literal["mlp", "swiglu"] = Field(description="Feed-forward layer: mlp (with GELU) or swiglu (the paper's).")
    registers: int = Field(ge=0, description="Number of register tokens.")
    layer_scale: Positive = Field(description="Initial value of LayerScale.")
    position_resampling: Literal["offset", "antialias"] = Field(
        description="Resize position embeddings as Franca and DINOv2 (offset) or DINOv2 with registers (antialias)."
    )

    @model_validator(mode="after")
    def _divisible(self) -> Self:
        if self.embed_dim % 16 or self.embed_dim % self.num_heads:
            raise ValueError(f"embed_dim {self.embed_dim} must be a multiple of 16 and of num_heads {self.num_heads}")
        return self


class Base(Section):
    """The section `base`: values used by several stages."""

    seed: int = Field(ge=0, lt=2**32, description="Seed of all random number generators.")
    image_size: int = Field(ge=8, le=2048, description="Side of global crops and of evaluation images, in pixels.")
    mean: AnyMeans = Field(
        description="Channel means (R, G, B) of pixel values in 0..1; auto: measured on the training images."
    )
    std: AnyDeviations = Field(
        description="Channel standard deviations of pixel values in 0..1; auto: measured on the training images."
    )
    backbone: Backbone = Field(description="Architecture of the vision transformer.")

    @model_validator(mode="after")
    def _whole_patches(self) -> Self:
        if self.image_size % self.backbone.patch_size:
            raise ValueError(
                f"image_size {self.image_size} must be a multiple of backbone.patch_size {self.backbone.patch_size}"
            )
        return self
