"""Only one level's assignments are in memory at a time."""

import weakref
from typing import Any

import pytest
import torch

from franca.losses.assignments import Assignments
from franca.losses.sinkhorn import sinkhorn
from franca.models.heads import Level
from franca.pretrain import objective
from franca.pretrain.network import Outputs
from tests.conftest import MakeParams


def test_a_level_is_released_before_the_next_is_assigned(
    tiny_params: MakeParams, monkeypatch: pytest.MonkeyPatch
) -> None:
    losses = tiny_params().pretrain.losses
    made: list[weakref.ref[Any]] = []

    def watched(*arguments: Any) -> Assignments:
        assert not any(storage() for storage in made), "assignments of the level before are still there"
        assigned = sinkhorn(*arguments)
        assert assigned.kept is not None
        made.append(weakref.ref(assigned.kept.untyped_storage()))
        return assigned

    monkeypatch.setattr(objective, "sinkhorn", watched)
    levels = [Level(torch.randn(8, 4), torch.randn(count, 4)) for count in (16, 32, 64)]
    (targets,) = objective.Assigner(losses, (16, 32, 64))([Outputs(torch.empty(0), levels, levels)], 0.1)
    for head in (targets.dino, targets.ibot):
        assert list(map(len, head)) == [8, 8, 8]
    assert len(made) == 6
