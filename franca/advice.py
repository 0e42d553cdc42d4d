"""What usually keeps a model from being better than its baselines, from what is known of the run; text alone."""

from franca.params import ChannelStatistics, Params

FEW_STEPS = 1000
FEW_IMAGES = 2000
FAR = 0.05
"""Distance of a channel's mean or spread from the data's, in 0..1, that counts as other statistics."""

USUAL = (
    "usual causes: too few steps, too few images, crops or augmentation that do not fit the images"
    " (pretrain.augment.orientation, jitter, blur), base.mean and base.std of other images,"
    " pretrain.optimizer.base_lr too low or 0"
)


def causes(params: Params, steps: int, images: int, channels: ChannelStatistics | None) -> str:
    """Return one sentence: what is conspicuous in this run, and else the usual causes.

    Args:
        params: The run's parameters.
        steps: Length of the run.
        images: Number of training images.
        channels: statistics of the training images, if they are known.
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
