"""What a run leaves that ends because its gradients are not finite."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.distributed.checkpoint.format_utils import dcp_to_torch_save

from franca.errors import FrancaError
from franca.pretrain import loop
from tests.pretrain.conftest import MakeProject, Project

BAD = 4
NETS = 3
"""Gradients are clipped for the backbone and each head apart."""


def read(folder: Path, scratch: Path) -> dict[str, dict[str, Any]]:
    dcp_to_torch_save(folder, scratch)
    return torch.load(scratch, weights_only=True)


@pytest.mark.parametrize("assignment", ["sinkhorn", "centering"])
def test_nothing_moves_from_the_first_bad_step_on(
    make_project: MakeProject,
    pretrain: Callable[[Project], None],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    assignment: str,
) -> None:
    # Nothing reads the device before the checkpoint that is two good steps after the bad one.
    monkeypatch.setattr(loop, "curve_steps", lambda total: total)
    changes = {
        "pretrain.knn_epochs": 100,
        "runtime.log_steps": 100,
        "runtime.checkpoint_steps": BAD - 1,
        "pretrain.epochs": 3,
    }
    project = make_project({"pretrain.losses.assignment": assignment, **changes})
    clip, calls = nn.utils.clip_grad_norm_, 0

    def poison(parameters: Any, *arguments: Any, **more: Any) -> Tensor:
        nonlocal calls
        calls += 1
        parameters = list(parameters)
        if calls == NETS * BAD:
            parameters[0].grad.fill_(torch.nan)
        return clip(parameters, *arguments, **more)

    monkeypatch.setattr(nn.utils, "clip_grad_norm_", poison)
    with pytest.raises(FrancaError, match=f"the loss is not finite at step {BAD} "):
        pretrain(project)
    assert calls == NETS * (2 * BAD - 2)
    name = f"step-{BAD - 1:08d}"
    before, left = (
        read(project.run_folder / folder / name, tmp_path / folder) for folder in ("checkpoints", "nonfinite")
    )
    assert ("centers" in before) == (assignment == "centering")
    assert before.keys() == left.keys()
    torch.testing.assert_close(left, before, rtol=0, atol=0)
