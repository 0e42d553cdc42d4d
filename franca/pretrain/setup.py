"""Preparation before the first step: precision, compilation and the two networks."""

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
from franca.pretrain.microbatch import Microbatch
from franca.pretrain.network import Network


def choose_precision(precision: str, device: torch.device) -> str:
    """Return "fp32" or "bf16"; "auto" is "bf16" if the hardware multiplies bfloat16 natively."""
    if precision != "auto":
        return precision
    if device.type == "cuda":
        # By default torch also counts GPUs that emulate bfloat16 (V100, T4), which is slower than float32.
        native = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        native = torch.cpu._is_avx512_bf16_supported()
    return "bf16" if native else "fp32"


def compile_blocks(*networks: Network) -> None:
    """Compile the blocks of the backbones with torch.compile, in place.

    Shapes are static, as they are the same in every step, except in the last block, whose number of tokens changes
    with the number of masked patches.
    """
    # Inductor pads rows to 128 bytes. cuBLAS cannot add the bias of the SwiGLU's first layer to a padded output, so a
    # copy of the bias is written there first: 14 of 305 ms of a ViT-L step on an H100.
    torch._inductor.config.comprehensive_padding = False
    # Student and teacher, two kinds of blocks and the varying shapes of the first steps make eight variants of one
    # function. That is torch's limit; one more would silently run eagerly.
    torch._dynamo.config.recompile_limit = 32
    for network in networks:
        *blocks, last = network.backbone.blocks
        for block in blocks:
            block.compile(dynamic=False)
        last.compile()


def padding_levels(teacher: Network, microbatches: list[Microbatch], params: Params) -> list[Level] | None:
    """Return the teacher's levels for the zero rows of the official code's buffer of masked patches.

    The official code reserves a fixed number of rows and lets Sinkhorn-Knopp see all of them, although only the first
    ones are patches.

    Args:
        teacher: The teacher, whose patch head maps the zero rows.
        microbatches: The microbatches of this rank.
        params: All parameters; None is returned if `pretrain.compat` is "none".
    """
    if params.pretrain.compat == "none":
        return None
    koleo_images = params.pretrain.losses.koleo_images
    groups = sum(len(microbatch.masks) for microbatch in microbatches) // (2 * koleo_images)
    grid = params.base.image_size // params.base.backbone.patch_size
    reserved = official_buffer(groups, koleo_images, grid, params.pretrain.masks)
    rows = reserved - sum(len(microbatch.masked) for microbatch in microbatches)
    zeros = microbatches[0].global_crops.new_zeros(max(rows, 0), params.base.backbone.embed_dim)
    return teacher.ibot_head(zeros)


def make_networks(params: Params, device: torch.device) -> tuple[Network, Network]:
    """Return student and teacher with equal weights on `device`.

    Weights are drawn from `base.seed`; those of the backbone are read from `pretrain.init` if it is set.
    """
    # Drawn on the CPU, so that they are the same on every device.
    torch.manual_seed(params.base.seed)
    student = Network(params.base, params.pretrain)
    if params.pretrain.init:
        start = start_weights(Path(params.pretrain.init), params)
        start["pos_embed"] = resize_positions(start["pos_embed"], student.backbone.patch_embed.grid_size[0])
        load_weights(student.backbone, start, f"pretrain.init: {params.pretrain.init}")
    teacher = copy.deepcopy(student).requires_grad_(False).eval()
    return student.train().to(device), teacher.to(device)


def _not_used(start: FrancaModel) -> list[str]:
    """Describe which properties of a model are lost if training starts from it."""
    lines = []
    if planes := len(start.position_planes):
        lines.append(
            f"{planes} planes of RASA are left out, since they fit the current features only; "
            "`franca disentangle` learns new ones after training"
        )
    if start.embed_dim < start.width:
        lines.append(f"all {start.width} dimensions are trained, not the {start.embed_dim} that the model is cut to")
    return lines


def start_weights(folder: Path, params: Params) -> dict[str, Tensor]:
    """Return weights for `Backbone` from a model folder; positions still have the grid of that model.

    A timm model can be used if `Backbone` with its weights has the same features.

    Raises:
        FrancaError: The model has another architecture, or its weights have other features in `Backbone`.
    """
    start = load_model(folder)
    if os.environ.get("RANK", "0") == "0":
        for line in _not_used(start):
            tqdm.write(f"pretrain.init: {folder}: {line}")
    target = params.base.backbone
    if isinstance(start.architecture, BackboneParams):
        # The initial value of LayerScale does not matter, since it is replaced by the weights.
        if start.architecture.model_copy(update={"layer_scale": target.layer_scale}) != target:
            raise FrancaError(
                f"pretrain.init: {folder} holds another architecture than base.backbone: {start.architecture};"
                " change one of them"
            )
        return dict(start.backbone.state_dict())
    weights = dict(start.backbone.state_dict())
    # timm's models without a position for the class token add none to it; ours adds this zero.
    if start.backbone.no_embed_class and start.backbone.cls_token is not None:
        weights["pos_embed"] = torch.cat([torch.zeros_like(weights["pos_embed"][:, :1]), weights["pos_embed"]], dim=1)
    ours = Backbone(target, start.image_size).eval()
    load_weights(ours, weights | {"mask_token": ours.mask_token.detach()}, f"pretrain.init: {folder}")
    image = torch.randn(1, 3, start.image_size, start.image_size, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        if not torch.allclose(ours.forward_features(image), start.backbone.forward_features(image), atol=1e-3):
            raise FrancaError(
                f"pretrain.init: {folder} holds {start.architecture}, whose weights fit base.backbone but give other"
                " features there; change base.backbone (num_heads, ffn)"
            )
    return dict(ours.state_dict())
