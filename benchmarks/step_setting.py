"""Settings of `benchmarks.step` that all forms share: parameters, images, device and precision."""

from collections.abc import Iterator
from contextlib import AbstractContextManager
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from PIL import Image

from franca import presets
from franca.data.views.batch import PartMasks, part_masks
from franca.data.views.masks import batch_masks
from franca.data.views.multi_crop import Draws, Frame, MultiCrop
from franca.params import Params, resolve
from franca.pretrain.microbatch import MicrobatchSplitter

LEARNING_RATE, WEIGHT_DECAY, MOMENTUM = 1e-4, 0.04, 0.99


class Form(Protocol):
    """An implementation of the training step."""

    def crops(self) -> Any:
        """Return the input of a step from decoded images, from the same seed in each call."""

    def train(self, crops: Any) -> None:
        """Take a step, up to the update of the teacher."""


class Case(NamedTuple):
    """A model and its crops: a preset with some changes."""

    preset: str
    side: int
    """side of the images in pixels"""
    batch: int
    drop_path: float
    patch_size: int
    local_size: int


CPU_CASES = {
    "overhead-cpu": Case("overhead-cpu", 64, 32, 0.0, 8, 16),
    "ViT-S/16": Case("photos-1gpu", 256, 5, 0.3, 16, 96),
}
CUDA_CASES = {"ViT-L/14": Case("vitl14-in21k", 256, 32, 0.4, 14, 98)}
LEVELS = {"one": "none", "five": "project"}
"""`pretrain.heads.nesting` by the number of levels."""


class Setting:
    """A case with a number of levels, on the GPU if there is one."""

    def __init__(
        self, case: str | Case, levels: str, precise: bool = False, runtime: dict[str, Any] | None = None
    ) -> None:
        """Create the parameters and images.

        Args:
            case: A case or the name of one.
            levels: "one" or "five".
            precise: Whether to use float32 on a GPU too.
            runtime: Values to change in the `runtime` section.
        """
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        preset, side, batch, drop_path, patch_size, local_size = (
            (CPU_CASES | CUDA_CASES)[case] if isinstance(case, str) else case
        )
        tree = presets.values(preset)
        tree["base"]["backbone"]["patch_size"] = patch_size
        tree["pretrain"] |= {"batch_size": batch, "drop_path": drop_path, "precision": "auto"}
        tree["pretrain"]["crops"]["local_size"] = local_size
        tree["pretrain"]["heads"]["nesting"] = LEVELS[levels]
        tree["pretrain"]["losses"]["koleo_images"] = batch
        tree["runtime"] |= {"compile": False, "microbatch": None, "threads": 1 if self.device.type == "cpu" else 8}
        tree["runtime"] |= runtime or {}
        self.params = resolve(Params.model_validate(tree))
        self.side, self.batch = side, batch
        self.split = MicrobatchSplitter(self.params.base, self.device)
        self.bf16 = self.device.type == "cuda" and not precise
        self.temperature = self.params.pretrain.losses.teacher_temperature[0]
        self._noise = np.random.default_rng(0).integers(0, 256, (batch, side, side, 3), dtype=np.uint8)
        self.multi_crop = MultiCrop(
            self.params.base.image_size, self.params.pretrain.crops, self.params.pretrain.augment
        )

    def images(self) -> Iterator[tuple[Image.Image, Frame]]:
        """Yield the decoded images of a batch."""
        for pixels in self._noise:
            yield Image.fromarray(pixels), (0.0, 0.0, float(self.side), float(self.side))

    def draws(self) -> Draws:
        """Draw the crops of a batch, the same in each call."""
        return self.multi_crop.draw(np.random.default_rng(0), self.batch, slice(self.batch))

    def masks(self, seed: int = 0) -> list[PartMasks]:
        """Draw the masks of a batch as one microbatch."""
        grid = self.params.base.image_size // self.params.base.backbone.patch_size
        masks = batch_masks(self.batch, self.batch, grid, self.params.pretrain.masks, np.random.default_rng(seed))
        return part_masks(torch.from_numpy(masks), 1)

    def autocast(self) -> AbstractContextManager[Any]:
        """Return a context for bfloat16 on a GPU, float32 on a CPU."""
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.bf16)
