"""What student and teacher both are: a backbone with a nested head for class tokens and one for patches."""

from collections.abc import Iterable
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from franca.models.backbone import Backbone
from franca.models.heads import ContrastiveHead, Level, NestedHead
from franca.params import Base, Pretrain


class Outputs(NamedTuple):
    """Of global crops (2 B) and, behind them, local crops (n B), crop-major."""

    classes: Tensor
    """(2 B, D): class tokens of the global crops"""
    dino: list[Level]
    """the class tokens' levels, (2 + n) B rows each"""
    ibot: list[Level]
    """the masked patches' levels"""
    contrastive: Tensor | None = None
    """(2 B, b): embeddings of the global crops for the contrastive loss; None without that loss"""


def share_prototypes(outputs: Iterable[Outputs]) -> list[Outputs]:
    """Return outputs of one network with the first one's prototypes, so that one copy of them stays in memory."""
    shared: list[Outputs] = []
    for output in outputs:
        if shared:
            dino, ibot = (
                [level._replace(prototypes=first.prototypes) for level, first in zip(levels, firsts, strict=True)]
                for levels, firsts in ((output.dino, shared[0].dino), (output.ibot, shared[0].ibot))
            )
            output = output._replace(dino=dino, ibot=ibot)
        shared.append(output)
    return shared


class Network(nn.Module):
    def __init__(self, base: Base, params: Pretrain) -> None:
        super().__init__()
        self.backbone = Backbone(base.backbone, base.image_size, params.drop_path)
        self.dino_head = NestedHead(base.backbone.embed_dim, params.heads)
        self.ibot_head = NestedHead(base.backbone.embed_dim, params.heads)
        self.contrastive_head = (
            ContrastiveHead(base.backbone.embed_dim, params.heads) if params.losses.contrastive_weight else None
        )

    def forward(
        self, global_crops: Tensor, masked: Tensor, masks: Tensor | None = None, local_crops: Tensor | None = None
    ) -> Outputs:
        """Levels of normalized crops (2 B, 3, S, S) and (n B, 3, s, s).

        `masked` (M,) are the positions, in (2 B, h w) row by row, of the patches that go through the patch head;
        `masks` (2 B, h w) hides patches from the backbone.
        """
        prefix, patches = self.backbone.num_prefix_tokens, self.backbone.patches(global_crops)
        first = torch.arange(len(global_crops), device=masked.device) * (prefix + patches)
        of_patches = first[masked // patches] + prefix + masked % patches
        crops, wanted = [global_crops], [torch.cat([first, of_patches])]
        if local_crops is not None and len(local_crops):
            size = prefix + self.backbone.patches(local_crops)
            crops.append(local_crops)
            wanted.append(torch.arange(len(local_crops), device=masked.device) * size)
        of_globals, *of_locals = self.backbone(crops, masks, wanted)
        classes, hidden = of_globals.split([len(global_crops), len(masked)])
        return Outputs(
            classes,
            self.dino_head(torch.cat([classes, *of_locals])),
            self.ibot_head(hidden),
            None if self.contrastive_head is None else self.contrastive_head(classes),
        )


def head_parameters(network: Network) -> int:
    """Return the number of weights outside the backbone: what training needs and the model does not keep."""
    of_backbone = sum(parameter.numel() for parameter in network.backbone.parameters())
    return sum(parameter.numel() for parameter in network.parameters()) - of_backbone


@torch.no_grad()
def update_teacher(teacher: nn.Module, student: nn.Module, momentum: float, found_inf: Tensor) -> None:
    """Update the moving average of all weights: teacher <- m teacher + (1 - m) student.

    Each process updates its own shards.

    Args:
        teacher: The network that is updated.
        student: A network of the same structure.
        momentum: m, 0 to 1.
        found_inf: () float32 on the device; the teacher stays as it is if it is 1, and moves if it is 0.
    """
    # The weight stays on the device, so nothing waits for the host. As a tensor it costs one kernel per parameter.
    averages = _local(teacher)
    torch._foreach_lerp_(averages, _local(student), [(1 - found_inf) * (1 - momentum)] * len(averages))


def _local(module: nn.Module) -> list[Tensor]:
    return [p.to_local() if isinstance(p, DTensor) else p for p in module.parameters()]
