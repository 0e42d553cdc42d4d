"""The step as papers describe it, in plain PyTorch, on the weights of the product's networks.

Crops are cut by Pillow one by one; blocks are timm's, whose stochastic depth computes every sample and zeroes some;
global and local crops go through backbone and head apart; all logits of all levels are there at once, those of the
patch head for masked patches alone; Sinkhorn-Knopp is done on exponentials, log-softmax in float32; the optimizer and
the moving average go from parameter to parameter, and every loss is read in every step.
"""

import math
from collections.abc import Sequence
from typing import Any

import torch
from timm.layers import DropPath, Mlp, SwiGLUPacked
from timm.models.vision_transformer import Block, VisionTransformer
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.step_setting import LEARNING_RATE, MOMENTUM, WEIGHT_DECAY, Setting
from franca.data.views.batch import Batch
from franca.models.backbone import Backbone, timm_arguments
from franca.models.heads import Level
from franca.params import Params
from franca.pretrain.microbatch import Part
from franca.pretrain.network import Network
from franca.pretrain.setup import make_networks


def plain_vit(params: Params) -> VisionTransformer:
    """timm's vision transformer of the same architecture."""
    swiglu = params.base.backbone.ffn == "swiglu"
    return VisionTransformer(
        **timm_arguments(params.base.backbone, params.base.image_size),
        dynamic_img_size=True,
        mlp_layer=SwiGLUPacked if swiglu else Mlp,  # type: ignore[arg-type]
        act_layer=nn.SiLU if swiglu else nn.GELU,
    )


class TextbookStep:
    def __init__(self, setting: Setting) -> None:
        self._setting, self._params = setting, setting.params.pretrain
        self.student, self.teacher = make_networks(setting.params, setting.device)
        for network, rate in ((self.student, self._params.drop_path), (self.teacher, 0.0)):
            network.backbone.blocks = _plain_blocks(network.backbone, setting.params, rate)
        weights = [p for p in self.student.parameters() if p.ndim > 1]
        others = [p for p in self.student.parameters() if p.ndim <= 1]
        groups: list[dict[str, Any]] = [{"params": weights}, {"params": others, "weight_decay": 0.0}]
        self._optimizer = torch.optim.AdamW(groups, LEARNING_RATE, weight_decay=WEIGHT_DECAY, foreach=False)
        self._log: dict[str, float] = {}

    def crops(self) -> Part:
        setting = self._setting
        batch = Batch(*setting.multi_crop.views(setting.images(), setting.draws()), setting.masks())
        return setting.split(batch)[0]

    def backward(self, part: Part) -> Tensor:
        """The loss, whose gradients it leaves in the student."""
        with self._setting.autocast():
            losses = textbook_losses(self.student, self.teacher, part, self._setting)
        loss = torch.stack(list(losses.values())).sum()
        loss.backward()
        self._log = {name: value.item() for name, value in losses.items()}
        return loss

    def train(self, crops: Part) -> None:
        if not math.isfinite(self.backward(crops).item()):
            raise FloatingPointError("the loss is not finite")
        for name, child in self.student.named_children():
            norm = nn.utils.clip_grad_norm_(child.parameters(), self._params.optimizer.clip_norm, foreach=False)
            self._log[f"grad_norm/{name}"] = norm.item()
        self._optimizer.step()
        self._optimizer.zero_grad()
        with torch.no_grad():
            for old, new in zip(self.teacher.parameters(), self.student.parameters(), strict=True):
                old.mul_(MOMENTUM).add_(new, alpha=1 - MOMENTUM)


def _plain_blocks(backbone: Backbone, params: Params, rate: float) -> nn.Sequential:
    """timm's blocks with the weights of ours."""
    blocks = plain_vit(params).blocks
    blocks.load_state_dict(backbone.blocks.state_dict())
    for block in blocks:
        assert isinstance(block, Block)
        for norm in (block.norm1, block.norm2):
            norm.eps = 1e-6  # type: ignore[assignment]
        if rate:
            block.drop_path1, block.drop_path2 = DropPath(rate), DropPath(rate)
    blocks.train(backbone.training).to(next(backbone.parameters()).device)
    blocks.requires_grad_(next(backbone.parameters()).requires_grad)
    assert isinstance(blocks, nn.Sequential)
    return blocks


