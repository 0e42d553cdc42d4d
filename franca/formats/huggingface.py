"""Hugging Face: a folder for `transformers.AutoModel.from_pretrained`, as a model of its DINOv2 classes.

Tensor names are those of DINOv2's checkpoints on the Hub, which every version of transformers reads.
"""

import re
from pathlib import Path
from typing import Any

from safetensors.torch import save_file
from torch import Tensor

from franca.errors import FrancaError
from franca.files import write_json
from franca.formats.model_card import ExportInfo
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
SWIGLU_RENAMES = ((r"\.mlp\.fc1\.", ".mlp.weights_in."), (r"\.mlp\.fc2\.", ".mlp.weights_out."))

PROJECTION = "patch_projection.safetensors"

USAGE = """
{imports}from transformers import AutoImageProcessor, AutoModel

processor = AutoImageProcessor.from_pretrained("FOLDER")
model = AutoModel.from_pretrained("FOLDER").eval()
{projection}outputs = model(**processor(image, return_tensors="pt"))
pooled = outputs.pooler_output{count}  # (B, N)
patches = outputs.last_hidden_state[:, {prefix}:]{fold}  # (B, h w, N)
"""


def write(model: FrancaModel, folder: Path) -> ExportInfo:
    """Write weights, `config.json`, `preprocessor_config.json`, and the projection of RASA and truncation if any.

    Raises:
        FrancaError: The model is one of timm.
    """
    about = model.architecture
    if not isinstance(about, Backbone):
        raise FrancaError(f"huggingface: holds Franca's own architecture, not {about}; use --format timm")
    save_file(_state(model, about), folder / "model.safetensors", metadata={"format": "pt"})
    write_json(folder / "config.json", _config(model, about))
    write_json(folder / "preprocessor_config.json", _preprocessor(model))
    missing = _missing(model, about)
    folded = len(model.position_planes) > 0 or model.embed_dim < model.width
    if folded:
        missing.append(_write_projection(model, folder))
    usage = USAGE.format(
        imports="from safetensors.torch import load_file\n" if folded else "",
        projection=f'projection = load_file("FOLDER/{PROJECTION}")["patch_projection"]\n' if folded else "",
        count=f"[:, :{model.embed_dim}]" if folded else "",
        prefix=1 + about.registers,
        fold=" @ projection.T" if folded else "",
    )
    return ExportInfo("transformers", usage, tuple(missing))


def _write_projection(model: FrancaModel, folder: Path) -> str:
    """Write the matrix (N, D) float32 of RASA and truncation; return a line for what the format cannot hold.

    The model's patches (..., N) are the backbone's (..., D) times the transpose of the matrix.
    """
    matrix = model.patch_projection[: model.embed_dim].contiguous()
    save_file({"patch_projection": matrix}, folder / PROJECTION, metadata={"format": "pt"})
    parts = ["RASA"] * (len(model.position_planes) > 0) + ["truncation"] * (model.embed_dim < model.width)
    return f"{' and '.join(parts)}: a matrix in {PROJECTION}, to be applied as in the card's example"


def _state(model: FrancaModel, about: Backbone) -> dict[str, Tensor]:
    """Return the weights of the backbone by the names of transformers."""
    state = {}
    for key, value in model.backbone.state_dict().items():
        for pattern, replacement in RENAMES + (SWIGLU_RENAMES if about.ffn == "swiglu" else ()):
            key = re.sub(pattern, replacement, key)
        # transformers has query, key and value as three layers.
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
        "resample": 3,  # bicubic, as in PIL
        "do_center_crop": True,
        "crop_size": {"height": model.image_size, "width": model.image_size},
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": list(model.mean),
        "image_std": list(model.std),
    }


def _missing(model: FrancaModel, about: Backbone) -> list[str]:
    """Return a line if positions are resampled in another way.

    transformers' DINOv2 has no offset of 0.1, and its DINOv2 with registers always uses antialiasing.
    """
    if about.registers and about.position_resampling == "antialias":
        return []
    return [
        f"the model's position resampling: features of sizes other than {model.image_size} px differ slightly;"
        " `--image-size` changes the native size"
    ]
