"""The `franca init` command: write a complete params.yaml for a folder of images, this machine and a time limit."""

import math
from pathlib import Path
from typing import Any

import torch

from franca import presets
from franca.data.ingest.sources import Source
from franca.errors import FrancaError
from franca.params import Params, parse_params
from franca.plan.estimate import make_plan
from franca.plan.folder_facts import FolderFacts, look_at
from franca.plan.hardware import card_at_hand
from franca.plan.report import refuse_too_large
from franca.plan.timing import images_per_second

MIN_STEPS = 100
"""A shorter run hardly leaves the warm-up."""
MIN_GRID = 4
"""Fewest patches along a side of a global crop."""


def run(folder: str, kind: str, masks: str | None, minutes: float, path: Path) -> None:
    """Look at a folder, time a few training steps and write `path`.

    Args:
        folder: Folder or URL of images: the new `prepare.source`.
        kind: A key of `presets.KINDS`.
        masks: The new `prepare.dense_source`.
        minutes: Time for pretraining on this machine, in minutes.
        path: The params.yaml to write; an existing file is replaced.

    Raises:
        FrancaError: The folder holds no readable images or too few of them, the time is too short, or the preset
            does not fit into the memory of the GPU.
    """
    if not 0 < minutes < float("inf"):
        raise FrancaError(f"--minutes {minutes:g}: not a length of time; give a number above 0")
    facts = look_at(Source(folder, "FOLDER"))
    preset = f"{kind}-{'1gpu' if torch.cuda.is_available() else 'cpu'}"
    params = adapt(presets.values(preset), folder, masks, facts)
    if card := card_at_hand():
        bf16 = params.pretrain.precision != "fp32"
        refuse_too_large(params, make_plan(params, 1, 1, card, bf16, training_images(params, facts)))
    rate = images_per_second(params, facts.samples, facts.decode_seconds)
    params = set_length(params, facts, rate, minutes)
    found = f"about {facts.image_count:,} images, short side {facts.short_side} px"
    length = f"{params.pretrain.epochs:g} epochs take about {minutes:g} minutes at {rate:.0f} images/s"
    presets.write(params, path, f"{folder}: {found}.\n{length}. (franca init, preset {preset})")
    print(f"{folder}: {found}; {length}")
    print(f"{path}: written from preset {preset}; check it, then run `dvc repro`")


def adapt(values: dict[str, Any], folder: str, masks: str | None, facts: FolderFacts) -> Params:
    """Return a preset's values with sources, channel statistics and image size of a folder.

    Raises:
        FrancaError: The folder holds fewer images than a batch.
    """
    values["prepare"] |= {"source": folder, "dense_source": masks}
    values["base"] |= {"mean": facts.mean, "std": facts.std}
    values["pretrain"] |= {"epoch_length": None}  # an epoch of the paper's length says nothing about this folder
    if masks is None:
        values["pretrain"] |= {"dense_share": 0.0}
    patch, size = values["base"]["backbone"]["patch_size"], values["base"]["image_size"]
    smaller = max(facts.short_side // patch, MIN_GRID) * patch
    if smaller < size:
        crops = values["pretrain"]["crops"]
        values["base"]["image_size"] = smaller
        crops["local_size"] = max(round(crops["local_size"] * smaller / size / patch), 1) * patch
    params = parse_params(values, folder)
    if training_images(params, facts) < params.pretrain.batch_size:
        raise FrancaError(
            f"{folder}: about {training_images(params, facts):,} training images after val and test are held out,"
            f" fewer than a batch of {params.pretrain.batch_size}; add images"
        )
    return params


def set_length(params: Params, facts: FolderFacts, rate: float, minutes: float) -> Params:
    """Return the parameters with the epochs that fit into `minutes` at `rate` images a second.

    Warm-ups and the interval of the online k-NN keep their share of the run.

    Raises:
        FrancaError: The time is too short.
    """
    batch = params.pretrain.batch_size
    images = rate * minutes * 60
    if images < MIN_STEPS * batch:
        raise FrancaError(
            f"--minutes {minutes:g}: time for {images / batch:.0f} steps only; give at least"
            f" {math.ceil(11 * MIN_STEPS * batch / rate / 60) / 10:g}"
        )
    values = params.model_dump(by_alias=True)
    pretrain = values["pretrain"]
    epochs = float(f"{images / (training_images(params, facts) // batch * batch):.3g}")
    share = epochs / pretrain["epochs"]
    for section, key in (
        (pretrain["optimizer"], "warmup_epochs"),
        (pretrain["optimizer"], "freeze_last_layer_epochs"),
        (pretrain["losses"], "teacher_warmup_epochs"),
        (pretrain, "knn_epochs"),
        (pretrain, "epochs"),
    ):
        section[key] = float(f"{section[key] * share:.3g}")
    return parse_params(values, "franca init")


def training_images(params: Params, facts: FolderFacts) -> int:
    """Return about how many images are left to train on after val and test are drawn."""
    drawn = {"val": params.prepare.val_fraction, "test": params.prepare.test_fraction}
    held_out = sum(share for split, share in drawn.items() if split not in facts.splits)
    return round(facts.image_count * facts.train_share * (1 - held_out))
