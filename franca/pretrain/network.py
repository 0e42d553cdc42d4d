"""The network of student and teacher: a backbone, a nested head for class tokens and one for patches."""

from collections.abc import Iterable
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from franca.models.backbone import Backbone
from franca.models.heads import ContrastiveHead, Level, NestedHead
from franca.params import Base, Pretrain


class Outputs(NamedTuple):
    """Outputs for 2 B global crops and n B local crops after them, crop-major."""

    classes: Tensor
    """(2 B, D) float32, or bfloat16 under autocast: class tokens of the global crops"""
    dino: list[Level]
    """levels of the class tokens, narrowest first, (2 + n) B rows each"""
    ibot: list[Level]
    """levels of the masked patches, narrowest first, M rows each"""
    contrastive: Tensor | None = None
    """(L, 2 B, b): each level's embeddings of the global crops for the contrastive loss; None without that loss"""


def share_prototypes(outputs: Iterable[Outputs]) -> list[Outputs]:
    """Replace the prototypes of all outputs by the first one's and return the outputs.

    Outputs of one network for several microbatches have equal prototypes, of which only one copy then stays in memory.

    Args:
        outputs: The outputs, computed while iterating: each one's own prototypes are released before the next.
    """
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
    """A backbone with heads for DINO, iBOT and, if its weight is above 0, the contrastive loss."""

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
        """Return the outputs for normalized crops.

        Args:
            global_crops: (2 B, 3, S, S) float32.
            masked: (M,) int64, the patches that go through the patch head, as indices into (2 B, h w) flattened.
            masks: (2 B, h w) bool, the patches that the backbone sees as mask tokens; None for none.
            local_crops: (n B, 3, s, s) float32, or None.
        """
        prefix, patches = self.backbone.num_prefix_tokens, self.backbone.patches(global_crops)
        first = torch.arange(len(global_crops), device=masked.device) * (prefix + patches)
        of_patches = first[masked // patches] + prefix + masked % patches
        # Only the tokens that a loss reads: the backbone's last block skips the MLP of all others.
        crops, token_indices = [global_crops], [torch.cat([first, of_patches])]
        if local_crops is not None and len(local_crops):
            size = prefix + self.backbone.patches(local_crops)
            crops.append(local_crops)
            token_indices.append(torch.arange(len(local_crops), device=masked.device) * size)
        of_globals, *of_locals = self.backbone(crops, masks, token_indices)
        classes, hidden = of_globals.split([len(global_crops), len(masked)])
        return Outputs(
            classes,
            self.dino_head(torch.cat([classes, *of_locals])),
            self.ibot_head(hidden),
            None if self.contrastive_head is None else self.contrastive_head(classes),
        )


def head_parameters(network: Network) -> int:
    """Return the number of weights outside the backbone, which training needs and the finished model does not keep."""
    of_backbone = sum(parameter.numel() for parameter in network.backbone.parameters())
    return sum(parameter.numel() for parameter in network.parameters()) - of_backbone


@torch.no_grad()
def update_teacher(teacher: nn.Module, student: nn.Module, momentum: float, found_inf: Tensor) -> None:
    """Update the moving average of all weights, teacher <- m teacher + (1 - m) student; each process its own shards.

    Args:
        teacher: The network that is updated.
        student: A network of the same structure.
        momentum: m, 0 to 1.
        found_inf: () float32 on the device; 1 leaves the teacher as it is, 0 updates it.
    """
    # As a tensor on the device the weight costs one kernel per parameter, but no step waits for the host to read it.
    averages = _local(teacher)
    torch._foreach_lerp_(averages, _local(student), [(1 - found_inf) * (1 - momentum)] * len(averages))


def _local(module: nn.Module) -> list[Tensor]:
    return [p.to_local() if isinstance(p, DTensor) else p for p in module.parameters()]
