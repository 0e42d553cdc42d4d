"""Losses that are not finite: nothing is updated from the first such step on, and the run ends at the next reading.

Optimizer, teacher and centers read `found_inf` on the device and stand still if it is 1, so no step waits for the
host to read it.
"""

from typing import NoReturn

import torch
from torch import Tensor
from torch.optim import AdamW

from franca.data.views.loader import StepDataset
from franca.errors import FrancaError
from franca.files import write_json
from franca.pretrain.checkpoint import Checkpoints, State
from franca.pretrain.parallel import Ranks
from franca.pretrain.run_folder import RunFolder

_SHOWN = 8


class FiniteCheck:
    """Remembers the first step whose gradients were not finite."""

    found_inf: Tensor
    """() float32 on the device: 1 from the first bad step on, else 0"""

    def __init__(self, device: torch.device) -> None:
        self._first = torch.zeros((), dtype=torch.int64, device=device)
        self.found_inf = torch.zeros((), device=device)

    def guard(self, optimizer: AdamW, norms: dict[str, Tensor], step: int) -> None:
        """Update `found_inf` and have the optimizer skip this step and all later ones if it is 1.

        Args:
            optimizer: A fused one, which reads `found_inf` on the device.
            norms: Gradient norms, () float32, equal in all processes.
            step: The number of this step, from 1.
        """
        bad = ~torch.isfinite(torch.stack(list(norms.values()))).all()
        self._first = torch.where((self._first == 0) & bad, step, self._first)
        self.found_inf = (self._first > 0).float()
        optimizer.found_inf = self.found_inf  # type: ignore[attr-defined]

    def read(self) -> int | None:
        """Return the first bad step, None if there is none; waits for the device."""
        return int(self._first) or None


def give_up(
    step: int, dataset: StepDataset, checkpoints: Checkpoints, state: State, folder: RunFolder, ranks: Ranks
) -> NoReturn:
    """Save the weights from before the bad step and the indices of its images, and raise FrancaError.

    Args:
        step: The bad step, from 1.
        dataset: Knows the step's images.
        checkpoints: Where the weights go; no other save may be running, as two threads cannot share a group.
        state: What a checkpoint holds.
        folder: Where the indices go.
        ranks: The processes, which all call this.
    """
    checkpoints.save(step - 1, state, {})
    checkpoints.wait()
    images = dataset.indices(step - 1).tolist()
    path = folder.path / "nonfinite.json"
    if ranks.first:
        write_json(path, {"step": step, "images": images})
    shown = ", ".join(map(str, images[:_SHOWN])) + (", …" if len(images) > _SHOWN else "")
    raise FrancaError(
        f"the loss is not finite at step {step} (training images {shown}: {path}; weights from before it:"
        f" {checkpoints.folder}); lower pretrain.optimizer.base_lr"
    )
