"""Check for gradients that are not finite.

From the first such step on nothing is updated, and the run ends at the next reading of the check.
Optimizer, teacher and centers read `found_inf` on the device and are not updated if it is 1, so that no step waits for
the host to read it.
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
"""Image indices in the error message, at most."""


class FiniteCheck:
    """Remembers the first step whose gradients were not finite."""

    found_inf: Tensor
    """() float32 on the device: 1 from the first bad step on, else 0"""

    def __init__(self, device: torch.device) -> None:
        self._first = torch.zeros((), dtype=torch.int64, device=device)
        self.found_inf = torch.zeros((), device=device)

    def guard(self, optimizer: AdamW, norms: dict[str, Tensor], step: int) -> None:
        """Update `found_inf`; the optimizer skips this step and all later ones if it is 1.

        Args:
            optimizer: A fused optimizer, which reads `found_inf` on the device.
            norms: Gradient norms, () float32, equal in all processes.
            step: Number of this step, from 1.
        """
        # The norms contain every gradient, and are equal in all processes, so the processes need no exchange.
        bad = ~torch.isfinite(torch.stack(list(norms.values()))).all()
        self._first = torch.where((self._first == 0) & bad, step, self._first)
        self.found_inf = (self._first > 0).float()
        optimizer.found_inf = self.found_inf  # type: ignore[attr-defined]

    def read(self) -> int | None:
        """Return the first bad step, or None if there is none; waits for the device."""
        return int(self._first) or None


def abort_nonfinite(
    step: int, dataset: StepDataset, checkpoints: Checkpoints, state: State, folder: RunFolder, ranks: Ranks
) -> NoReturn:
    """Save the weights from before the bad step and the indices of its images, and raise FrancaError.

    Args:
        step: The bad step, from 1.
        dataset: The dataset, which gives the indices of the step's images.
        checkpoints: The checkpoint folder for the weights. No other save may be running: two threads cannot share a
            process group.
        state: The tensors of a checkpoint.
        folder: The run's folder, in which `nonfinite.json` is written.
        ranks: The processes, all of which call this.
    """
    # The weights are those before the bad step, although later steps were taken: they were skipped.
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
