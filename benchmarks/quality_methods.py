"""Methods that `benchmarks.quality` compares: the same ViT, crops, optimizer and schedule; other losses and heads."""

from collections.abc import Callable
from typing import Protocol

import torch
from torch import Tensor, nn

from franca.models.backbone import Backbone
from franca.params import ResolvedParams
from franca.pretrain.microbatch import Microbatch
from franca.pretrain.network import update_teacher
from franca.pretrain.optimizer import set_rates
from franca.pretrain.schedules import Rates
from franca.pretrain.setup import choose_precision, make_networks
from franca.pretrain.step import TrainStep


class Method(Protocol):
    """A method in training."""

    backbone: Backbone
    """the weights that are evaluated"""

    def train(self, microbatches: list[Microbatch], rates: Rates, step: int) -> None:
        """Take a step; its number counts from 1."""


class Franca:
    """The product's step with the given parameters."""

    def __init__(self, params: ResolvedParams, device: torch.device) -> None:
        student, teacher = make_networks(params, device)
        self.backbone = teacher.backbone
        precision = choose_precision(params.pretrain.precision, device)
        self.train = TrainStep(params, student, teacher, student, device, precision)


def without_nesting(params: ResolvedParams, device: torch.device) -> Franca:
    """Return Franca with heads for the whole embedding only."""
    heads = params.pretrain.heads.model_copy(update={"nesting": "none", "sharing": "dedicated"})
    pretrain = params.pretrain.model_copy(update={"heads": heads})
    return Franca(params.model_copy(update={"pretrain": pretrain}), device)


class _WithLightly:
    """A backbone with a projection head and a loss of lightly, trained by AdamW with clipped gradients."""

    def __init__(self, params: ResolvedParams, device: torch.device, make_head: Callable[[], nn.Module]) -> None:
        self.params, self.device = params.pretrain, device
        self._bf16 = choose_precision(self.params.precision, device) == "bf16"
        self._base, self._make_head = params.base, make_head
        self.student = self.network()
        named = list(self.student.named_parameters())
        plain = [p for name, p in named if p.ndim < 2 or "norm" in name]
        decayed = [p for name, p in named if p.ndim >= 2 and "norm" not in name]
        self._optimizer = torch.optim.AdamW(
            [
                {"params": plain, "lr_multiplier": 1.0, "wd_multiplier": 0.0, "last_layer": False},
                {"params": decayed, "lr_multiplier": 1.0, "wd_multiplier": 1.0, "last_layer": False},
            ],
            lr=0.0,
            fused=True,
        )

    def network(self) -> nn.ModuleDict:
        """Return a backbone and a head with the weights of the seed."""
        torch.manual_seed(self._base.seed)
        backbone = Backbone(self._base.backbone, self._base.image_size, self.params.drop_path)
        return nn.ModuleDict({"backbone": backbone, "head": self._make_head()}).to(self.device)

    def embed(self, network: nn.ModuleDict, crops: Tensor) -> Tensor:
        """Return the head's outputs for the class tokens of crops (B, 3, S, S)."""
        backbone = _backbone(network)
        tokens = backbone.num_prefix_tokens + backbone.patches(crops)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self._bf16):
            classes = backbone([crops], None, [tokens * torch.arange(len(crops), device=crops.device)])[0]
            return network["head"](classes).float()

    def update(self, loss: Tensor, rates: Rates) -> None:
        """Update the student from a loss."""
        set_rates(self._optimizer, rates.lr, rates.last_layer_lr, rates.weight_decay)
        loss.backward()
        nn.utils.clip_grad_norm_(self.student.parameters(), self.params.optimizer.clip_norm)
        self._optimizer.step()
        self._optimizer.zero_grad(set_to_none=True)


class LightlySimCLR(_WithLightly):
    """SimCLR (arXiv 2002.05709): both crops go through the student."""

    def __init__(self, params: ResolvedParams, device: torch.device) -> None:
        from lightly.loss import NTXentLoss
        from lightly.models.modules import SimCLRProjectionHead

        heads, width = params.pretrain.heads, params.base.backbone.embed_dim
        super().__init__(params, device, lambda: SimCLRProjectionHead(width, heads.hidden_dim, heads.bottleneck_dim))
        self.backbone = _backbone(self.student)
        self._loss = NTXentLoss(params.pretrain.losses.contrastive_temperature)

    def train(self, microbatches: list[Microbatch], rates: Rates, step: int) -> None:
        """Take a step."""
        (microbatch,) = microbatches
        self.update(self._loss(*self.embed(self.student, microbatch.global_crops).chunk(2)), rates)


class LightlyDINO(_WithLightly):
    """DINO (arXiv 2104.14294): the teacher is a moving average; local crops, if any, go through the student only."""

    def __init__(self, params: ResolvedParams, device: torch.device) -> None:
        from lightly.loss import DINOLoss
        from lightly.models.modules import DINOProjectionHead

        heads, losses, width = params.pretrain.heads, params.pretrain.losses, params.base.backbone.embed_dim
        super().__init__(
            params,
            device,
            lambda: DINOProjectionHead(width, heads.hidden_dim, heads.bottleneck_dim, heads.prototypes),
        )
        self._teacher = self.network().requires_grad_(False).eval()
        self.backbone = _backbone(self._teacher)
        self._loss = DINOLoss(heads.prototypes, student_temp=losses.student_temperature).to(device)
        self._never = torch.zeros((), device=device)

    def train(self, microbatches: list[Microbatch], rates: Rates, step: int) -> None:
        """Take a step."""
        (microbatch,) = microbatches
        with torch.no_grad():
            targets = self.embed(self._teacher, microbatch.global_crops).chunk(2)
        outputs = list(self.embed(self.student, microbatch.global_crops).chunk(2))
        if self.params.crops.local_count:
            outputs += self.embed(self.student, microbatch.local_crops).chunk(self.params.crops.local_count)
        self.update(self._loss(list(targets), outputs, rates.teacher_temperature), rates)
        update_teacher(self._teacher, self.student, rates.teacher_momentum, self._never)


def _backbone(network: nn.ModuleDict) -> Backbone:
    backbone = network["backbone"]
    assert isinstance(backbone, Backbone)
    return backbone


METHODS: dict[str, Callable[[ResolvedParams, torch.device], Method]] = {
    "Franca": Franca,
    "Franca without nesting": without_nesting,
    "SimCLR (lightly)": LightlySimCLR,
    "DINO (lightly)": LightlyDINO,
}
