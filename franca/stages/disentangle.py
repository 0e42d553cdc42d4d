"""The disentangle stage: `models/pretrained` in, `models/franca` without position in its patch features out."""

import torch
from torch import Tensor

from franca.data.store.prepared import ImageSet, Store
from franca.data.store.transform import load_images
from franca.errors import FrancaError
from franca.files import write_json
from franca.models import FrancaModel, load_model, save_model
from franca.params import Params
from franca.paths import MODEL, PREPARED, PRETRAINED, RESULTS
from franca.rasa import grid_places, learn_planes, patch_tokens, pixels, predictability
from franca.runtime import choose_device, configure_torch

VAL_IMAGES = 1000


def run(params: Params) -> None:
    """Run the disentangle stage: `models/pretrained` in, `models/franca` and `results/disentangle/metrics.json` out.

    Planes that the model already has stay, and the new ones are learned on what they leave. A truncated model stays
    truncated: its planes are of all dimensions, since a model cuts its features off after taking the planes out.
    """
    configure_torch(params.runtime)
    store, model = Store(PREPARED), load_model(PRETRAINED)
    _check_rounds(model, params.disentangle.rounds)
    model = model.to(choose_device(params.runtime))
    train_images = _spread(store.images("train"), model.image_size, params.disentangle.images)
    val_images = _spread(store.images("val"), model.image_size, VAL_IMAGES)
    train_x, val_x = patch_tokens(model, train_images), patch_tokens(model, val_images)
    side = model.image_size // model.patch_size
    places = grid_places(side, side)

    model = model.cpu()
    before, old = model.patch_projection, model.position_planes
    new = learn_planes(train_x @ before.T, places, params.disentangle, params.base.seed, old)
    model.remove_position(torch.cat([old, new]))
    save_model(model, MODEL)

    def readable(removal: Tensor) -> float:
        """R^2 of place read from the patch features of a model with this projection."""
        train, val = ((x @ removal.T)[..., : model.embed_dim] for x in (train_x, val_x))
        return predictability(train, val, places)

    r2 = {
        "before": readable(before),
        "after": readable(model.patch_projection),
        "raw_pixels": predictability(pixels(train_images, model), pixels(val_images, model), places),
    }
    removed = int(torch.linalg.matrix_rank(torch.eye(model.width) - model.patch_projection, atol=1e-3))
    rounded = {name: round(value, 2) for name, value in r2.items()}
    write_json(RESULTS / "disentangle/metrics.json", {"position_r2": rounded, "removed_dimensions": removed})
    if len(old):
        print(f"planes: {len(old)} of the pretrained model kept, {len(new)} added")
    print(f"position read from patches (R^2, %): {', '.join(f'{name} {value}' for name, value in rounded.items())}")


def _check_rounds(model: FrancaModel, rounds: int) -> None:
    """Raise FrancaError if the planes would leave nothing of the features."""
    has = len(model.position_planes)
    room = max((model.width - 1) // 2 - has, 0)
    if rounds > room:
        raise FrancaError(
            f"disentangle.rounds: {rounds} rounds take 2 dimensions each, but {PRETRAINED} has {model.width} and {has}"
            f" planes taken out of them already; set it to {room} at most"
        )


def _spread(images: ImageSet, size: int, count: int) -> Tensor:
    """At most `count` images (N, 3, size, size), evenly spaced over the set, so that classes in order are all met."""
    return load_images(images, size, torch.linspace(0, len(images) - 1, min(count, len(images))).long().tolist())
