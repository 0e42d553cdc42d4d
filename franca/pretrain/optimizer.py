"""AdamW with a learning rate and a weight decay of its own for each kind of parameter."""

from collections import defaultdict
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.optim import AdamW

from franca.params import Optimizer
from franca.pretrain.network import Network
from franca.pretrain.parallel import whole


class GroupKey(NamedTuple):
    lr_multiplier: float
    wd_multiplier: float
    last_layer: bool


def group_key(name: str, depth: int, params: Optimizer) -> GroupKey:
    """Multipliers of a network's parameter, by its name.

    Block j of the backbone has layer_decay^(depth - j), what comes before the blocks layer_decay^(depth + 1), the
    final norm and the heads 1; the patch embedding is multiplied by patch_embed_lr on top. Biases, norms and
    LayerScale are not decayed.
    """
    owner, _, rest = name.partition(".")
    lr = 1.0
    if owner == "backbone":
        if rest.startswith("blocks."):
            lr = params.layer_decay ** (depth - int(rest.split(".")[1]))
        elif not rest.startswith("norm."):
            lr = params.layer_decay ** (depth + 1)
        if rest.startswith("patch_embed."):
            lr *= params.patch_embed_lr
    decayed = not (name.endswith(".bias") or "norm" in name or "gamma" in name)
    return GroupKey(lr, float(decayed), "last_layer" in name)


def make_optimizer(network: Network, params: Optimizer) -> AdamW:
    groups: dict[GroupKey, list[nn.Parameter]] = defaultdict(list)
    for name, parameter in network.named_parameters():
        groups[group_key(name, len(network.backbone.blocks), params)].append(parameter)
    return AdamW([{"params": parameters, **key._asdict()} for key, parameters in groups.items()], lr=0.0, fused=True)


def set_rates(optimizer: AdamW, lr: float, last_layer_lr: float, weight_decay: float) -> None:
    for group in optimizer.param_groups:
        group["lr"] = float((last_layer_lr if group["last_layer"] else lr) * group["lr_multiplier"])
        group["weight_decay"] = float(weight_decay * group["wd_multiplier"])


def clip_gradients(network: Network, clip_norm: float) -> dict[str, Tensor]:
    """Scale the gradients of backbone and heads, each apart, to a norm of at most `clip_norm`; their norms before."""
    return {
        name: whole(nn.utils.clip_grad_norm_(child.parameters(), clip_norm, foreach=True))
        for name, child in network.named_children()
    }


def moments(network: Network, optimizer: AdamW) -> dict[str, dict[str, Tensor]]:
    """AdamW's state by the parameters' names, made where it has none yet: what a checkpoint holds and fills."""
    for parameter in network.parameters():
        if parameter not in optimizer.state:
            optimizer.state[parameter] = {
                "step": torch.zeros((), device=parameter.device),
                "exp_avg": torch.zeros_like(parameter),
                "exp_avg_sq": torch.zeros_like(parameter),
            }
    return {name: optimizer.state[parameter] for name, parameter in network.named_parameters()}
