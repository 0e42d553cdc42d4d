"""The finished model: backbone, normalization and removal of position in one module, and its folder on disk."""

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import timm
import torch
from pydantic import ValidationError
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from timm.models.eva import Eva
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from franca.errors import FrancaError
from franca.files import read_json, sha256_file, write_bytes, write_json
from franca.models.backbone import Backbone, nesting_levels
from franca.models.planes import projection
from franca.params import Backbone as BackboneParams
from franca.params import ResolvedBase

Channels = tuple[float, float, float]
"""One value for each of red, green and blue, for images in 0..1."""
Architecture = BackboneParams | str
"""Parameters of `Backbone`, or the name of a plain vision transformer of timm."""


class Features(NamedTuple):
    """Features of a batch of images."""

    pooled: Tensor
    """(B, D) float32, one vector for each image"""
    patches: Tensor
    """(B, h, w, D) float32, one vector for each patch"""


class FrancaModel(nn.Module):
    """A model that maps images (B, 3, H, W) uint8 to `Features`; H and W are multiples of the patch size.

    Pooled features are the class token of `Backbone`, or what a timm model passes to its classifier. Calls raise
    TypeError for images of another dtype and ValueError for another shape (see `check_images`).
    """

    position_planes: Tensor
    """(rounds, 2, D) float32, the planes that RASA removes from patches"""
    patch_projection: Tensor
    """(D, D) float32, the removal of all planes as one product"""

    def __init__(
        self, architecture: Architecture, image_size: int, mean: Channels, std: Channels, dim: int | None = None
    ) -> None:
        """Create a model with random weights, in evaluation mode and without gradients.

        Args:
            architecture: Parameters of `Backbone`, or the name of a timm model.
            image_size: Native side of images in pixels.
            mean: Mean of each channel.
            std: Standard deviation of each channel.
            dim: Number of leading dimensions to keep (a Matryoshka truncation); None for all.

        Raises:
            FrancaError: timm has no plain vision transformer of that name.
        """
        super().__init__()
        self.architecture = architecture
        self.mean, self.std = mean, std
        self.image_size = image_size
        self.backbone = _make_backbone(architecture, image_size)
        self.patch_size: int = self.backbone.patch_embed.patch_size[0]
        self.width: int = self.backbone.embed_dim
        self.embed_dim = dim or self.width
        nested = nesting_levels(self.width) if isinstance(architecture, BackboneParams) else ()
        self.levels = tuple(level for level in nested if level <= self.embed_dim)
        self.digest = ""
        self.register_buffer("position_planes", torch.zeros(0, 2, self.width))
        self.register_buffer("patch_projection", torch.eye(self.width), persistent=False)
        self.eval().requires_grad_(False)

    def remove_position(self, planes: Tensor) -> None:
        """Remove exactly these planes, (rounds, 2, D), from patches in all later calls."""
        # A copy: tensors of a memory-mapped file may have an alignment for which products round differently.
        self.position_planes = planes.detach().float().clone()
        self.patch_projection = projection(self.position_planes, self.width)

    def forward(self, images: Tensor) -> Features:
        """Return the features of images (B, 3, H, W) uint8, without position and truncated to `embed_dim`."""
        tokens = self.forward_features(images)
        pooled = self.backbone.forward_head(tokens, pre_logits=True)
        patches = tokens[:, self.backbone.num_prefix_tokens :] @ self.patch_projection.T
        height, width = (side // self.patch_size for side in images.shape[-2:])
        return Features(pooled[:, : self.embed_dim], patches[..., : self.embed_dim].unflatten(1, (height, width)))

    def forward_features(self, images: Tensor) -> Tensor:
        """Return all tokens after the last norm, with position and all dimensions.

        Args:
            images: (B, 3, H, W) uint8.

        Returns:
            (B, prefix + h w, D) float32: `backbone.num_prefix_tokens` tokens (class token, registers), then the
            patches row by row.
        """
        tokens: Tensor = self.backbone.forward_features(self._normalize(images))
        return tokens.float()

    def forward_intermediates(
        self, images: Tensor, indices: int | Sequence[int] | None = None, norm: bool = True
    ) -> list[Features]:
        """Return the class token and the patches of several blocks.

        Position is not removed: RASA has learned the planes of the last block only.

        Args:
            images: (B, 3, H, W) uint8.
            indices: The last n blocks, the blocks of a list (0 is the first), or None for all.
            norm: Whether to apply the last norm to each block, as DINOv2's linear evaluations do.

        Returns:
            Features of each block. Without a class token, `pooled` is the mean of the patches.

        Raises:
            FrancaError: A block does not exist.
        """
        depth = len(self.backbone.blocks)
        requested = [-indices] if isinstance(indices, int) else indices or []
        if (isinstance(indices, int) and indices < 1) or any(not -depth <= i < depth for i in requested):
            raise FrancaError(f"no such block: {indices}; the model has {depth}, 0 to {depth - 1}")
        blocks: list[tuple[Tensor, Tensor]] = self.backbone.forward_intermediates(
            self._normalize(images),
            indices=indices if indices is None or isinstance(indices, int) else [i % depth for i in indices],
            return_prefix_tokens=True,
            norm=norm,
            intermediates_only=True,
        )
        return [_block_features(block, self.backbone.cls_token is not None) for block in blocks]

    def _normalize(self, images: Tensor) -> Tensor:
        check_images(images, self.patch_size)
        return normalize(images.float() / 255, self.mean, self.std)


def check_images(images: Any, patch_size: int) -> None:
    """Check that images are a uint8 tensor (B, 3, H, W) whose sides are multiples of the patch size.

    Raises:
        TypeError: `images` is not a tensor or not of dtype uint8.
        ValueError: It has another shape.
    """
    # Other dtypes would give wrong features without an error: divided by 255 again, an image in 0..1 is black.
    if not isinstance(images, Tensor):
        raise TypeError(f"images: a {type(images).__name__}, not a torch.Tensor of uint8; {_conversion(images)}")
    if images.dtype != torch.uint8:
        way = (
            "the model normalizes images itself: convert values in 0..1 by (images * 255).round().to(torch.uint8)"
            if images.is_floating_point()
            else "convert values in 0..255 by images.to(torch.uint8)"
        )
        raise TypeError(f"images: {images.dtype}, not torch.uint8; {way}")
    shape = tuple(images.shape)
    if len(shape) == 3 and 3 in (shape[0], shape[2]):
        way = "add the batch dimension: images[None]" + ("" if shape[0] == 3 else ".permute(0, 3, 1, 2)")
    elif len(shape) == 4 and shape[1] != 3 and shape[3] == 3:
        way = "move the channels in front: images.permute(0, 3, 1, 2)"
    elif len(shape) == 4 and shape[1] == 1:
        way = "repeat the gray channel: images.expand(-1, 3, -1, -1)"
    elif len(shape) == 4 and shape[1] == 4:
        way = "leave the alpha channel out: images[:, :3]"
    elif len(shape) != 4 or shape[1] != 3:
        way = "stack RGB images, (3, H, W) each"
    elif any(side < 1 or side % patch_size for side in shape[2:]):
        raise ValueError(
            f"images: {shape[2]} x {shape[3]} pixels (H x W) are not multiples of the patch size {patch_size};"
            " resize or crop them"
        )
    else:
        return
    raise ValueError(f"images: shape {shape}, not (B, 3, H, W); {way}")


def _conversion(images: Any) -> str:
    if hasattr(images, "__array_interface__") and hasattr(images, "ndim"):
        return "convert an array by torch.from_numpy(images)"
    return "stack uint8 tensors (3, H, W), for example torchvision's pil_to_tensor of each image"


def _block_features(block: Tensor | tuple[Tensor, Tensor], has_class_token: bool) -> Features:
    maps, prefix = (block, None) if isinstance(block, Tensor) else block
    patches = maps.float().permute(0, 2, 3, 1)
    if prefix is None or not has_class_token:
        return Features(patches.mean(dim=(1, 2)), patches)
    return Features(prefix[:, 0].float(), patches)


def _make_backbone(architecture: Architecture, image_size: int) -> Any:
    """Return a backbone with random weights; raise FrancaError if timm has no plain ViT of that name."""
    if isinstance(architecture, BackboneParams):
        return Backbone(architecture, image_size)
    try:
        made = timm.create_model(
            architecture, pretrained=False, num_classes=0, img_size=image_size, dynamic_img_size=True
        )
    except (RuntimeError, TypeError, ValueError, AssertionError) as error:
        raise FrancaError(
            f"{architecture}: timm makes no plain vision transformer of that name and {image_size} pixels"
            f" ({' '.join(str(error).split())})"
        ) from None
    if not isinstance(made, VisionTransformer | Eva):
        raise FrancaError(f"{architecture}: a {type(made).__name__}, not a plain vision transformer")
    return made


def normalize(images: Tensor, mean: Sequence[float], std: Sequence[float]) -> Tensor:
    """Return (images - mean) / std for images (B, 3, H, W) float32 in 0..1, for each channel."""
    shift, scale = (torch.tensor(values, device=images.device).view(3, 1, 1) for values in (mean, std))
    return (images - shift) / scale


def random_model(base: ResolvedBase) -> FrancaModel:
    """Return an untrained model with random weights drawn from `base.seed`; the global generator is not used."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(base.seed)
        return FrancaModel(base.backbone, base.image_size, base.mean, base.std)


def random_twin(model: FrancaModel, seed: int) -> FrancaModel:
    """Return a model of the same architecture and number of dimensions with random weights drawn from `seed`."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return FrancaModel(model.architecture, model.image_size, model.mean, model.std, model.embed_dim)


def save_model(model: FrancaModel, folder: Path) -> None:
    """Write `model.safetensors` and `config.json` to `folder`; equal weights give equal bytes."""
    write_bytes(folder / "model.safetensors", _weights(model))
    write_json(folder / "config.json", model_config(model))


def weights_digest(model: FrancaModel) -> str:
    """Return the SHA-256 of the `model.safetensors` that `save_model` would write."""
    return hashlib.sha256(_weights(model)).hexdigest()


def _weights(model: FrancaModel) -> bytes:
    return save({name: tensor.contiguous() for name, tensor in model.state_dict().items()})


def model_config(model: FrancaModel) -> dict[str, Any]:
    """Return the content of `config.json` for a model folder."""
    ours = isinstance(model.architecture, BackboneParams)
    return {
        "format": "franca" if ours else "timm",
        "architecture": model.architecture.model_dump() if ours else model.architecture,  # type: ignore[union-attr]
        "image_size": model.image_size,
        "dim": model.embed_dim,
        "levels": list(model.levels),
        "mean": list(model.mean),
        "std": list(model.std),
    }


def load_model(folder: Path) -> FrancaModel:
    """Load a model from its folder.

    Raises:
        FrancaError: A file is missing or invalid, or keys of the weights are missing, unexpected or of another shape.
    """
    weights_path = folder / "model.safetensors"
    try:
        config: dict[str, Any] = read_json(folder / "config.json")
        about: Any = config["architecture"]
        architecture = BackboneParams.model_validate(about) if config["format"] == "franca" else str(about)
        channels = tuple(config["mean"]), tuple(config["std"])
        model = FrancaModel(architecture, config["image_size"], *channels, dim=config["dim"])
        state = load_file(weights_path)
        model.remove_position(state["position_planes"])
    except FileNotFoundError as error:
        raise FrancaError(f"{folder}: not a model folder, {error.filename or weights_path} is missing") from None
    except (SafetensorError, ValueError, ValidationError, KeyError, TypeError, IndexError, RuntimeError) as error:
        reason = " ".join(str(error).split())
        raise FrancaError(f"{folder}: not a readable model: {reason}") from None
    load_weights(model, state, str(weights_path))
    model.digest = sha256_file(weights_path)
    return model


def load_weights(module: nn.Module, state: dict[str, Tensor], origin: str, assign: bool = False) -> None:
    """Copy `state` into `module`.

    Args:
        module: The module, which must have exactly the keys and shapes of `state`.
        state: Weights by name.
        origin: Where the weights are from, for the error message.
        assign: Whether to use the tensors of `state` themselves, for a module on the meta device.

    Raises:
        FrancaError: Keys are missing, unexpected or of another shape.
    """
    own = module.state_dict()
    faults = [f"missing {key}" for key in own.keys() - state.keys()]
    faults += [f"unexpected {key}" for key in state.keys() - own.keys()]
    faults += [
        f"{key} is {tuple(state[key].shape)}, not {tuple(own[key].shape)}"
        for key in own.keys() & state.keys()
        if own[key].shape != state[key].shape
    ]
    if faults:
        shown = "; ".join(sorted(faults)[:5]) + (f"; and {len(faults) - 5} more" if len(faults) > 5 else "")
        raise FrancaError(f"{origin}: the weights do not fit the architecture: {shown}")
    module.load_state_dict(state, assign=assign)
