"""The disentangle stage: remove position from patch features by RASA; `models/pretrained` becomes `models/franca`."""

import torch
from torch import Tensor

from franca.data.store.prepared import ImageSet, Store
from franca.data.store.transform import load_images
from franca.errors import FrancaError
from franca.files import write_json
from franca.models import FrancaModel, load_model, save_model
from franca.params import Params
from franca.paths import MODEL, PREPARED, PRETRAINED, RESULTS
from franca.probes.pixels import patch_pixels
from franca.probes.position import score_position
from franca.rasa import grid_positions, learn_planes, patch_tokens
from franca.runtime import choose_device, configure_torch

VAL_IMAGES = 1000


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
    train_images = _load_evenly_spaced(store.images("train"), model.image_size, params.disentangle.images)
    val_images = _load_evenly_spaced(store.images("val"), model.image_size, VAL_IMAGES)
    train_x, val_x = patch_tokens(model, train_images), patch_tokens(model, val_images)
    side = model.image_size // model.patch_size

    model = model.cpu()
    before, old = model.patch_projection, model.position_planes
    new = learn_planes(train_x @ before.T, grid_positions(side, side), params.disentangle, params.base.seed, old)
    model.remove_position(torch.cat([old, new]))
    save_model(model, MODEL)

    def features_r2(projection: Tensor) -> float:
        """R² of position predicted from the patch features of the model with this projection."""
        train, val = ((x @ projection.T)[..., : model.embed_dim].unflatten(1, (side, side)) for x in (train_x, val_x))
        return score_position(train, val)

    train_pixels, val_pixels = (
        patch_pixels(images.float(), model.patch_size).flatten(3) for images in (train_images, val_images)
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


def _load_evenly_spaced(images: ImageSet, size: int, count: int) -> Tensor:
    """Return at most `count` images (n, 3, size, size) uint8, evenly spaced: images are often sorted by class.

    The rows are rounded down, in float32. `evenly_spaced` of evaluation rounds to the nearest: it would choose other
    images and change the planes of every model.
    """
    return load_images(images, size, torch.linspace(0, len(images) - 1, min(count, len(images))).long().tolist())
