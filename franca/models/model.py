"""A finished model: backbone, normalization and position removal in one module, and its folder on disk."""

from pathlib import Path
from typing import Any, NamedTuple

import torch
from pydantic import ValidationError
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor, nn

from franca.errors import FrancaError
from franca.files import read_json, sha256_file, write_bytes, write_json
from franca.models.backbone import Backbone, nesting_levels
from franca.params import Backbone as BackboneParams
from franca.params import Base

Channels = tuple[float, float, float]


class Features(NamedTuple):
    """What every backbone returns: `pooled` (B, D) and `patches` (B, h, w, D), both float32."""

    pooled: Tensor
    patches: Tensor


class FrancaModel(nn.Module):
    """Maps uint8 images (B, 3, H, W), H and W multiples of the patch size, to `Features`.

    `patch_projection` (D, D) is the linear map that all rounds of RASA add up to; the identity before RASA.
    """

    def __init__(self, architecture: BackboneParams, image_size: int, mean: Channels, std: Channels) -> None:
        super().__init__()
        self.architecture = architecture
        self.mean, self.std = mean, std
        self.image_size = image_size
        self.patch_size = architecture.patch_size
        self.embed_dim = architecture.embed_dim
        self.levels = nesting_levels(architecture.embed_dim)
        self.digest = ""
        self.backbone = Backbone(architecture, image_size)
        self.register_buffer("patch_projection", torch.eye(self.embed_dim))
        self.eval().requires_grad_(False)

    def forward(self, images: Tensor) -> Features:
        height, width = (side // self.patch_size for side in images.shape[-2:])
        tokens = self.backbone.forward_tokens(normalize(images.float() / 255, self.mean, self.std)).float()
        patches = tokens[:, self.backbone.num_prefix_tokens :] @ self.patch_projection.T
        return Features(tokens[:, 0], patches.unflatten(1, (height, width)))

    patch_projection: Tensor


def normalize(images: Tensor, mean: Channels, std: Channels) -> Tensor:
    """Take the channels' mean and standard deviation out of images (B, 3, H, W) in 0..1."""
    shift, scale = (torch.tensor(values, device=images.device).view(3, 1, 1) for values in (mean, std))
    return (images - shift) / scale


def random_model(base: Base) -> FrancaModel:
    """The random-init twin: the same architecture, seeded by `base.seed`."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(base.seed)
        return FrancaModel(base.backbone, base.image_size, base.mean, base.std)


def save_model(model: FrancaModel, folder: Path) -> None:
    """Write `model.safetensors` and `config.json`; the same weights give the same bytes."""
    write_bytes(folder / "model.safetensors", save({k: v.contiguous() for k, v in model.state_dict().items()}))
    config = {
        "format": "franca",
        "image_size": model.image_size,
        "backbone": model.architecture.model_dump(),
        "levels": list(model.levels),
        "mean": list(model.mean),
        "std": list(model.std),
    }
    write_json(folder / "config.json", config)


def load_model(folder: Path) -> FrancaModel:
    """Read a model folder; a FrancaError says which keys are missing, unexpected or of another shape."""
    weights_path = folder / "model.safetensors"
    try:
        config: dict[str, Any] = read_json(folder / "config.json")
        architecture = BackboneParams.model_validate(config["backbone"])
        model = FrancaModel(architecture, config["image_size"], tuple(config["mean"]), tuple(config["std"]))
        state = load_file(weights_path)
    except FileNotFoundError as error:
        raise FrancaError(f"{folder}: not a model folder, {error.filename or weights_path} is missing") from None
    except (SafetensorError, ValueError, ValidationError, KeyError, TypeError) as error:
        reason = " ".join(str(error).split())
        raise FrancaError(f"{folder}: not a readable model: {reason}") from None
    load_weights(model, state, str(weights_path))
    model.digest = sha256_file(weights_path)
    return model


def load_weights(module: nn.Module, state: dict[str, Tensor], origin: str) -> None:
    """Copy `state` into `module`; every key must be there with the right shape."""
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
    module.load_state_dict(state)
