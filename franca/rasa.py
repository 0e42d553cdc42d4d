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
from franca.evaluation.probes import fit_ridge
from franca.files import write_json
from franca.models import FrancaModel, load_model, save_model
from franca.models.planes import decompose, projection
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


def learn_planes(x: Tensor, places: Tensor, params: Disentangle, seed: int) -> Tensor:
    """The planes (rounds, 2, D) of all rounds, each orthogonal to those before, learned on x (N, patches, D)."""
    generator = torch.Generator().manual_seed(seed)
    planes = torch.zeros(0, 2, x.shape[-1])
    for _ in tqdm(range(params.rounds), desc="RASA", unit="round", disable=None):
        # A weight's part in the planes removed before reads nothing, but projecting it out would put them back.
        weight = learn_plane(x, places, params, generator) @ projection(planes, x.shape[-1])
        x = decompose(x, weight)[1]
        planes = torch.cat([planes, weight[None]])
    return planes


def predictability(train: Tensor, val: Tensor, places: Tensor) -> float:
    """R^2 in percent, at least 0, of a ridge probe for place; both feature sets (N, patches, D)."""
    probe = fit_ridge(train.flatten(0, 1), places.repeat(len(train), 1))
    score = r2_score(probe(val.flatten(0, 1)), places.repeat(len(val), 1))
    return 100 * max(float(score), 0.0)


def run(params: Params) -> None:
    """The disentangle stage: `models/pretrained` in, `models/franca` and `results/disentangle/metrics.json` out."""
    configure_torch(params.runtime)
    store, model = Store(PREPARED), load_model(PRETRAINED).to(choose_device(params.runtime))
    train = _spread(store.images("train"), model.image_size, params.disentangle.images)
    val = _spread(store.images("val"), model.image_size, VAL_IMAGES)
    train_x, val_x = patch_features(model, train), patch_features(model, val)
    side = model.image_size // model.patch_size
    places = grid_places(side, side)

    model = model.cpu()
    model.remove_position(learn_planes(train_x, places, params.disentangle, params.base.seed))
    save_model(model, MODEL)

    r2 = {
        "before": predictability(train_x, val_x, places),
        "after": predictability(train_x @ model.patch_projection.T, val_x @ model.patch_projection.T, places),
        "raw_pixels": predictability(pixels(train, model), pixels(val, model), places),
    }
    removed = int(torch.linalg.matrix_rank(torch.eye(model.width) - model.patch_projection, atol=1e-3))
    rounded = {name: round(value, 2) for name, value in r2.items()}
    write_json(RESULTS / "disentangle/metrics.json", {"position_r2": rounded, "removed_dimensions": removed})
    print(f"position read from patches (R^2, %): {', '.join(f'{name} {value}' for name, value in rounded.items())}")


def pixels(images: Tensor, model: FrancaModel) -> Tensor:
    """Raw pixels of each patch (N, patches, 3 p p), the feature that has seen nothing beyond its patch."""
    return F.unfold(images.float(), model.patch_size, stride=model.patch_size).transpose(1, 2)


def _spread(images: ImageSet, size: int, count: int) -> Tensor:
    """At most `count` images (N, 3, size, size), evenly spaced over the set, so that classes in order are all met."""
    return load_images(images, size, torch.linspace(0, len(images) - 1, min(count, len(images))).long().tolist())


@torch.no_grad()
def patch_features(model: FrancaModel, images: Tensor) -> Tensor:
    """Patch features (N, patches, D) of uint8 images (N, 3, H, W), computed where the model lies, kept on the CPU."""
    device = model.patch_projection.device
    return torch.cat([model(part.to(device)).patches.flatten(1, 2).cpu() for part in images.split(BATCH)])
