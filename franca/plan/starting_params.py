"""The `franca init` command: write a complete params.yaml for a folder of images and a time limit."""

from pathlib import Path
from typing import Any

import torch

from franca import presets
from franca.data.sources import Source
from franca.errors import FrancaError
from franca.params import Params, parse_params
from franca.plan.folder_facts import FolderFacts, look_at
from franca.plan.timing import images_per_second

KINDS = {
    "photos": "photographs with an up: mirrored, not turned; strong color jitter",
    "overhead": "aerial, satellite or microscopy images without an up: turned and mirrored; weak color jitter",
}
MIN_STEPS = 200
"""Fewer steps than this do not leave the warm-up of the learning rate and the teacher."""


def run(folder: str, kind: str, minutes: float, path: Path) -> None:
    """Look at a folder, time a few training steps and write `path`.

    Args:
        folder: Folder or URL of images, as `prepare.source`.
        kind: A key of `KINDS`.
        minutes: Time for pretraining on this machine, in minutes.
        path: The params.yaml to write; an existing file is replaced.

    Raises:
        FrancaError: The folder holds no readable images or too few of them, or the time is too short.
    """
    if not 0 < minutes < float("inf"):
        raise FrancaError(f"--minutes {minutes:g}: not a time; give a number above 0")
    facts = look_at(Source(folder, "FOLDER"))
    hardware = "1gpu" if torch.cuda.is_available() else "cpu"
    preset = f"{kind}-{hardware}"
    params = adapt(presets.values(preset), folder, facts)
    rate = images_per_second(params, facts.samples, facts.decode_seconds)
    params = set_length(params, facts, rate * minutes * 60)
    pretrain = params.pretrain
    about = (
        f"{folder}: about {facts.image_count:,} images, short side {facts.short_side} px; {rate:.0f} images/s on this"
        f" machine; {pretrain.epochs:g} epochs take about {minutes:g} minutes"
    )
    presets.write(params, path, f"{about} (franca init, preset {preset})")
    print(f"{about}\n{path}: written from preset {preset}; read it, then run `dvc repro`")


def adapt(values: dict[str, Any], folder: str, facts: FolderFacts) -> Params:
    """Return a preset's values with the source and channel statistics of a folder."""
    values["prepare"] |= {"source": folder, "dense_source": None}
    values["base"] |= {"mean": facts.mean, "std": facts.std}
    values["pretrain"] |= {"dense_share": 0.0}
    params = parse_params(values, folder)
    train = training_images(params, facts)
    if train < params.pretrain.batch_size:
        raise FrancaError(
            f"{folder}: about {train} training images; pretraining needs at least {params.pretrain.batch_size}"
        )
    return params


def set_length(params: Params, facts: FolderFacts, images: float) -> Params:
    """Return the parameters with epochs for `images` training images in all, and schedules that fit."""
    batch = params.pretrain.batch_size
    if images < MIN_STEPS * batch:
        raise FrancaError(
            f"--minutes: time for {images / batch:.0f} steps; give at least"
            f" {MIN_STEPS * batch / images:.1f} times as much"
        )
    train = training_images(params, facts) // batch * batch
    epochs = float(f"{images / train:.3g}")
    values = params.model_dump(by_alias=True)
    pretrain = values["pretrain"]
    scale = epochs / pretrain["epochs"]
    pretrain["epochs"] = epochs
    pretrain["knn_epochs"] = float(f"{epochs / 10:.2g}")
    pretrain["optimizer"]["warmup_epochs"] = float(f"{pretrain['optimizer']['warmup_epochs'] * scale:.2g}")
    pretrain["optimizer"]["freeze_last_layer_epochs"] = float(
        f"{pretrain['optimizer']['freeze_last_layer_epochs'] * scale:.2g}"
    )
    pretrain["losses"]["teacher_warmup_epochs"] = float(f"{pretrain['losses']['teacher_warmup_epochs'] * scale:.2g}")
    return parse_params(values, "franca init")


def training_images(params: Params, facts: FolderFacts) -> int:
    """Return about how many images are left to train on after the split."""
    held_out = 0.0 if facts.has_splits else params.prepare.val_fraction + params.prepare.test_fraction
    return round(facts.image_count * (1 - held_out))
