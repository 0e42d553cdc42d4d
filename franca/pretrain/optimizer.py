"""AdamW with separate learning rates and weight decays for each kind of parameter."""

from collections import defaultdict
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.optim import AdamW

from franca.params import Optimizer
from franca.pretrain.network import Network
from franca.pretrain.parallel import whole


class GroupKey(NamedTuple):
    """Settings that the parameters of a group share."""

    lr_multiplier: float
    wd_multiplier: float
    last_layer: bool
    """whether they are prototypes, whose learning rate is 0 in the first epochs"""


def group_key(name: str, depth: int, params: Optimizer) -> GroupKey:
    """Return the multipliers of a parameter, as in the official code.

    The learning rate of block j is multiplied by layer_decay^(depth - j), that of everything before the blocks by
    layer_decay^(depth + 1), and that of the patch embedding also by patch_embed_lr. Biases, norms and LayerScale have
    no weight decay.

    Args:
        name: Name of the parameter in `Network`.
        depth: Number of blocks of the backbone.
        params: The multipliers.
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
    """Return a fused AdamW over all parameters of the network, with a learning rate of 0 until `set_rates`."""
    groups: dict[GroupKey, list[nn.Parameter]] = defaultdict(list)
    for name, parameter in network.named_parameters():
        groups[group_key(name, len(network.backbone.blocks), params)].append(parameter)
    return AdamW([{"params": parameters, **key._asdict()} for key, parameters in groups.items()], lr=0.0, fused=True)


def set_rates(optimizer: AdamW, lr: float, last_layer_lr: float, weight_decay: float) -> None:
    """Set learning rates and weight decay of all groups, each times the group's multiplier."""
    for group in optimizer.param_groups:
        group["lr"] = float((last_layer_lr if group["last_layer"] else lr) * group["lr_multiplier"])
        group["weight_decay"] = float(weight_decay * group["wd_multiplier"])


def clip_gradients(network: Network, clip_norm: float) -> dict[str, Tensor]:
    """Clip the gradient norms of backbone and heads, each on its own, to `clip_norm`.

    Returns:
        The norms before clipping by name of the submodule, () float32 on the device, equal in all processes.
    """
    return {
        name: whole(nn.utils.clip_grad_norm_(child.parameters(), clip_norm, foreach=True))
        for name, child in network.named_children()
    }


def moments(network: Network, optimizer: AdamW) -> dict[str, dict[str, Tensor]]:
    """Return AdamW's state by name of the parameter, creating it if it does not exist yet.

    A checkpoint is loaded into these tensors, so they must exist before the first step.
    """
    for parameter in network.parameters():
        if parameter not in optimizer.state:
            optimizer.state[parameter] = {
                "step": torch.zeros((), device=parameter.device),
                "exp_avg": torch.zeros_like(parameter),
                "exp_avg_sq": torch.zeros_like(parameter),
            }
    return {name: optimizer.state[parameter] for name, parameter in network.named_parameters()}
