"""A training step built from lightly's blocks for DINOv2, as in its documentation.

Its teacher assigns with a softmax of logits minus a moving center, which is less work than Sinkhorn-Knopp. Gradients
are not clipped. Stochastic depth computes every sample and multiplies some by zero. The two heads are separate, as in
the product.
"""

import random
from typing import NamedTuple

import torch
from lightly.loss import DINOLoss, IBOTPatchLoss, KoLeoLoss
from lightly.models.modules import DINOv2ProjectionHead, MaskedVisionTransformerTIMM
from lightly.models.utils import random_block_mask, update_drop_path_rate, update_momentum
from lightly.transforms import DINOTransform
from torch import Tensor, nn

from benchmarks.step_setting import LEARNING_RATE, MOMENTUM, WEIGHT_DECAY, Setting
from benchmarks.step_textbook import plain_vit
from franca.params import Pretrain, ResolvedBase


class Views(NamedTuple):
    """Input of a step."""

    global_crops: Tensor
    local_crops: Tensor
    masks: Tensor
    """bool (2 B, rows, columns) of patches"""


class _Network(nn.Module):
    def __init__(self, setting: Setting) -> None:
        super().__init__()
        heads, width = setting.params.pretrain.heads, setting.params.base.backbone.embed_dim
        self.backbone = MaskedVisionTransformerTIMM(
            plain_vit(setting.params), antialias=False, pos_embed_initialization="skip"
        )
        self.dino_head, self.ibot_head = (
            DINOv2ProjectionHead(width, heads.hidden_dim, heads.bottleneck_dim, heads.prototypes) for _ in range(2)
        )


class LightlyStep:
    """lightly's step as a form of the benchmark."""

    def __init__(self, setting: Setting) -> None:
        torch.manual_seed(0)
        self._setting, self._params, self._device = setting, setting.params.pretrain, setting.device
        self._transform = _transform(setting.params.base, self._params)
        self._student, self._teacher = (_Network(setting).to(self._device) for _ in range(2))
        self._teacher.load_state_dict(self._student.state_dict())
        self._teacher.requires_grad_(False).eval()
        update_drop_path_rate(self._student.backbone.vit, self._params.drop_path, mode="uniform")
        prototypes, student = self._params.heads.prototypes, self._params.losses.student_temperature
        self._dino = DINOLoss(prototypes, student_temp=student).to(self._device)
        self._ibot = IBOTPatchLoss(prototypes, student_temp=student).to(self._device)
        self._koleo = KoLeoLoss()
        self._optimizer = torch.optim.AdamW(self._student.parameters(), LEARNING_RATE, weight_decay=WEIGHT_DECAY)
        self._total = torch.zeros((), device=self._device)

    def crops(self) -> Views:
        """Cut the crops of a step and draw its masks."""
        random.seed(0)
        views = zip(*(self._transform(image) for image, _ in self._setting.images()), strict=True)
        crops = [torch.stack(view) for view in views]
        masks, (rows, columns) = self._params.masks, self._student.backbone.vit.patch_embed.grid_size
        smallest = min(4, int(masks.ratio[0] * rows * columns))
        shape = (2 * self._setting.batch, rows, columns)
        chosen = random_block_mask(shape, masks.image_share, *masks.ratio, min_num_masks_per_block=smallest)
        return Views(*(x.to(self._device) for x in (torch.cat(crops[:2]), torch.cat(crops[2:]), chosen)))

    def train(self, crops: Views) -> None:
        """Take a step."""
        with self._setting.autocast():
            loss = self._loss(crops)
        loss.backward()
        self._total += loss.detach()
        self._optimizer.step()
        self._optimizer.zero_grad()
        update_momentum(self._student, self._teacher, m=MOMENTUM)

    def _loss(self, crops: Views) -> Tensor:
        # The class token, which comes first, is never masked.
        hidden = nn.functional.pad(crops.masks.flatten(1), (1, 0))
        with torch.no_grad():
            seen = self._teacher.backbone.encode(crops.global_crops)
            class_targets = self._teacher.dino_head(seen[:, 0])
            patch_targets = self._teacher.ibot_head(seen[hidden])
        seen = self._student.backbone.encode(crops.global_crops, mask=hidden)
        local_classes = self._student.backbone.encode(crops.local_crops)[:, 0]
        classes = torch.cat([self._student.dino_head(seen[:, 0]), self._student.dino_head(local_classes)])
        patches = self._student.ibot_head(seen[hidden])
        losses, temperature = self._params.losses, self._setting.temperature
        dino = self._dino(class_targets.chunk(2), classes.chunk(2 + self._params.crops.local_count), temperature)
        ibot = self._ibot(patch_targets, patches, crops.masks, temperature)
        koleo = sum(self._koleo(x) for x in seen[:, 0].chunk(2))
        return losses.dino_weight * dino + losses.ibot_weight * ibot + losses.koleo_weight * koleo


def _transform(base: ResolvedBase, params: Pretrain) -> DINOTransform:
    crops, augment = params.crops, params.augment
    brightness, contrast, saturation, hue = augment.jitter
    turned = 0.5 if augment.orientation == "dihedral" else 0.0
    return DINOTransform(
        global_crop_size=base.image_size,
        global_crop_scale=crops.global_scale,
        local_crop_size=crops.local_size,
        local_crop_scale=crops.local_scale,
        n_local_views=crops.local_count,
        vf_prob=turned,
        rr_prob=turned,
        cj_prob=augment.jitter_probability,
        cj_strength=1.0,
        cj_bright=brightness,
        cj_contrast=contrast,
        cj_sat=saturation,
        cj_hue=hue,
        random_gray_scale=augment.gray_probability,
        gaussian_blur=augment.blur_probability,
        solarization_prob=augment.solarize_probability,
        normalize={"mean": list(base.mean), "std": list(base.std)},
    )
