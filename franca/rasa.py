"""RASA: positional disentanglement of patch features (Franca, arXiv 2507.14137, section on RASA).

Each round learns a bias-free linear map D -> 2 that reads a patch's place from its feature, then projects the plane
of its two rows out. The model keeps the planes and applies all rounds as one linear map.
"""

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.optim import AdamW
from torch.optim.lr_scheduler import CosineAnnealingLR
from torchmetrics.functional import r2_score
from tqdm import tqdm

from franca.data.store import ImageSet, Store
from franca.data.transform import load_images
from franca.errors import FrancaError
from franca.evaluation.probes import fit_ridge
from franca.files import write_json
from franca.models import FrancaModel, load_model, save_model
from franca.models.planes import decompose, kept_space, plane
from franca.params import Disentangle, Params
from franca.paths import MODEL, PREPARED, PRETRAINED, RESULTS
from franca.runtime import choose_device, configure_torch

VAL_IMAGES = 1000
BATCH = 256


def grid_places(height: int, width: int) -> Tensor:
    """Targets (height width, 2): row and column of each patch, row-major, from 0 for the first to 1 for the last."""
    rows, columns = torch.linspace(0, 1, height), torch.linspace(0, 1, width)
    return torch.stack(torch.meshgrid(rows, columns, indexing="ij"), dim=-1).flatten(0, 1)


def position_loss(x: Tensor, weight: Tensor, places: Tensor) -> Tensor:
    """Mean squared error of sigmoid(x W^T) against `places` (patches, 2); x (B, patches, D), W (2, D)."""
    return F.mse_loss(torch.sigmoid(x @ weight.T), places.expand(len(x), -1, -1))


def learn_plane(x: Tensor, places: Tensor, params: Disentangle, generator: torch.Generator) -> Tensor:
    """Train one round's map (2, D) on frozen features x (N, patches, D): AdamW without decay, cosine to 0."""
    bound = x.shape[-1] ** -0.5
    weight = torch.empty(2, x.shape[-1]).uniform_(-bound, bound, generator=generator).requires_grad_()
    optimizer = AdamW([weight], lr=params.learning_rate, weight_decay=0)
    batches = [
        rows
        for _ in range(params.epochs)
        for rows in torch.randperm(len(x), generator=generator).split(params.batch_size)
    ]
    schedule = CosineAnnealingLR(optimizer, T_max=len(batches))
    for rows in batches:
        optimizer.zero_grad()
        position_loss(x[rows], weight, places).backward()
        optimizer.step()
        schedule.step()
    return weight.detach()


def learn_planes(x: Tensor, places: Tensor, params: Disentangle, seed: int, removed: Tensor | None = None) -> Tensor:
    """Learn the planes of all rounds, one after another.

    Args:
        x: (N, patches, D) float32, features without the planes in `removed`.
        places: (patches, 2) float32, targets.
        params: rounds and how each is trained.
        seed: of weights and batches.
        removed: (rounds, 2, D) float32, planes that are taken out of the features already; None for none.

    Returns:
        (rounds, 2, D) float32, rows orthonormal over all rounds and orthogonal to what `removed` has taken out.
    """
    generator = torch.Generator().manual_seed(seed)
    planes = torch.zeros(0, 2, x.shape[-1])
    kept = kept_space(planes if removed is None else removed, x.shape[-1])
    for _ in tqdm(range(params.rounds), desc="RASA", unit="round", disable=None):
        # A weight's part in the planes removed before reads nothing, but projecting it out would put them back.
        axes = plane(learn_plane(x, places, params, generator) @ kept)
        x, kept = decompose(x, axes)[1], decompose(kept, axes)[1]
        planes = torch.cat([planes, axes[None]])
    return planes


def predictability(train: Tensor, val: Tensor, places: Tensor) -> float:
    """R^2 in percent, at least 0, of a ridge probe for place; both feature sets (N, patches, D)."""
    probe = fit_ridge(train.flatten(0, 1), places.repeat(len(train), 1))
    score = r2_score(probe(val.flatten(0, 1)), places.repeat(len(val), 1))
    return 100 * max(float(score), 0.0)


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


def pixels(images: Tensor, model: FrancaModel) -> Tensor:
    """Raw pixels of each patch (N, patches, 3 p p), the feature that has seen nothing beyond its patch."""
    return F.unfold(images.float(), model.patch_size, stride=model.patch_size).transpose(1, 2)


def _spread(images: ImageSet, size: int, count: int) -> Tensor:
    """At most `count` images (N, 3, size, size), evenly spaced over the set, so that classes in order are all met."""
    return load_images(images, size, torch.linspace(0, len(images) - 1, min(count, len(images))).long().tolist())


@torch.no_grad()
def patch_tokens(model: FrancaModel, images: Tensor) -> Tensor:
    """Compute patch features before planes are taken out and dimensions cut off.

    Args:
        model: on any device.
        images: (N, 3, H, W) uint8.

    Returns:
        (N, patches, D) float32 on the CPU, D the backbone's width.
    """
    device, first = model.patch_projection.device, model.backbone.num_prefix_tokens
    return torch.cat([model.forward_features(part.to(device))[:, first:].cpu() for part in images.split(BATCH)])
