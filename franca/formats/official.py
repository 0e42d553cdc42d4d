"""Checkpoints of the official Franca, RASA and DINOv2 code."""

import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from pydantic import ValidationError
from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from torch import Tensor

from franca.errors import FrancaError
from franca.files import sha256_file
from franca.formats.model_card import ExportInfo
from franca.formats.official_keys import from_official, rasa_to_official, to_official_release
from franca.formats.state_dict import float32_weights, read_state, shorten
from franca.models.model import Channels, FrancaModel, load_weights
from franca.params import Backbone, fault_lines

HEAD_DIM = 64
"""Dimensions per attention head in all official models."""
OFFICIAL_LAYER_SCALE = 1e-5

USAGE = """
import torch

# What the official code takes as local_state_dict. To make a Franca model folder of it again:
# franca import-weights FOLDER/model.pth{option} --num-heads {heads} --mean {mean} --std {std} -o NEW
backbone = torch.load("FOLDER/model.pth", weights_only=True)["teacher"]
{rasa}"""
RASA_USAGE = """# What it takes as RASA_local_state_dict, with use_rasa_head=True.
rasa = torch.load("FOLDER/rasa.pth", weights_only=True)
"""


def read(path: Path) -> FrancaModel:
    """Return the model of an official checkpoint, with ImageNet's channel statistics; its digest is the file's."""
    model, _ = import_checkpoint([path])
    model.digest = sha256_file(path)
    return model


def import_checkpoint(
    files: Sequence[Path], num_heads: int | None = None, mean: Channels | None = None, std: Channels | None = None
) -> tuple[FrancaModel, Counter[str]]:
    """Return the model of an official checkpoint, and the number of tensors of each training head left out.

    Args:
        files: The checkpoint, or the parts of its tar in order.
        num_heads: Attention heads; by default one per 64 dimensions.
        mean: Channel means in 0..1; by default ImageNet's.
        std: Channel standard deviations; by default ImageNet's.

    Raises:
        FrancaError: A file cannot be read, or its tensors are not those of one model.
    """
    origin = str(files[0])
    weights = from_official(read_state(files), origin)
    mean, std = mean or IMAGENET_DEFAULT_MEAN, std or IMAGENET_DEFAULT_STD
    model = build_model(weights.backbone, origin, num_heads, mean, std)
    if weights.planes is not None:
        remove_position(model, weights.planes, origin)
    return model, weights.left_out


def build_model(
    backbone: Mapping[str, Tensor], origin: str, num_heads: int | None, mean: Channels, std: Channels
) -> FrancaModel:
    """Return a float32 model with the weights of an official backbone.

    Args:
        backbone: Tensors by our names (`from_official`).
        origin: The file, for errors.
        num_heads: Attention heads; None for one per 64 dimensions.
        mean: Channel means in 0..1.
        std: Channel standard deviations.

    Raises:
        FrancaError: Names are missing or unexpected, or shapes do not fit.
    """
    architecture, image_size = architecture_of(backbone, origin, num_heads)
    state = float32_weights(backbone, origin)
    # Checkpoints without LayerScale multiply by 1.
    if not any(key.endswith(".gamma") for key in state):
        gammas = (f"blocks.{block}.{name}.gamma" for block in range(architecture.depth) for name in ("ls1", "ls2"))
        state |= {gamma: torch.ones(architecture.embed_dim) for gamma in gammas}
    # The meta device allocates nothing: `state` becomes the parameters, or does not fit.
    with torch.device("meta"):
        model = FrancaModel(architecture, image_size, mean, std)
    load_weights(model.backbone, state, origin, assign=True)
    model.remove_position(torch.zeros(0, 2, architecture.embed_dim))
    return model


