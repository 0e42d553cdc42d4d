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

from franca.models import FrancaModel
from franca.models.planes import decompose, kept_space, plane
from franca.params import Disentangle
from franca.probes.regression import fit_ridge

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


def pixels(images: Tensor, model: FrancaModel) -> Tensor:
    """Raw pixels of each patch (N, patches, 3 p p), the feature that has seen nothing beyond its patch."""
    return F.unfold(images.float(), model.patch_size, stride=model.patch_size).transpose(1, 2)


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
