"""What must be settled before the first step: precision and the two networks."""

import copy
import os
from pathlib import Path

import torch
from torch import Tensor
from tqdm import tqdm

from franca.data.views.masks import official_buffer
from franca.errors import FrancaError
from franca.models import FrancaModel, load_model
from franca.models.backbone import Backbone, resize_positions
from franca.models.heads import Level
from franca.models.model import load_weights
from franca.params import Backbone as BackboneParams
from franca.params import Params
from franca.pretrain.microbatch import Part
from franca.pretrain.network import Network


def choose_precision(wanted: str, device: torch.device) -> str:
    """Return "fp32" or "bf16"; "auto" is "bf16" if the hardware multiplies bfloat16 natively."""
    if wanted != "auto":
        return wanted
    if device.type == "cuda":
        # By default torch also counts GPUs that emulate bfloat16 (V100, T4), slower than float32.
        native = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        native = torch.cpu._is_avx512_bf16_supported()
    return "bf16" if native else "fp32"


def compile_blocks(*networks: Network) -> None:
    """Have torch compile the transformers' blocks, in place.

    Crops have two sizes, and a block is compiled with static shapes for each. Only the last block gets a number of
    tokens that changes with every batch.
    """
    # Inductor pads rows to 128 bytes. cuBLAS cannot add the bias of the SwiGLU's first layer to the padded output, and
    # a copy of the bias is written there first: 14 of 305 ms of a ViT-L step on an H100.
    torch._inductor.config.comprehensive_padding = False
    # Student and teacher, two kinds of blocks and the first steps' varying shapes make eight variants of one function,
    # which is torch's limit; one more would silently run eagerly.
    torch._dynamo.config.recompile_limit = 32
    for network in networks:
        *blocks, last = network.backbone.blocks
        for block in blocks:
            block.compile(dynamic=False)
        last.compile()


def padding(teacher: Network, parts: list[Part], params: Params) -> list[Level] | None:
    """The teacher's levels of the zero rows that fill the official code's buffer of masked patches, or None."""
    if params.pretrain.compat == "none":
        return None
    koleo_images = params.pretrain.losses.koleo_images
    groups = sum(len(part.masks) for part in parts) // (2 * koleo_images)
    grid = params.base.image_size // params.base.backbone.patch_size
    reserved = official_buffer(groups, koleo_images, grid, params.pretrain.masks)
    rows = reserved - sum(len(part.masked) for part in parts)
    return teacher.ibot_head(parts[0].global_crops.new_zeros(max(rows, 0), params.base.backbone.embed_dim))


def make_networks(params: Params, device: torch.device) -> tuple[Network, Network]:
    """Student and teacher with the same weights, drawn from the seed or the backbone's read from `pretrain.init`."""
    torch.manual_seed(params.base.seed)
    student = Network(params.base, params.pretrain)
    if params.pretrain.init:
        start = start_weights(Path(params.pretrain.init), params)
        start["pos_embed"] = resize_positions(start["pos_embed"], student.backbone.patch_embed.grid_size[0])
        load_weights(student.backbone, start, f"pretrain.init: {params.pretrain.init}")
    teacher = copy.deepcopy(student).requires_grad_(False).eval()
    return student.train().to(device), teacher.to(device)


def _left_behind(start: FrancaModel) -> list[str]:
    """Describe what of a model does not survive further training."""
    lines = []
    if planes := len(start.position_planes):
        lines.append(
            f"{planes} planes of RASA are left out, since they hold for the present features only; "
            "`franca disentangle` learns new ones after training"
        )
    if start.embed_dim < start.width:
        lines.append(f"all {start.width} dimensions are trained, not the {start.embed_dim} that the model is cut to")
    return lines


def start_weights(folder: Path, params: Params) -> dict[str, Tensor]:
    """Weights of our backbone from a model folder; positions are still those of its image size.

    A timm model will do where our backbone with its weights gives its very features.
    """
    start = load_model(folder)
    if os.environ.get("RANK", "0") == "0":
        for line in _left_behind(start):
            tqdm.write(f"pretrain.init: {folder}: {line}")
    wanted = params.base.backbone
    if isinstance(start.architecture, BackboneParams):
        # What LayerScale starts from is of no account once there are weights.
        if start.architecture.model_copy(update={"layer_scale": wanted.layer_scale}) != wanted:
            raise FrancaError(
                f"pretrain.init: {folder} holds another architecture than base.backbone: {start.architecture}"
            )
        return dict(start.backbone.state_dict())
    weights = dict(start.backbone.state_dict())
    if start.backbone.no_embed_class and start.backbone.cls_token is not None:
        weights["pos_embed"] = torch.cat([torch.zeros_like(weights["pos_embed"][:, :1]), weights["pos_embed"]], dim=1)
    ours = Backbone(wanted, start.image_size).eval()
    load_weights(ours, weights | {"mask_token": ours.mask_token.detach()}, f"pretrain.init: {folder}")
    image = torch.randn(1, 3, start.image_size, start.image_size, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        if not torch.allclose(ours.forward_features(image), start.backbone.forward_features(image), atol=1e-3):
            raise FrancaError(
                f"pretrain.init: {folder} holds {start.architecture}, whose weights fit base.backbone but give other"
                " features there; change base.backbone (num_heads, ffn)"
            )
    return dict(ours.state_dict())