def architecture_of(backbone: Mapping[str, Tensor], origin: str, num_heads: int | None) -> tuple[Backbone, int]:
    """Return the architecture and the image size (pixels) that the shapes of a backbone by our names imply.

    Two properties are not in the weights. The number of heads is one per 64 dimensions unless `num_heads` is given.
    Positions are resampled with antialiasing if there are registers, as in DINOv2, and with Franca's offset otherwise.

    Raises:
        FrancaError: The tensors are not those of a ViT for square color images.
    """
    embed_dim, channels, patch_size, _ = _shape(backbone, "patch_embed.proj.weight", 4, origin)
    _, positions, _ = _shape(backbone, "pos_embed", 3, origin)
    fc1_rows, _ = _shape(backbone, "blocks.0.mlp.fc1.weight", 2, origin)
    _, fc2_columns = _shape(backbone, "blocks.0.mlp.fc2.weight", 2, origin)
    registers = _shape(backbone, "reg_token", 3, origin)[1] if "reg_token" in backbone else 0
    side = math.isqrt(max(positions - 1, 0))
    if channels != 3 or side == 0 or side * side != positions - 1:
        raise FrancaError(
            f"{origin}: {channels} channels and {positions} positions; only models of color images with a class token"
            " and a square grid are supported"
        )
    if num_heads is None and embed_dim % HEAD_DIM:
        raise FrancaError(
            f"{origin}: {embed_dim} dimensions are no multiple of {HEAD_DIM}; give the number of heads by --num-heads"
        )
    blocks = {int(key.split(".")[1]) for key in backbone if re.match(r"blocks\.\d+\.", key)}
    if blocks != set(range(len(blocks))):
        raise FrancaError(f"{origin}: its blocks are not numbered from 0 to {len(blocks) - 1}")
    values = {
        "patch_size": patch_size,
        "embed_dim": embed_dim,
        "depth": len(blocks),
        "num_heads": embed_dim // HEAD_DIM if num_heads is None else num_heads,
        # SwiGLU has gate and value stacked in one layer, so fc1 is twice as wide as fc2.
        "ffn": "swiglu" if fc1_rows == 2 * fc2_columns else "mlp",
        "registers": registers,
        "layer_scale": OFFICIAL_LAYER_SCALE if any(key.endswith(".gamma") for key in backbone) else 1.0,
        "position_resampling": "antialias" if registers else "offset",
    }
    try:
        return Backbone.model_validate(values), side * patch_size
    except ValidationError as error:
        raise FrancaError(f"{origin}: {'; '.join(fault_lines(error, Backbone))}") from None


def remove_position(model: FrancaModel, planes: Tensor, origin: str) -> None:
    """Add the planes (rounds, 2, D) of `origin` to those that the model removes from patch features.

    Raises:
        FrancaError: The model has another width than D.
    """
    if planes.shape[-1] != model.width:
        raise FrancaError(f"{origin}: a RASA head for {planes.shape[-1]} dimensions; the model has {model.width}")
    model.remove_position(planes)


def write(model: FrancaModel, folder: Path) -> ExportInfo:
    """Write `model.pth` and, if the model has planes, `rasa.pth`; both load with `weights_only=True`.

    Raises:
        FrancaError: The model is one of timm or truncated; the official code has neither.
    """
    about = model.architecture
    if not isinstance(about, Backbone):
        raise FrancaError(f"official: holds Franca's own architecture, not {about}; use --format timm")
    if model.embed_dim < model.width:
        raise FrancaError(
            f"official: holds all {model.width} dimensions, not {model.embed_dim}; export with --dim {model.width} and"
            " slice the features, or use another format"
        )
    torch.save(to_official_release(model), folder / "model.pth")
    planes = len(model.position_planes) > 0
    if planes:
        torch.save(rasa_to_official(model), folder / "rasa.pth")
    usage = USAGE.format(
        option=" --rasa FOLDER/rasa.pth" if planes else "",
        heads=about.num_heads,
        mean=" ".join(map(str, model.mean)),
        std=" ".join(map(str, model.std)),
        rasa=RASA_USAGE if planes else "",
    )
    return ExportInfo("pytorch", usage, _missing(about))


def _shape(state: Mapping[str, Tensor], key: str, dimensions: int, origin: str) -> tuple[int, ...]:
    if key not in state:
        raise FrancaError(
            f"{origin}: not a Franca or DINOv2 checkpoint, {key} is missing among {shorten(sorted(state))};"
            " for a model of timm give its name by --timm"
        )
    if state[key].ndim != dimensions or 0 in state[key].shape:
        raise FrancaError(f"{origin}: {key} is {tuple(state[key].shape)}, which does not fit a vision transformer")
    return tuple(state[key].shape)


def _missing(about: Backbone) -> tuple[str, ...]:
    missing = ["the number of heads", "mean and standard deviation of the images", "the kind of position resampling"]
    if about.position_resampling == "antialias" and not about.registers:
        missing[-1] += ": antialiased, which readers expect of models with registers only"
    if about.position_resampling == "offset" and about.registers:
        missing[-1] += ": not antialiased, which readers expect of models without registers only"
    return tuple(missing)
