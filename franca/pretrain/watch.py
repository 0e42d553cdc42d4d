"""Losses that are not finite: no update from the first such step on, and the run ends at the next reading.

The fused optimizer skips its step where `found_inf` is set, on the device, so that no step waits for an answer.
"""

from typing import NoReturn

import torch
from torch import Tensor
from torch.optim import AdamW

from franca.data.loader import StepDataset
from franca.errors import FrancaError
from franca.files import write_json
from franca.pretrain.checkpoint import Checkpoints, State
from franca.pretrain.parallel import Ranks
from franca.pretrain.run_folder import RunFolder

_SHOWN = 8


class FiniteCheck:
    """Remembers the first step whose gradients were not finite."""

    def __init__(self, device: torch.device) -> None:
        self._first = torch.zeros((), dtype=torch.int64, device=device)

    def guard(self, optimizer: AdamW, norms: dict[str, Tensor], step: int) -> None:
        """Skip this step and all that follow if a norm, which all processes have alike, is not finite."""
        ill = ~torch.isfinite(torch.stack(list(norms.values()))).all()
        self._first = torch.where((self._first == 0) & ill, step, self._first)
        optimizer.found_inf = (self._first > 0).float()  # type: ignore[attr-defined]

    def read(self) -> int | None:
        """The first bad step; waits for the device."""
        return int(self._first) or None


def give_up(
    step: int, dataset: StepDataset, checkpoints: Checkpoints, state: State, folder: RunFolder, ranks: Ranks
) -> NoReturn:
    """Save the weights from before the bad step and its images' indices, and end with a FrancaError."""
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