def textbook_losses(student: Network, teacher: Network, part: Part, setting: Setting) -> dict[str, Tensor]:
    """The weighted losses by name; their sum is the objective."""
    losses, crops = setting.params.pretrain.losses, setting.params.pretrain.crops

    with torch.no_grad():
        tokens = _tokens(teacher.backbone, part.global_crops)
        patches = tokens[:, 1:].flatten(0, 1)[part.masked]
        class_targets = [_sinkhorn(x, setting) for x in _logits(teacher.dino_head(tokens[:, 0]))]
        patch_targets = [_sinkhorn(x, setting) for x in _logits(teacher.ibot_head(patches))]

    tokens = _tokens(student.backbone, part.global_crops, part.masks)
    patches = tokens[:, 1:].flatten(0, 1)[part.masked]
    global_logits = _logits(student.dino_head(tokens[:, 0]))
    local_logits = _logits(student.dino_head(_tokens(student.backbone, part.local_crops)[:, 0]))
    patch_logits = _logits(student.ibot_head(patches))

    dino, ibot = [], []
    for targets, global_, local in zip(class_targets, global_logits, local_logits, strict=True):
        views = [*global_.chunk(2), *local.chunk(crops.local_count)]
        pairs = [
            _cross_entropy(view, target, losses.student_temperature).mean()
            for row, target in enumerate(targets.chunk(2))
            for column, view in enumerate(views)
            if row != column
        ]
        dino.append(torch.stack(pairs).sum() / len(pairs))
    for targets, logits in zip(patch_targets, patch_logits, strict=True):
        entropies = _cross_entropy(logits, targets, losses.student_temperature)
        ibot.append((entropies * part.mask_weights).sum() / len(part.global_crops))
    return {
        "dino": losses.dino_weight * torch.stack(dino).sum(),
        "ibot": losses.ibot_weight * torch.stack(ibot).sum(),
        "koleo": losses.koleo_weight * torch.stack([_koleo(x, setting) for x in tokens[:, 0].chunk(2)]).sum(),
    }


def _tokens(backbone: Backbone, images: Tensor, masks: Tensor | None = None) -> Tensor:
    x = backbone.patch_embed(images)
    if masks is not None:
        x = torch.where(masks.unflatten(1, x.shape[1:3])[..., None], backbone.mask_token.to(x.dtype), x)
    return backbone.norm(backbone.blocks(backbone._pos_embed(x)))


def _logits(levels: Sequence[Level]) -> list[Tensor]:
    return [hidden @ prototypes.T for hidden, prototypes in levels]


def _sinkhorn(logits: Tensor, setting: Setting) -> Tensor:
    logits = logits.float()
    shares = torch.exp((logits - logits.max()) / setting.temperature).T
    prototypes, samples = shares.shape
    shares /= shares.sum()
    for _ in range(setting.params.pretrain.losses.sinkhorn_iterations):
        shares /= shares.sum(dim=1, keepdim=True)
        shares /= prototypes
        shares /= shares.sum(dim=0, keepdim=True)
        shares /= samples
    return (shares * samples).T


def _cross_entropy(logits: Tensor, targets: Tensor, temperature: float) -> Tensor:
    return -(targets * F.log_softmax(logits.float() / temperature, dim=-1)).sum(dim=-1)


def _koleo(x: Tensor, setting: Setting) -> Tensor:
    with torch.autocast(setting.device.type, enabled=False):
        x = F.normalize(x.float(), dim=-1)
        similarity = x @ x.T
        nearest = similarity.fill_diagonal_(-1).argmax(dim=1)
        return -torch.log(F.pairwise_distance(x, x[nearest], eps=1e-8) + 1e-8).mean()
