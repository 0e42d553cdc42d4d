"""What many tests start from: parameters of a tiny model."""

from collections.abc import Callable
from typing import Any

import pytest

from franca import presets
from franca.params import Params, parse_params

MakeValues = Callable[..., dict[str, Any]]
MakeParams = Callable[..., Params]

TINY = {
    "base.image_size": 32,
    "base.backbone": {
        "patch_size": 8,
        "embed_dim": 32,
        "depth": 2,
        "num_heads": 2,
        "ffn": "mlp",
        "registers": 0,
        "layer_scale": 1.0,
    },
    "pretrain.batch_size": 8,
    "pretrain.epochs": 2,
    "pretrain.precision": "fp32",
    "pretrain.crops.local_size": 16,
    "pretrain.heads.prototypes": 64,
    "pretrain.heads.hidden_dim": 32,
    "pretrain.heads.bottleneck_dim": 16,
    "pretrain.optimizer.warmup_epochs": 0.5,
    "pretrain.optimizer.freeze_last_layer_epochs": 0,
    "pretrain.losses.teacher_warmup_epochs": 1,
    "evaluate.dense_size": 64,
    "runtime.device": "cpu",
    "runtime.threads": 1,
    "runtime.workers": 0,
    "runtime.log_steps": 1,
    "runtime.checkpoint_steps": 2,
    "runtime.keep_checkpoints": 2,
}


def _set(tree: dict[str, Any], path: str, value: Any) -> None:
    *parents, leaf = path.split(".")
    for key in parents:
        tree = tree[key]
    tree[leaf] = value


def _tiny_values(changes: dict[str, Any] | None = None) -> dict[str, Any]:
    tree = presets.values("cpu-demo")
    for path, value in {**TINY, **(changes or {})}.items():
        _set(tree, path, value)
    return tree


@pytest.fixture(scope="session")
def tiny_values() -> MakeValues:
    """The tree of params.yaml for a tiny model, with changes by dotted path."""
    return _tiny_values


@pytest.fixture(scope="session")
def tiny_params() -> MakeParams:
    return lambda changes=None: parse_params(_tiny_values(changes), "tiny")
