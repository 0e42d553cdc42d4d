"""The disentangle stage: remove position from patch features by RASA; `models/pretrained` becomes `models/franca`."""

from collections.abc import Iterator

import torch
from torch import Tensor

from franca.data.store.prepared import Store
from franca.data.store.transform import load_images
from franca.errors import FrancaError
from franca.feature_files import mapped_zeros
from franca.files import write_json
from franca.models import FrancaModel, load_model, save_model
from franca.params import Params
from franca.paths import MODEL, PREPARED, PRETRAINED, RESULTS
from franca.probes.pixels import patch_pixels
from franca.probes.position import score_position
from franca.rasa import BATCH, grid_positions, learn_planes, patch_tokens
from franca.runtime import choose_device, configure_torch

VAL_IMAGES = 1000
MAX_PATCHES = 1 << 17
"""Patches that R² of position is measured on, at most: 400 MiB at 768 float32 dimensions."""


def run(params: Params) -> None:
    """Write `models/franca` and `results/disentangle/metrics.json`.

    Planes that the pretrained model already has are kept, and new ones are learned on what they leave. A truncated
    model stays truncated: its planes have all dimensions, since a model removes planes before it truncates.
    """
    configure_torch(params.runtime)
    store, model = Store(PREPARED), load_model(PRETRAINED)
    _check_rounds(model, params.disentangle.rounds)
    if not len(store.images("val")):
        raise FrancaError(f"{PREPARED}: no val images to measure R² of position on; raise prepare.val_fraction")
    model = model.to(choose_device(params.runtime))
    images = {split: store.images(split) for split in ("train", "val")}
    size, side = model.image_size, model.image_size // model.patch_size
    rows = _evenly_spaced(len(images["train"]), params.disentangle.images)
    x = mapped_zeros(len(rows), side * side, model.width)
    for part, chosen in zip(x.split(BATCH), _parts(rows), strict=True):
        part.copy_(patch_tokens(model, load_images(images["train"], size, chosen)))

    # R² is measured on part of the images, in memory.
    limit = max(1, MAX_PATCHES // side**2)
    measured = torch.tensor(_evenly_spaced(len(rows), limit))
    pixels = {
        "train": load_images(images["train"], size, [rows[i] for i in measured]),
        "val": load_images(images["val"], size, _evenly_spaced(len(images["val"]), min(limit, VAL_IMAGES))),
    }
    train_x, val_x = x[measured], patch_tokens(model, pixels["val"])

    model = model.cpu()
    before, old = model.patch_projection, model.position_planes
    for part in x.split(BATCH) if len(old) else ():
        part.copy_(part @ before.T)
    new = learn_planes(x, grid_positions(side, side), params.disentangle, params.base.seed, old)
    model.remove_position(torch.cat([old, new]))
    save_model(model, MODEL)

    def features_r2(projection: Tensor) -> float:
        """R² of position predicted from the patch features of the model with this projection."""
        train, val = ((x @ projection.T)[..., : model.embed_dim].unflatten(1, (side, side)) for x in (train_x, val_x))
        return score_position(train, val)

    train_pixels, val_pixels = (
        patch_pixels(part.float(), model.patch_size).flatten(3) for part in (pixels["train"], pixels["val"])
    )
    r2 = {
        "before": features_r2(before),
        "after": features_r2(model.patch_projection),
        "raw_pixels": score_position(train_pixels, val_pixels),
    }
    removed = int(torch.linalg.matrix_rank(torch.eye(model.width) - model.patch_projection, atol=1e-3))
    rounded = {name: round(value, 2) for name, value in r2.items()}
    write_json(RESULTS / "disentangle/metrics.json", {"position_r2": rounded, "removed_dimensions": removed})
    if len(old):
        print(f"planes: {len(old)} of the pretrained model kept, {len(new)} added")
    print(
        f"position predicted from patch features (R², %): "
        f"{', '.join(f'{name} {value}' for name, value in rounded.items())}"
    )


def _check_rounds(model: FrancaModel, rounds: int) -> None:
    """Raise FrancaError if the planes would leave nothing of the features."""
    planes = len(model.position_planes)
    room = max((model.width - 1) // 2 - planes, 0)
    if rounds > room:
        raise FrancaError(
            f"disentangle.rounds: {rounds} rounds remove 2 dimensions each, but {PRETRAINED} has {model.width} and"
            f" {planes} planes removed already; set it to at most {room}"
        )


def _evenly_spaced(total: int, count: int) -> list[int]:
    """Return at most `count` of the rows 0 to `total` - 1, evenly spaced: images are often sorted by class.

    The rows are rounded down, in float32. `evenly_spaced` of evaluation rounds to the nearest: it would choose other
    images and change the planes of every model.
    """
    return [int(row) for row in torch.linspace(0, total - 1, min(total, count)).long()]


def _parts(rows: list[int]) -> Iterator[list[int]]:
    """Yield rows in parts of `BATCH`."""
    for start in range(0, len(rows), BATCH):
        yield rows[start : start + BATCH]
