"""Plain vision transformers of timm: read weights from its hub or a file, write folders for `timm.create_model`.

Our backbone is timm's DINOv2 with other widths, or its giant if it has SwiGLU. RASA and truncation are linear, so they
are written as the weights of timm's classifier.
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
from franca.formats.model_card import ExportInfo
from franca.formats.state_dict import HEADS, float32_weights
from franca.models.backbone import timm_arguments
from franca.models.model import FrancaModel, load_weights
from franca.params import Backbone

HUB_SECONDS = 5
"""Timeout of the first request to the hub."""
HUB_FILES = ("model.safetensors", "open_clip_model.safetensors", "pytorch_model.bin")
USE_FILE = "download the weights elsewhere and run: franca import-weights FILE --timm"


def from_hub(name: str) -> FrancaModel:
    """Return the model `name` of timm with its pretrained weights, from the hub or its cache on this machine.

    Raises:
        FrancaError: timm does not know the name or has no weights for it, or the hub does not answer.
    """
    about = _about(name)
    if not about.has_weights:
        raise FrancaError(f"{name}: timm has no pretrained weights with that name; {USE_FILE} {name}")
    model = _empty(name, about)
    try:
        _check_hub(about)
        pretrained = timm.create_model(
            name, pretrained=True, num_classes=0, img_size=model.image_size, dynamic_img_size=True
        )
    except Exception as error:  # the hub's client raises exceptions of several libraries
        reason = " ".join(str(error).split()) or type(error).__name__
        raise FrancaError(f"{name}: cannot get the weights from timm's hub ({reason}); {USE_FILE} {name}") from None
    load_weights(model.backbone, pretrained.state_dict(), name)
    return model


def from_state(name: str, state: Mapping[str, Tensor], origin: str) -> tuple[FrancaModel, Counter[str]]:
    """Return the model `name` of timm with given weights, and the number of tensors of each head left out.

    timm's checkpoint filters convert what timm publishes and the original files of DINOv2, CLIP and others. They also
    resample positions of another image size.

    Args:
        name: Model name of timm, with or without a tag.
        state: The weights, without prefixes (`find_state`).
        origin: The file, for errors.

    Raises:
        FrancaError: timm does not know the name, names are missing or unexpected, or shapes do not fit.
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
        raise FrancaError(
            f"{origin}: not weights of {name} in a form that timm reads ({reason}); check the name"
        ) from None
    classifiers = (about.classifier,) if isinstance(about.classifier, str) else about.classifier or ()
    # SigLIP's files have the attention pooling even if the model pools by the mean.
    heads = {*HEADS, *classifiers, "attn_pool"}
    extra = {key for key in weights.keys() - model.backbone.state_dict().keys() if key.partition(".")[0] in heads}
    kept = {key: value for key, value in weights.items() if key not in extra}
    load_weights(model.backbone, float32_weights(kept, origin), origin)
    return model, Counter(key.partition(".")[0] for key in sorted(extra))


def _about(name: str) -> PretrainedCfg:
    """Return timm's configuration of a model name and its tag."""
    try:
        about = timm.get_pretrained_cfg(name)
    except RuntimeError as error:
        raise FrancaError(f"{name}: {error}; see timm.list_pretrained() for all names") from None
    if about is None:
        raise FrancaError(f"{name}: timm has no model with that name; see timm.list_models() for all names")
    return about


def _empty(name: str, about: PretrainedCfg) -> FrancaModel:
    mean, std = tuple(about.mean), tuple(about.std)
    return FrancaModel(name, about.input_size[-1], mean, std)  # type: ignore[arg-type]


def _check_hub(about: PretrainedCfg) -> None:
    """Raise an exception of the hub's client within seconds if the hub does not answer.

    The download itself would retry for minutes, file by file.
    """
    if not about.hf_hub_id:
        return
    names = {*HUB_FILES, about.hf_hub_filename or HUB_FILES[0]}
    if any(isinstance(try_to_load_from_cache(about.hf_hub_id, name), str) for name in names):
        return
    # Any answer will do: if it is an error, the download reports it.
    with suppress(HfHubHTTPError):
        get_hf_file_metadata(hf_hub_url(about.hf_hub_id, "config.json"), timeout=HUB_SECONDS)


IMPORT_LINES = "import timm"
LOAD_EXPRESSION = 'timm.create_model("local-dir:FOLDER", pretrained=True)'
USAGE = """
{imports}

model = {load}.eval()
transform = timm.data.create_transform(**timm.data.resolve_model_data_config(model))
images = transform(image)[None]  # float32 (B, 3, H, W), normalized
tokens = model.forward_features(images)  # (B, prefix + h w, D)
pooled = model.forward_head(tokens, pre_logits=True){first}  # (B, N)
patches = model.head(tokens[:, model.num_prefix_tokens :])  # (B, h w, N)
"""


def write(model: FrancaModel, folder: Path, imports: str = IMPORT_LINES, load: str = LOAD_EXPRESSION) -> ExportInfo:
    """Write `model.safetensors` and `config.json`.

    Args:
        model: The model.
        folder: An empty folder.
        imports: Import statements of the card's example.
        load: Expression in the card's example that loads the model.
    """
    architecture, arguments, state = _to_timm(model)
    missing = _missing(model)
    first = ""
    if len(model.position_planes) or model.embed_dim < model.width:
        arguments["num_classes"] = model.embed_dim
        state |= {"head.weight": model.patch_projection[: model.embed_dim], "head.bias": torch.zeros(model.embed_dim)}
        first = f"[:, :{model.embed_dim}]"
    if len(model.position_planes):
        missing.append(
            "pooled features by a plain call: `model(images)` applies RASA to them, which is for patches only"
        )
    stock = timm.create_model(architecture, pretrained=False, pretrained_cfg=_config(model, arguments), **arguments)
    load_weights(stock, state, architecture)
    save_for_hf(stock, str(folder), model_args=arguments, safe_serialization=True)
    return ExportInfo("timm", USAGE.format(imports=imports, load=load, first=first), tuple(missing))


def _to_timm(model: FrancaModel) -> tuple[str, dict[str, Any], dict[str, Tensor]]:
    """Return name, arguments and weights of the backbone in timm's form."""
    about, state = model.architecture, dict(model.backbone.state_dict())
    if isinstance(about, str):
        return about, {"img_size": model.image_size, "num_classes": 0, "dynamic_img_size": True}, state
    del state["mask_token"]
    arguments = timm_arguments(about, model.image_size) | {"dynamic_img_size": True}
    size, registers = "giant" if about.ffn == "swiglu" else "base", ""
    if about.registers:
        # timm's models with registers have positions of patches only; that of the class token is added to the token.
        registers, arguments["no_embed_class"] = "_reg4", True
        positions = state.pop("pos_embed")
        state |= {"cls_token": state["cls_token"] + positions[:, :1], "pos_embed": positions[:, 1:]}
    return f"vit_{size}_patch14{registers}_dinov2", arguments, state


def _config(model: FrancaModel, arguments: dict[str, Any]) -> dict[str, Any]:
    """Return the settings for timm's transforms and classifier; those of timm's own weights are left out."""
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


def _missing(model: FrancaModel) -> list[str]:
    if not isinstance(model.architecture, Backbone):
        return []
    missing = ["the mask token"]
    if model.architecture.position_resampling == "offset":
        missing.append(
            f"Franca's position resampling: features of sizes other than {model.image_size} px differ slightly;"
            " `--image-size` changes the native size"
        )
    return missing
