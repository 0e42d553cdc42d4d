"""A folder that `transformers.AutoModel.from_pretrained` loads: DINOv2's classes, which are Franca's architecture.

Keys are those of the checkpoints on the Hub, which every version of transformers reads.
"""

import re
from pathlib import Path
from typing import Any

from safetensors.torch import save_file
from torch import Tensor

from franca.errors import FrancaError
from franca.files import write_json
from franca.formats.card import Contents
from franca.models.model import FrancaModel
from franca.params import Backbone

RENAMES = (
    (r"^pos_embed$", "embeddings.position_embeddings"),
    (r"^reg_token$", "embeddings.register_tokens"),
    (r"^(cls_token|mask_token)$", r"embeddings.\1"),
    (r"^patch_embed\.proj\.", "embeddings.patch_embeddings.projection."),
    (r"^blocks\.", "encoder.layer."),
    (r"\.attn\.proj\.", ".attention.output.dense."),
    (r"\.ls([12])\.gamma$", r".layer_scale\1.lambda1"),
    (r"^norm\.", "layernorm."),
)
SWIGLU = ((r"\.mlp\.fc1\.", ".mlp.weights_in."), (r"\.mlp\.fc2\.", ".mlp.weights_out."))

PROJECTION = "patch_projection.safetensors"

USAGE = """
{imports}from transformers import AutoImageProcessor, AutoModel

processor = AutoImageProcessor.from_pretrained("FOLDER")
model = AutoModel.from_pretrained("FOLDER").eval()
{projection}outputs = model(**processor(image, return_tensors="pt"))
pooled = outputs.pooler_output{count}  # (B, N)
patches = outputs.last_hidden_state[:, {prefix}:]{fold}  # (B, h w, N)
"""


def write(model: FrancaModel, folder: Path) -> Contents:
    """Write `model.safetensors`, `config.json`, `preprocessor_config.json`, and RASA and truncation where there are.

    Raises FrancaError for a model of timm.
    """
    about = model.architecture
    if not isinstance(about, Backbone):
        raise FrancaError(f"huggingface: holds Franca's own architecture, not {about}; --format timm holds it")
    save_file(_state(model, about), folder / "model.safetensors", metadata={"format": "pt"})
    write_json(folder / "config.json", _config(model, about))
    write_json(folder / "preprocessor_config.json", _preprocessor(model))
    lacks = _differences(model, about)
    folded = len(model.position_planes) > 0 or model.embed_dim < model.width
    if folded:
        lacks.append(_write_projection(model, folder))
    usage = USAGE.format(
        imports="from safetensors.torch import load_file\n" if folded else "",
        projection=f'projection = load_file("FOLDER/{PROJECTION}")["patch_projection"]\n' if folded else "",
        count=f"[:, :{model.embed_dim}]" if folded else "",
        prefix=1 + about.registers,
        fold=" @ projection.T" if folded else "",
    )
    return Contents("transformers", usage, tuple(lacks))


def _write_projection(model: FrancaModel, folder: Path) -> str:
    """Write the matrix (N, D), float32, and tell in a line that the format itself lacks it.

    Patches (…, D) of the backbone times its transpose are the model's (…, N).
    """
    matrix = model.patch_projection[: model.embed_dim].contiguous()
    save_file({"patch_projection": matrix}, folder / PROJECTION, metadata={"format": "pt"})
    parts = ["RASA"] * (len(model.position_planes) > 0) + ["truncation"] * (model.embed_dim < model.width)
    return f"{' and '.join(parts)}: a matrix in {PROJECTION}, to be applied as the card says"


def _state(model: FrancaModel, about: Backbone) -> dict[str, Tensor]:
    """The backbone's weights by the names of transformers."""
    state = {}
    for key, value in model.backbone.state_dict().items():
        for pattern, replacement in RENAMES + (SWIGLU if about.ffn == "swiglu" else ()):
            key = re.sub(pattern, replacement, key)
        if ".attn.qkv." in key:
            for part, name in zip(value.chunk(3), ("query", "key", "value"), strict=True):
                state[key.replace(".attn.qkv.", f".attention.attention.{name}.")] = part.clone()
        else:
            state[key] = value.contiguous()
    return state


def _config(model: FrancaModel, about: Backbone) -> dict[str, Any]:
    kind = ("Dinov2WithRegistersModel", "dinov2_with_registers") if about.registers else ("Dinov2Model", "dinov2")
    return {
        "architectures": [kind[0]],
        "model_type": kind[1],
        "hidden_size": about.embed_dim,
        "num_hidden_layers": about.depth,
        "num_attention_heads": about.num_heads,
        "mlp_ratio": 4,
        "use_swiglu_ffn": about.ffn == "swiglu",
        "layerscale_value": about.layer_scale,
        "image_size": model.image_size,
        "patch_size": about.patch_size,
        **({"num_register_tokens": about.registers} if about.registers else {}),
    }


def _preprocessor(model: FrancaModel) -> dict[str, Any]:
    return {
        "image_processor_type": "BitImageProcessor",
        "do_convert_rgb": True,
        "do_resize": True,
        "size": {"shortest_edge": model.image_size},
        "resample": 3,
        "do_center_crop": True,
        "crop_size": {"height": model.image_size, "width": model.image_size},
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": list(model.mean),
        "image_std": list(model.std),
    }


def _differences(model: FrancaModel, about: Backbone) -> list[str]:
    """DINOv2's class resamples positions without the official offset, its class with registers antialiased."""
    if about.registers and about.position_resampling == "antialias":
        return []
    return [
        f"the model's resampling of positions: other sizes than {model.image_size} px differ a little; `--image-size`"
        " makes another one native"
    ]
