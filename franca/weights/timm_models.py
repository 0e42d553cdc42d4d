"""Pretrained weights of timm's plain vision transformers: from their hub, or from a file in any form timm converts."""

from collections import Counter
from collections.abc import Mapping
from contextlib import suppress
from functools import partial

import timm
from huggingface_hub import get_hf_file_metadata, hf_hub_url, try_to_load_from_cache
from huggingface_hub.errors import HfHubHTTPError
from timm.models import PretrainedCfg, eva, vision_transformer
from torch import Tensor

from franca.errors import FrancaError
from franca.models.model import FrancaModel, load_weights
from franca.weights.official import HEADS, float_weights

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
