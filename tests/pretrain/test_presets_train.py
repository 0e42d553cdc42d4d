"""Every preset trains in two processes, with reduced sizes and otherwise unchanged."""

from pathlib import Path
from typing import Any

import pytest

from franca import presets
from tests.conftest import set_value
from tests.pretrain.conftest import Project

SIZES: dict[str, Any] = {
    "base.backbone.embed_dim": 32,
    "base.backbone.depth": 2,
    "base.backbone.num_heads": 2,
    "pretrain.batch_size": 8,
    "pretrain.crops.local_count": 2,
    "pretrain.heads.prototypes": 64,
    "pretrain.heads.hidden_dim": 32,
    "pretrain.heads.bottleneck_dim": 16,
    "pretrain.losses.koleo_images": 4,
    "pretrain.epochs": 1,
    "pretrain.epoch_length": 2,
    "pretrain.losses.teacher_warmup_epochs": 1,
    "pretrain.optimizer.warmup_epochs": 0.5,
    "pretrain.optimizer.freeze_last_layer_epochs": 0.5,
    "pretrain.init": None,
    "runtime.microbatch": 4,
    "runtime.compile": False,
    "runtime.threads": 1,
    "runtime.workers": 0,
    "runtime.log_steps": 1,
}


@pytest.mark.slow
@pytest.mark.parametrize("name", presets.names())
def test_two_processes_train_every_preset(name: str, tmp_path: Path, prepared: Path) -> None:
    values = presets.values(name)
    patch = values["base"]["backbone"]["patch_size"]
    sides = {
        "base.image_size": 4 * patch,
        "pretrain.crops.local_size": 2 * patch,
        "evaluate.dense_size": 8 * patch,
    }
    for path, value in (SIZES | sides).items():
        set_value(values, path, value)
    project = Project(tmp_path, prepared, values)
    try:
        for run in project.together(2):
            assert run.end() == 0, run.err
    finally:
        project.close()
    assert project.steps() == [1, 2]
    assert all(weight.isfinite().all() for weight in project.weights().values())
