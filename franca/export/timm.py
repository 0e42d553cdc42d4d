"""A folder that `timm.create_model("local-dir:FOLDER", pretrained=True)` loads: stock names, other arguments.

Our backbone is timm's DINOv2 with other widths; its giant has the SwiGLU. RASA and a truncation are the weights of
timm's classifier, which every model of timm has and which is linear.
"""

from pathlib import Path
from typing import Any

import timm
import torch
from timm.models import save_for_hf
from torch import Tensor

from franca.export.card import Contents
from franca.models.backbone import timm_arguments
from franca.models.model import FrancaModel, load_weights
from franca.params import Backbone

IMPORTED = "import timm"
LOADED = 'timm.create_model("local-dir:FOLDER", pretrained=True)'
USAGE = """
{imported}

model = {loaded}.eval()
transform = timm.data.create_transform(**timm.data.resolve_model_data_config(model))
images = transform(image)[None]  # float32 (B, 3, H, W), normalized
tokens = model.forward_features(images)  # (B, prefix + h w, D)
pooled = model.forward_head(tokens, pre_logits=True){first}  # (B, N)
patches = model.head(tokens[:, model.num_prefix_tokens :])  # (B, h w, N)
"""


def write(model: FrancaModel, folder: Path, imported: str = IMPORTED, loaded: str = LOADED) -> Contents:
    """Write `model.safetensors` and `config.json`; by lines of their own the card imports and loads the model."""
    architecture, arguments, state = _described(model)
    lacks = _differences(model)
    first = ""
    if len(model.position_planes) or model.embed_dim < model.width:
        arguments["num_classes"] = model.embed_dim
        state |= {"head.weight": model.patch_projection[: model.embed_dim], "head.bias": torch.zeros(model.embed_dim)}
        first = f"[:, :{model.embed_dim}]"
    if len(model.position_planes):
        lacks.append("a plain call for pooled features: `model(images)` is RASA on them, too, which is for patches")
    stock = timm.create_model(architecture, pretrained=False, pretrained_cfg=_config(model, arguments), **arguments)
    load_weights(stock, state, architecture)
    save_for_hf(stock, str(folder), model_args=arguments, safe_serialization=True)
    return Contents("timm", USAGE.format(imported=imported, loaded=loaded, first=first), tuple(lacks))


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
