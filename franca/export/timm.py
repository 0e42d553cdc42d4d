"""A folder that `timm.create_model("local-dir:FOLDER", pretrained=True)` loads: stock names, other arguments.

Our backbone is timm's DINOv2 with other widths: the giant has the SwiGLU. RASA and a truncation become the weights of
timm's own classifier where it sees single tokens; elsewhere they lie in a file beside.
"""

from pathlib import Path
from typing import Any

import timm
import torch
from timm.models import save_for_hf
from torch import Tensor, nn

from franca.export.card import Contents
from franca.export.fold import LOAD, is_folded, write_fold
from franca.models.backbone import timm_arguments
from franca.models.model import FrancaModel, load_weights
from franca.params import Backbone

USAGE = """
import timm
{imports}
model = {loaded}.eval()
transform = timm.data.create_transform(**timm.data.resolve_model_data_config(model))
{projection}images = transform(image)[None]  # float32 (B, 3, H, W), normalized
tokens = model.forward_features(images)  # (B, prefix + h w, D), class token first
{features}
"""


def write(model: FrancaModel, folder: Path) -> Contents:
    """Write `model.safetensors` and `config.json`, and the fold where timm's classifier cannot be it."""
    return write_timm(model, folder, "", 'timm.create_model("local-dir:FOLDER", pretrained=True)')


def write_timm(model: FrancaModel, folder: Path, imports: str, loaded: str) -> Contents:
    """Write the folder; `imports` are lines that the card adds to its own, `loaded` is what makes the model there."""
    architecture, arguments, state = _described(model)
    folded, as_head = is_folded(model), _head_sees_tokens(model)
    lacks = _differences(model)
    if folded and as_head:
        arguments |= {"num_classes": model.embed_dim, "global_pool": ""}
        state |= {
            "head.weight": model.patch_projection[: model.embed_dim],
            "head.bias": torch.zeros(model.embed_dim),
        }
        if len(model.position_planes):
            lacks.append(
                "a class token of `model(images)` without RASA: the head gives it to all tokens; the card takes the"
                " pooled features before it"
            )
    stock = timm.create_model(architecture, pretrained=False, pretrained_cfg=_config(model, arguments), **arguments)
    load_weights(stock, state, architecture)
    save_for_hf(stock, str(folder), model_args=arguments, safe_serialization=True)
    projection = ""
    if folded and not as_head:
        lacks.append(write_fold(model, folder))
        imports += "from safetensors.torch import load_file\n"
        projection = f"{LOAD}\n"
    usage = USAGE.format(
        imports=imports, loaded=loaded, projection=projection, features=_features(model, folded, as_head)
    )
    return Contents("timm", usage, tuple(lacks))


def _described(model: FrancaModel) -> tuple[str, dict[str, Any], dict[str, Tensor]]:
    """Name, arguments and weights of the backbone as timm has them."""
    about, state = model.architecture, dict(model.backbone.state_dict())
    if isinstance(about, str):
        return about, {"img_size": model.image_size, "num_classes": 0, "dynamic_img_size": True}, state
    del state["mask_token"]
    arguments = timm_arguments(about, model.image_size) | {"dynamic_img_size": True}
    size, registers = "giant" if about.ffn == "swiglu" else "base", ""
    if about.registers:
        # Positions of patches alone: timm's layout for registers has the class token's added to it.
        registers, arguments["no_embed_class"] = "_reg4", True
        positions = state.pop("pos_embed")
        state |= {"cls_token": state["cls_token"] + positions[:, :1], "pos_embed": positions[:, 1:]}
    return f"vit_{size}_patch14{registers}_dinov2", arguments, state


def _head_sees_tokens(model: FrancaModel) -> bool:
    """Whether pooling only takes the class token, so that without it the head sees every token as it is."""
    return model.backbone.global_pool == "token" and isinstance(model.backbone.fc_norm, nn.Identity)


def _config(model: FrancaModel, arguments: dict[str, Any]) -> dict[str, Any]:
    """What timm's transforms and classifier need to know, and nothing that would be the stock weights'."""
    return {
        "input_size": (3, model.image_size, model.image_size),
        "fixed_input_size": False,
        "num_classes": arguments["num_classes"],
        "interpolation": "bicubic",
        "crop_pct": 1.0,
        "mean": model.mean,
        "std": model.std,
        "first_conv": "patch_embed.proj",
        "classifier": "head",
    }


def _differences(model: FrancaModel) -> list[str]:
    if not isinstance(model.architecture, Backbone):
        return []
    lacks = ["the mask token"]
    if model.architecture.position_resampling == "offset":
        lacks.append(
            f"Franca's resampling of positions: other sizes than {model.image_size} px differ a little; `--image-size`"
            " makes another one native"
        )
    return lacks


def _features(model: FrancaModel, folded: bool, as_head: bool) -> str:
    count = model.embed_dim
    if folded and as_head:
        return (
            f"pooled = tokens[:, 0, :{count}]  # (B, N)\n"
            "patches = model.forward_head(tokens)[:, model.num_prefix_tokens :]  # (B, h w, N)"
        )
    if folded:
        return (
            f"pooled = model.forward_head(tokens)[:, :{count}]  # (B, N)\n"
            "patches = tokens[:, model.num_prefix_tokens :] @ projection.T  # (B, h w, N)"
        )
    return (
        "pooled = model.forward_head(tokens)  # (B, D)\npatches = tokens[:, model.num_prefix_tokens :]  # (B, h w, D)"
    )
