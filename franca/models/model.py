"""A finished model: backbone, normalization and position removal in one module, and its folder on disk."""

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
Architecture = BackboneParams | str
"""Our backbone's parameters, or the name of one of timm's plain vision transformers."""


class Features(NamedTuple):
    """What every backbone returns: `pooled` (B, D) and `patches` (B, h, w, D), both float32."""

    pooled: Tensor
    patches: Tensor


class FrancaModel(nn.Module):
    """Maps uint8 images (B, 3, H, W), H and W multiples of the patch size, to `Features`.

    Each call raises TypeError for images of another dtype, and ValueError for another shape (see `check_images`).
    The pooled features of our backbone are its class token; those of a timm model what it puts before its classifier.
    `position_planes` (rounds, 2, D) are what RASA takes out of the patches, all in one product with
    `patch_projection` (D, D). `dim` leading dimensions are kept (a Matryoshka truncation); all if None.
    """

    position_planes: Tensor
    patch_projection: Tensor

    def __init__(
        self, architecture: Architecture, image_size: int, mean: Channels, std: Channels, dim: int | None = None
    ) -> None:
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
        """Have the planes (rounds, 2, D), and none else, taken out of the patches."""
        # A copy, since tensors of a mapped file may lie where products round otherwise.
        self.position_planes = planes.detach().float().clone()
        self.patch_projection = projection(self.position_planes, self.width)

    def forward(self, images: Tensor) -> Features:
        tokens = self.forward_features(images)
        pooled = self.backbone.forward_head(tokens, pre_logits=True)
        patches = tokens[:, self.backbone.num_prefix_tokens :] @ self.patch_projection.T
        height, width = (side // self.patch_size for side in images.shape[-2:])
        return Features(pooled[:, : self.embed_dim], patches[..., : self.embed_dim].unflatten(1, (height, width)))

    def forward_features(self, images: Tensor) -> Tensor:
        """All normalized tokens of the last block, float32 (B, prefix + h w, D): class token, registers, patches.

        Nothing is taken out of them. `images` are uint8 (B, 3, H, W); `backbone.num_prefix_tokens` tokens are none of
        the patches, which come row by row.
        """
        tokens: Tensor = self.backbone.forward_features(self._normalize(images))
        return tokens.float()

    def forward_intermediates(
        self, images: Tensor, indices: int | Sequence[int] | None = None, norm: bool = True
    ) -> list[Features]:
        """Class token and patch map of blocks: the last n, those of a list (0 is the first), or all.

        `norm` puts the last norm on each, as DINOv2's linear evaluations do. Position stays in them: RASA has learned
        the last block's planes alone. Without a class token, `pooled` is the mean of the patches. Raises FrancaError
        for a block that is not there.
        """
        depth = len(self.backbone.blocks)
        wanted = [-indices] if isinstance(indices, int) else indices or []
        if (isinstance(indices, int) and indices < 1) or any(not -depth <= i < depth for i in wanted):
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
    """Check that `images` are what a model takes: a uint8 tensor (B, 3, H, W) whose sides are multiples of the patch.

    Values of another dtype would give features, but wrong ones: divided by 255 twice, an image in 0..1 is black.

    Raises:
        TypeError: if `images` is no tensor, or not of dtype uint8.
        ValueError: if it has another shape.
    """
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
    """A backbone with random weights; a FrancaError where timm has no plain vision transformer of that name."""
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


def normalize(images: Tensor, mean: Channels, std: Channels) -> Tensor:
    """Take the channels' mean and standard deviation out of images (B, 3, H, W) in 0..1."""
    shift, scale = (torch.tensor(values, device=images.device).view(3, 1, 1) for values in (mean, std))
    return (images - shift) / scale


def random_model(base: ResolvedBase) -> FrancaModel:
    """An untrained model of `base`, seeded by `base.seed`."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(base.seed)
        return FrancaModel(base.backbone, base.image_size, base.mean, base.std)


def random_twin(model: FrancaModel, seed: int) -> FrancaModel:
    """Return a model of the same architecture and number of dimensions with random weights."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return FrancaModel(model.architecture, model.image_size, model.mean, model.std, model.embed_dim)


def save_model(model: FrancaModel, folder: Path) -> None:
    """Write `model.safetensors` and `config.json`; the same weights give the same bytes."""
    write_bytes(folder / "model.safetensors", save({k: v.contiguous() for k, v in model.state_dict().items()}))
    write_json(folder / "config.json", model_config(model))


def model_config(model: FrancaModel) -> dict[str, Any]:
    """The content of a model folder's `config.json`."""
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
    """Read a model folder; a FrancaError says which keys are missing, unexpected or of another shape."""
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
    """Copy `state` into `module`, or put its very tensors there (`assign`, for a module on the meta device).

    Every key must be there with the right shape.
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
