"""How well a linear map reads a patch's place in the image from its feature: what RASA takes out."""

from collections.abc import Iterator

import torch
from torch import Tensor

from franca.evaluation.features import Backbone, Dataset, Skipped
from franca.evaluation.intervals import Score, resampled_score
from franca.evaluation.probes import fit_ridge
from franca.params import Params


def run(backbone: Backbone, data: Dataset, params: Params) -> Iterator[Score]:
    """r2 of benchmark `position`: explained variance of row and column, their mean; below 0 counts as 0."""
    train = data.parts["train"].patches
    if not len(train):
        raise Skipped("no train images")
    if min(train.shape[1:3]) < 2:
        raise Skipped("an image has a single row or column of patches")
    probe = fit_ridge(train.flatten(0, 2), places(train).flatten(0, 2))
    for split in data.splits(labeled=False):
        patches = data.parts[split].patches
        yield resampled_score("position", split, "r2", squares(probe(patches), places(patches)), r2, params)


def places(patches: Tensor) -> Tensor:
    """(P, h, w, 2): row and column of each patch's middle, in [0, 1]."""
    count, height, width, _ = patches.shape
    rows, columns = ((torch.arange(side, device=patches.device) + 0.5) / side for side in (height, width))
    return torch.stack(torch.meshgrid(rows, columns, indexing="ij"), dim=2).expand(count, -1, -1, -1)


def squares(predicted: Tensor, truth: Tensor) -> Tensor:
    """(P, 4): for row and column of an image, squared error and squared distance from the middle, summed."""
    return torch.cat([((other - truth) ** 2).sum((1, 2)) for other in (predicted, torch.full_like(truth, 0.5))], dim=1)


def r2(sums: Tensor) -> Tensor:
    error, spread = sums.unflatten(-1, (2, 2)).unbind(-2)
    return 100 * (1 - error / spread).mean(-1).clamp_min(0)
