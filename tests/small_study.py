"""A study of two cells that train a tiny model in seconds, and images for it."""

from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from ruamel.yaml import YAML

ROOT = Path(__file__).parents[1]

# A model that trains in seconds on a few images of noise.
TINY: dict[str, Any] = {
    "prepare.source": "data/images",
    "prepare.dense_source": None,
    "prepare.duplicate_bits": 0,
    "prepare.val_fraction": 0.2,
    "prepare.test_fraction": 0.2,
    "base.image_size": 16,
    "base.backbone.embed_dim": 32,
    "base.backbone.num_heads": 2,
    "base.backbone.depth": 1,
    "pretrain.batch_size": 8,
    "pretrain.epochs": 1,
    "pretrain.dense_share": 0.0,
    "pretrain.knn_epochs": 1,
    "pretrain.crops.local_size": 8,
    "pretrain.heads.prototypes": 32,
    "pretrain.heads.hidden_dim": 16,
    "pretrain.heads.bottleneck_dim": 8,
    "pretrain.losses.koleo_images": 8,
    "disentangle.rounds": 0,
    "evaluate.bootstrap_samples": 100,
    "evaluate.dense_size": 16,
    "evaluate.linear_c": [1.0],
    "runtime.device": "cpu",
    "runtime.workers": 0,
}


def write_study(folder: Path, **changes: Any) -> Path:
    """Write studies/rates.yaml: one learning rate, two seeds, and changes of the file's keys."""
    tree = {
        "title": "Which learning rate?",
        "description": "One.",
        "start": "overhead-cpu",
        "seeds": [0, 1],
        "compare": "rate",
        "reference": "low",
        "params": TINY,
        "axes": {"rate": {"low": {"pretrain.optimizer.base_lr": 1e-4}}},
        **changes,
    }
    path = folder / "studies/rates.yaml"
    path.parent.mkdir(exist_ok=True)
    YAML().dump(tree, path)
    return path


def make_images(folder: Path) -> None:
    """Write 20 images of noise for each of three classes, which are reddish, greenish and bluish."""
    rng = np.random.default_rng(0)
    for label, kind in enumerate(("red", "green", "blue")):
        (folder / kind).mkdir(parents=True)
        for number in range(20):
            pixels = rng.integers(0, 128, (16, 16, 3))
            pixels[..., label] += 100
            Image.fromarray(pixels.astype(np.uint8)).save(folder / f"{kind}/{number}.png")
