"""Feature extractors: a model, and the baselines that use no network (raw pixels, color histogram)."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import linear

from franca.benchmarks import COLOR_HISTOGRAM, RANDOM_INIT, RAW_PIXELS
from franca.evaluation.features import FeatureExtractor
from franca.models import Features, FrancaModel, random_twin
from franca.models.model import normalize
from franca.params import ChannelStatistics
from franca.probes.pixels import patch_pixels, pixel_features


def model_extractor(name: str, model: FrancaModel, device: torch.device) -> FeatureExtractor:
    """Return a Franca model as an extractor; moves the model to `device`."""
    model = model.to(device)

    def embed(images: Tensor) -> Features:
        with low_precision(device):
            pooled, patches = model(images.to(device))
        return Features(pooled.float(), patches.float())

    def keys(images: Tensor) -> Tensor:
        with low_precision(device):
            return last_keys(model, images.to(device))

    return FeatureExtractor(
        name, embed, model.image_size, model.patch_size, levels=model.levels, learned=True, keys=keys
    )


def low_precision(device: torch.device) -> torch.autocast:
    """Return autocast to bfloat16 on a GPU that has it in hardware; elsewhere, a context that changes nothing."""
    native = device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
    return torch.autocast(device.type, torch.bfloat16, enabled=native)


def last_keys(model: FrancaModel, images: Tensor) -> Tensor:
    """Return the keys of the last block's attention for each patch, all heads side by side: (B, h, w, D) float32.

    Args:
        model: The model.
        images: (B, 3, H, W) uint8, on the model's device.
    """
    attention = model.backbone.blocks[-1].attn
    inputs: list[Tensor] = []
    hook = attention.register_forward_pre_hook(lambda module, args: inputs.append(args[0]))
    try:
        model.forward_features(images)
    finally:
        hook.remove()
    tokens = inputs[0][:, model.backbone.num_prefix_tokens :]
    if attention.qkv is None:
        keys = attention.k_proj(tokens)
    else:
        # Queries, keys and values are rows of one weight. Some timm models have no bias of keys.
        bias = attention.qkv.bias
        keys = linear(tokens, attention.qkv.weight.chunk(3)[1], None if bias is None else bias.chunk(3)[1])
    return keys.float().unflatten(1, [side // model.patch_size for side in images.shape[-2:]])


def baseline_extractors(
    model: FrancaModel, channels: ChannelStatistics, seed: int, device: torch.device
) -> list[FeatureExtractor]:
    """Return the baselines of a model: the same network with random weights, raw pixels, and the color histogram."""
    side, patch = model.image_size, model.patch_size
    return [
        model_extractor(RANDOM_INIT, random_twin(model, seed), device),
        raw_pixels(*channels, side, patch, device),
        color_histogram(side, patch, device),
    ]


def raw_pixels(
    mean: Sequence[float], std: Sequence[float], image_size: int, patch_size: int, device: torch.device
) -> FeatureExtractor:
    """Return an extractor of normalized pixels: `pixel_features` of the image, and all pixels of each patch.

    Args:
        mean: Channel means of images in 0..1.
        std: Channel standard deviations of images in 0..1.
        image_size: Side in pixels to which images are resized.
        patch_size: Side of a patch in pixels.
        device: Where features are computed.
    """

    def embed(images: Tensor) -> Features:
        pixels = normalize(images.to(device).float() / 255, mean, std)
        return Features(pixel_features(pixels), patch_pixels(pixels, patch_size).flatten(3))

    return FeatureExtractor(RAW_PIXELS, embed, image_size, patch_size)


def color_histogram(image_size: int, patch_size: int, device: torch.device) -> FeatureExtractor:
    """Return an extractor of color: the histogram of an image; mean and standard deviation per channel of a patch.

    The pooled features (B, 512) are the square roots of the shares of pixels in 8 x 8 x 8 bins of RGB, whose distance
    is Hellinger's. They are taken from images of their own size, since resizing mixes colors.
    """

    def embed(images: Tensor) -> Features:
        patches = patch_pixels(images.to(device).float() / 255, patch_size).flatten(4)
        colors = torch.cat([patches.mean(4), patches.std(4, unbiased=False)], dim=3)
        return Features(histogram(images), colors)

    def histogram(images: Tensor) -> Tensor:
        red, green, blue = (images.to(device) >> 5).int().unbind(1)
        bins = (red << 6) + (green << 3) + blue
        # One bincount for the batch: each image counts into 512 bins of its own.
        start = 512 * torch.arange(len(bins), device=device, dtype=torch.int32).view(-1, 1, 1)
        counts = torch.bincount((bins + start).flatten(), minlength=512 * len(bins)).view(-1, 512)
        return (counts.float() / bins[0].numel()).sqrt()

    return FeatureExtractor(COLOR_HISTOGRAM, embed, image_size, patch_size, native=histogram)
