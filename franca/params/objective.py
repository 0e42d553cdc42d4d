"""The parts of `pretrain` that define the objective: heads, losses and optimizer."""

import math
from typing import Literal, Self

from pydantic import Field, model_validator

from franca.params.section import Count, NonNegative, Positive, Probability, Section


class Heads(Section):
    """Nested heads of class tokens and patches."""

    prototypes: int = Field(
        ge=16, description="Number of prototypes K of the finest level; a level of d_l dimensions has K d_l / D."
    )
    hidden_dim: Count = Field(description="Width of the hidden layers of each level's MLP.")
    bottleneck_dim: Count = Field(description="Output width of each level's MLP, before the prototypes.")
    init: Literal["fixed", "fan_in"] = Field(
        description="Standard deviation of initial weights: 0.02 (fixed, official code) or 1 / sqrt(fan-in) (fan_in)."
    )
    nesting: Literal["project", "slice", "none"] = Field(
        description="Input of a level: projection (project, official code), slice (the paper), or one level (none)."
    )
    sharing: Literal["dedicated", "shared"] = Field(
        description="One MLP and prototypes per level (dedicated), or one set for all levels (shared, slice only)."
    )

    @model_validator(mode="after")
    def _shared_needs_slices(self) -> Self:
        if self.sharing == "shared" and self.nesting != "slice":
            raise ValueError(f"sharing 'shared' needs nesting 'slice', not '{self.nesting}'")
        return self


class Losses(Section):
    """Weights and settings of the loss terms."""

    dino_weight: NonNegative = Field(description="Weight of the DINO loss (cross-entropy of class tokens).")
    ibot_weight: NonNegative = Field(description="Weight of the iBOT loss (cross-entropy of masked patches).")
    koleo_weight: NonNegative = Field(description="Weight of the KoLeo regularizer, which spreads class tokens.")
    contrastive_weight: NonNegative = Field(
        description="Weight of the contrastive loss (InfoNCE) on class tokens; 0, as in the paper, omits its head."
    )
    contrastive_temperature: Positive = Field(description="Temperature of the contrastive loss.")
    student_temperature: Positive = Field(description="Temperature of the student's softmax.")
    teacher_temperature: tuple[Positive, Positive] = Field(
        description="Temperature of the teacher's assignments at the first step and after warm-up."
    )
    teacher_warmup_epochs: NonNegative = Field(description="Warm-up of the teacher's temperature, in epochs.")
    koleo_images: int = Field(
        ge=2, description="Number of images in each group of KoLeo; batch_size must be a multiple of it."
    )
    assignment: Literal["sinkhorn", "centering"] = Field(
        description="How the teacher assigns prototypes: Sinkhorn-Knopp, or softmax with a moving center."
    )
    sinkhorn_iterations: Count = Field(description="Number of Sinkhorn-Knopp iterations.")
    center_momentum: Probability = Field(description="Momentum of the moving center; used if assignment is centering.")


class Optimizer(Section):
    """AdamW, its schedules and the teacher's moving average."""

    base_lr: NonNegative = Field(
        description="Peak learning rate for a batch of 1024 images; multiplied by sqrt(batch_size / 1024)."
    )
    min_lr: NonNegative = Field(description="Learning rate at the last step of the cosine schedule.")
    warmup_epochs: NonNegative = Field(description="Linear warm-up of the learning rate, in epochs.")
    weight_decay: tuple[NonNegative, NonNegative] = Field(description="Weight decay at the first and the last step.")
    layer_decay: float = Field(
        gt=0, le=1, description="Learning rate of a block divided by that of the next block; 1 for no decay."
    )
    patch_embed_lr: NonNegative = Field(description="Learning rate multiplier of the patch embedding.")
    freeze_last_layer_epochs: NonNegative = Field(
        description="Time for which the prototypes are frozen at the start, in epochs."
    )
    clip_norm: Positive = Field(description="Maximum gradient norm, applied to the backbone and to each head.")
    teacher_momentum: tuple[Probability, Probability] = Field(
        description="Momentum of the teacher's moving average at the first and the last step."
    )


def scaled_lr(optimizer: Optimizer, batch_size: int) -> float:
    """Return the peak learning rate, base_lr sqrt(batch / 1024): the rule of DINOv2 and Franca."""
    return optimizer.base_lr * math.sqrt(batch_size / 1024)
