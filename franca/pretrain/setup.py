"""What must be settled before the first step: precision and the two networks."""

import copy
from pathlib import Path

import torch

from franca.errors import FrancaError
from franca.models import load_model
from franca.models.backbone import resize_positions
from franca.params import Params
from franca.pretrain.network import Network


def choose_precision(wanted: str, device: torch.device) -> str:
    """ "bf16" where the hardware multiplies it natively, if `wanted` is "auto"."""
    if wanted != "auto":
        return wanted
    native = torch.cuda.is_bf16_supported() if device.type == "cuda" else torch.cpu._is_avx512_bf16_supported()
    return "bf16" if native else "fp32"


def make_networks(params: Params, device: torch.device) -> tuple[Network, Network]:
    """Student and teacher with the same weights, drawn from the seed or the backbone's read from `pretrain.init`."""
    torch.manual_seed(params.base.seed)
    student = Network(params.base, params.pretrain)
    if params.pretrain.init:
        start = load_model(Path(params.pretrain.init))
        if start.architecture != params.base.backbone:
            raise FrancaError(
                f"pretrain.init: {params.pretrain.init} holds another architecture than base.backbone:"
                f" {start.architecture}"
            )
        weights = start.backbone.state_dict()
        weights["pos_embed"] = resize_positions(weights["pos_embed"], student.backbone.patch_embed.grid_size[0])
        student.backbone.load_state_dict(weights)
    teacher = copy.deepcopy(student).requires_grad_(False).eval()
    return student.train().to(device), teacher.to(device)
