"""What student and teacher both are: a backbone with a nested head for class tokens and one for patches."""

import torch
from torch import Tensor, nn

from franca.models.backbone import Backbone
from franca.models.heads import NestedHead
from franca.params import Base, Pretrain


class Network(nn.Module):
    def __init__(self, base: Base, params: Pretrain) -> None:
        super().__init__()
        self.backbone = Backbone(base.backbone, base.image_size, params.drop_path)
        self.dino_head = NestedHead(base.backbone.embed_dim, params.heads)
        self.ibot_head = NestedHead(base.backbone.embed_dim, params.heads)

    def tokens(self, images: Tensor, masks: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Class tokens (B, D) and patch tokens (B, h w, D) of normalized images."""
        tokens = self.backbone.forward_features(images, masks)
        return tokens[:, 0], tokens[:, self.backbone.num_prefix_tokens :]


@torch.no_grad()
def update_teacher(teacher: nn.Module, student: nn.Module, momentum: float) -> None:
    """Moving average of all weights: teacher <- m teacher + (1 - m) student."""
    torch._foreach_lerp_(list(teacher.parameters()), list(student.parameters()), 1 - momentum)
