"""How well a linear map reads a patch's place in the image from its feature: what RASA takes out."""

from collections.abc import Iterator

import torch
from torch import Tensor

from franca.evaluation.features import Backbone, Dataset, Skipped, evenly_spaced
from franca.evaluation.intervals import Measurement, Resampling, measure
from franca.evaluation.outcomes import Outcome
from franca.params import Params
from franca.probes.regression import fit_ridge


def run(backbone: Backbone, data: Dataset, params: Params) -> Iterator[Measurement]:
    """r2 of benchmark `position`: explained variance of row and column, their mean; below 0 counts as 0."""
    train = data.parts["train"].patches
    if not len(train):
        raise Skipped("no train images")
    if min(train.shape[1:3]) < 2:
        raise Skipped("an image has a single row or column of patches")
    probe = fit_ridge(train.flatten(0, 2), places(train).flatten(0, 2))
    for split in data.splits():
        patches = data.parts[split].patches
        sums = squares(probe(patches), places(patches)).double().cpu().numpy()
        rows = evenly_spaced(len(data.parts[split].labels), len(patches))
        outcome = Outcome("sums", sums, data.images(split, rows), len(sums))
        yield measure("position", split, "r2", outcome, Resampling.of(params))


def places(patches: Tensor) -> Tensor:
    """(P, h, w, 2): row and column of each patch's middle, in [0, 1]."""
    count, height, width, _ = patches.shape
    rows, columns = ((torch.arange(side, device=patches.device) + 0.5) / side for side in (height, width))
    return torch.stack(torch.meshgrid(rows, columns, indexing="ij"), dim=2).expand(count, -1, -1, -1)


def squares(predicted: Tensor, truth: Tensor) -> Tensor:
    """(P, 2, 2): squared error and squared distance from the middle, each for row and column, summed over an image."""
    return torch.stack([((other - truth) ** 2).sum((1, 2)) for other in (predicted, torch.full_like(truth, 0.5))], 1)
