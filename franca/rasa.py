"""RASA: removal of position from patch features (Franca, arXiv 2507.14137, section on RASA).

Each round trains a linear map D -> 2 without bias that predicts a patch's position from its feature, then removes the
plane spanned by the two rows of the map from the features. The model keeps the planes of all rounds and applies them
as one linear map (`franca.models.planes`).
"""

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.optim import AdamW
from torch.optim.lr_scheduler import CosineAnnealingLR
from tqdm import tqdm

from franca.models import FrancaModel
from franca.models.planes import decompose, kept_space, plane
from franca.params import Disentangle

BATCH = 256


def grid_positions(height: int, width: int) -> Tensor:
    """Return the training targets (height width, 2) float32: row and column of each patch, row-major.

    They run from 0 for the first to 1 for the last patch of an axis, as in the official code. (R² is measured with the
    centers of patches, `franca.probes.position`: the targets differ by a linear map, which does not change R².)
    """
    rows, columns = torch.linspace(0, 1, height), torch.linspace(0, 1, width)
    return torch.stack(torch.meshgrid(rows, columns, indexing="ij"), dim=-1).flatten(0, 1)


def position_loss(x: Tensor, weight: Tensor, positions: Tensor) -> Tensor:
    """Return the mean squared error of sigmoid(x W^T), a scalar.

    Args:
        x: (B, patches, D) float32, features.
        weight: (2, D) float32, the map W.
        positions: (patches, 2) float32, targets in 0..1.
    """
    return F.mse_loss(torch.sigmoid(x @ weight.T), positions.expand(len(x), -1, -1))


def learn_plane(x: Tensor, positions: Tensor, params: Disentangle, generator: torch.Generator) -> Tensor:
    """Train the map of one round by AdamW without weight decay, with a cosine schedule to 0.

    Args:
        x: (N, patches, D) float32, frozen features.
        positions: (patches, 2) float32, targets.
        params: How to train.
        generator: Random numbers of initial weights and batches.

    Returns:
        (2, D) float32.
    """
    # The initialization of torch.nn.Linear, from our own generator.
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
        position_loss(x[rows], weight, positions).backward()
        optimizer.step()
        schedule.step()
    return weight.detach()


def learn_planes(
    x: Tensor, positions: Tensor, params: Disentangle, seed: int, removed: Tensor | None = None
) -> Tensor:
    """Learn the planes of all rounds, one after the other.

    Args:
        x: (N, patches, D) float32, features from which the planes in `removed` have been removed; the new planes are
            removed from them here, since a copy of each round would double the memory.
        positions: (patches, 2) float32, targets.
        params: Number of rounds, and how to train each.
        seed: Seed of weights and batches.
        removed: (rounds, 2, D) float32, planes of the pretrained model; None if it has none.

    Returns:
        (rounds, 2, D) float32; rows are orthonormal over all rounds and orthogonal to all that `removed` removes.
    """
    generator = torch.Generator().manual_seed(seed)
    planes = torch.zeros(0, 2, x.shape[-1])
    kept = kept_space(planes if removed is None else removed, x.shape[-1])
    for _ in tqdm(range(params.rounds), desc="RASA", unit="round", disable=None):
        # The part of a weight within earlier planes predicts nothing, since the features have no such part any more.
        # It must not become part of the new plane: removing that would put some of the earlier planes back.
        axes = plane(learn_plane(x, positions, params, generator) @ kept)
        for part in x.split(BATCH):
            part.copy_(decompose(part, axes)[1])
        kept = decompose(kept, axes)[1]
        planes = torch.cat([planes, axes[None]])
    return planes


@torch.no_grad()
def patch_tokens(model: FrancaModel, images: Tensor) -> Tensor:
    """Compute patch features before planes are removed and dimensions truncated.

    Args:
        model: A model on any device.
        images: (N, 3, H, W) uint8.

    Returns:
        (N, patches, D) float32 on the CPU, D the backbone's width.
    """
    device, first = model.patch_projection.device, model.backbone.num_prefix_tokens
    return torch.cat([model.forward_features(part.to(device))[:, first:].cpu() for part in images.split(BATCH)])
