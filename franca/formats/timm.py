"""Plain vision transformers of timm: weights from its hub or from a file, and folders that `timm.create_model` loads.

Our backbone is timm's DINOv2 with other widths; its giant has the SwiGLU. RASA and a truncation are written as the
weights of timm's classifier, which every model of timm has and which is linear.
"""

from collections import Counter
from collections.abc import Mapping
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import timm
import torch
from huggingface_hub import get_hf_file_metadata, hf_hub_url, try_to_load_from_cache
from huggingface_hub.errors import HfHubHTTPError
from timm.models import PretrainedCfg, eva, save_for_hf, vision_transformer
from torch import Tensor

from franca.errors import FrancaError
from franca.formats.card import Contents
from franca.formats.official import HEADS, float_weights
from franca.models.backbone import timm_arguments
from franca.models.model import FrancaModel, load_weights
from franca.params import Backbone

HUB_SECONDS = 5
HUB_FILES = ("model.safetensors", "open_clip_model.safetensors", "pytorch_model.bin")
LOCAL_INSTEAD = "a local file of these weights does instead: franca import-weights FILE --timm"


def from_hub(name: str) -> FrancaModel:
    """The model with the weights that timm's hub, or its cache on this machine, has for it."""
    about = _about(name)
    if not about.has_weights:
        raise FrancaError(f"{name}: timm has no pretrained weights of that name; {LOCAL_INSTEAD} {name}")
    model = _empty(name, about)
    try:
        _reach(about)
        pretrained = timm.create_model(
            name, pretrained=True, num_classes=0, img_size=model.image_size, dynamic_img_size=True
        )
    except Exception as error:  # a hub's libraries raise whatever theirs do
        reason = " ".join(str(error).split()) or type(error).__name__
        raise FrancaError(f"{name}: timm's hub does not give the weights ({reason}); {LOCAL_INSTEAD} {name}") from None
    load_weights(model.backbone, pretrained.state_dict(), name)
    return model


def from_state(name: str, state: Mapping[str, Tensor], origin: str) -> tuple[FrancaModel, Counter[str]]:
    """The model with the weights of `state`, and the number of tensors of each head that was left out.

    timm's own filters read what it publishes and the originals of DINOv2, CLIP and others; they resample positions of
    another image size. Raises FrancaError for keys that are missing, unexpected or of another shape.
    """
    about = _about(name)
    model = _empty(name, about)
    if isinstance(model.backbone, eva.Eva):
        convert = eva.checkpoint_filter_fn
    else:
        convert = partial(vision_transformer.checkpoint_filter_fn, adapt_layer_scale=True)
    try:
        weights: dict[str, Tensor] = convert(dict(state), model.backbone)
    except (AssertionError, AttributeError, IndexError, KeyError, RuntimeError, TypeError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise FrancaError(f"{origin}: no weights of {name} in a form that timm reads ({reason})") from None
    classifiers = (about.classifier,) if isinstance(about.classifier, str) else about.classifier or ()
    # SigLIP's pooling is in the file even where the model pools by the mean.
    heads = {*HEADS, *classifiers, "attn_pool"}
    extra = {key for key in weights.keys() - model.backbone.state_dict().keys() if key.partition(".")[0] in heads}
    kept = {key: value for key, value in weights.items() if key not in extra}
    load_weights(model.backbone, float_weights(kept, origin), origin)
    return model, Counter(key.partition(".")[0] for key in sorted(extra))


def _about(name: str) -> PretrainedCfg:
    """What timm knows of a name and its tag."""
    try:
        about = timm.get_pretrained_cfg(name)
    except RuntimeError as error:
        raise FrancaError(f"{name}: {error} (timm.list_pretrained() has all names)") from None
    if about is None:
        raise FrancaError(f"{name}: timm has no model of that name (timm.list_models() has all)")
    return about


def _empty(name: str, about: PretrainedCfg) -> FrancaModel:
    mean, std = tuple(about.mean), tuple(about.std)
    return FrancaModel(name, about.input_size[-1], mean, std)  # type: ignore[arg-type]


def _reach(about: PretrainedCfg) -> None:
    """Ask the hub once: its own library asks for minutes, file by file, before it says that nobody is there."""
    if not about.hf_hub_id:
        return
    names = {*HUB_FILES, about.hf_hub_filename or HUB_FILES[0]}
    if any(isinstance(try_to_load_from_cache(about.hf_hub_id, name), str) for name in names):
        return
    # Where it answers, be it with a refusal, the download will say what is wrong.
    with suppress(HfHubHTTPError):
        get_hf_file_metadata(hf_hub_url(about.hf_hub_id, "config.json"), timeout=HUB_SECONDS)


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
