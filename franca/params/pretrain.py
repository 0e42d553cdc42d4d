"""The section `pretrain`: the run itself; crops, masks, heads, losses and optimizer are sections of their own."""

from typing import Literal, Self

from pydantic import Field, model_validator

from franca.params.objective import Heads, Losses, Optimizer
from franca.params.section import Count, Positive, Probability, Section
from franca.params.views import Augment, Crops, Masks


class Pretrain(Section):
    """The section `pretrain`."""

    init: str | None = Field(description="Model folder to start the backbone from; null for random weights.")
    batch_size: int = Field(ge=2, description="Number of images in a step, over all processes.")
    epochs: float = Field(
        ge=0,
        le=1e6,
        description="Length of the run, in epochs; fractions are allowed, and 0 uses the model of init as it is.",
    )
    epoch_length: Count | None = Field(
        description="Length of an epoch, in steps; null for one pass over the training images."
    )
    drop_path: float = Field(ge=0, lt=1, description="Stochastic depth rate, the same in every block.")
    precision: Literal["auto", "fp32", "bf16"] = Field(
        description="Autocast precision of backbone and heads; auto is bf16 if the hardware supports it natively."
    )
    dense_share: Probability = Field(
        description="Share of samples that are random windows of dense_source's training images."
    )
    shuffle_window: Count = Field(
        description="Number of consecutive samples that are shuffled together if prepare.storage is in_place."
    )
    crops: Crops = Field(description="Multi-crop.")
    augment: Augment = Field(description="Augmentation of each crop.")
    masks: Masks = Field(description="Masks of global crops.")
    heads: Heads = Field(description="Nested projection heads, one for class tokens and one for patches.")
    losses: Losses = Field(description="Terms of the loss.")
    optimizer: Optimizer = Field(description="AdamW and its schedules, and the teacher's momentum.")
    knn_epochs: Positive = Field(description="Interval of the k-NN evaluation on val during training, in epochs.")
    compat: Literal["none", "official"] = Field(
        description="Value official includes padding in the patches' Sinkhorn-Knopp, as the official code does."
    )

    @model_validator(mode="after")
    def _length_fits(self) -> Self:
        if self.batch_size % self.losses.koleo_images:
            raise ValueError(
                f"batch_size {self.batch_size} must be a multiple of losses.koleo_images {self.losses.koleo_images}"
            )
        if not self.epochs and not self.init:
            raise ValueError("epochs 0 trains nothing and needs a model in init")
        for value, name in (
            (self.optimizer.warmup_epochs, "optimizer.warmup_epochs"),
            (self.losses.teacher_warmup_epochs, "losses.teacher_warmup_epochs"),
            (self.optimizer.freeze_last_layer_epochs, "optimizer.freeze_last_layer_epochs"),
        ):
            if value > self.epochs > 0:
                raise ValueError(f"{name} {value:g} is longer than epochs {self.epochs:g}")
        return self
