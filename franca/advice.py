"""Advice for a model that is no better than its baselines."""

from franca.params import ChannelStatistics, Params

FEW_STEPS = 1000
"""Number of steps below which a run counts as short."""
FEW_IMAGES = 2000
"""Number of training images below which a data set counts as small."""
FAR = 0.05
"""Difference between a channel's mean or standard deviation and the data's, in 0..1, above which they do not match."""

USUAL = (
    "usual causes: too few steps, too few images, crops or augmentation that do not fit the images"
    " (pretrain.augment.orientation, jitter, blur), base.mean and base.std of other images,"
    " pretrain.optimizer.base_lr too low or 0"
)


def causes(params: Params, steps: int, images: int, channels: ChannelStatistics | None) -> str:
    """Return a sentence with likely causes in this run, followed by the usual causes.

    Args:
        params: The run's parameters.
        steps: Number of steps of the run.
        images: Number of training images.
        channels: Statistics of the training images; None if unknown.
    """
    found = []
    if params.pretrain.optimizer.base_lr == 0:
        found.append("pretrain.optimizer.base_lr is 0, so the learning rate never exceeds min_lr")
    if steps < FEW_STEPS:
        found.append(f"the run has only {steps:,} steps (pretrain.epochs, pretrain.epoch_length)")
    if images < FEW_IMAGES:
        found.append(f"there are only {images:,} training images")
    for name, ours in (("mean", params.base.mean), ("std", params.base.std)):
        theirs = getattr(channels, name, None)
        if theirs and ours != "auto" and max(abs(a - b) for a, b in zip(ours, theirs, strict=True)) > FAR:
            values = ", ".join(f"{value:.3f}" for value in theirs)
            found.append(f"base.{name} is not that of the images, [{values}]")
    return f"in this run: {'; '.join(found)}; {USUAL}" if found else USUAL
