"""Weighted k-NN of pooled features against the training images, whole and cut to each Matryoshka level."""

from collections.abc import Callable, Iterator
from functools import partial
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from franca.data.store.prepared import SplitName
from franca.evaluation.features import Backbone, Dataset, LeftOut
from franca.evaluation.intervals import Measurement, Resampling, measure
from franca.evaluation.outcomes import Outcome
from franca.params import Params
from franca.probes.knn import knn_predict

CONTROLS = ("knn_random_dims", "knn_components")
"""Benchmarks of as many dimensions as a level has: drawn at random, and the first principal components of train."""
OVERSAMPLING = 16
"""Components computed beyond those used, for the accuracy of a randomized decomposition."""


def run(backbone: Backbone, data: Dataset, params: Params) -> Iterator[Measurement | LeftOut]:
    """top1 of benchmark `knn`, and top1_D of `knn_levels` on the first D features for each level D."""
    whole = data.labeled("train")[0].shape[1]
    for split in data.labeled_splits():
        if isinstance(split, LeftOut):
            yield split
            continue
        for width in backbone.levels or (whole,):
            predicted, labels = predict(data, split, params, width)
            if backbone.levels:
                yield accuracy("knn_levels", split, f"top1_{width}", predicted == labels, data, params)
            if width == whole:
                yield accuracy("knn", split, "top1", predicted == labels, data, params)


def controls(data: Dataset, widths: tuple[int, ...], params: Params) -> Iterator[Measurement]:
    """top1_D of `CONTROLS` for each width D: what a Matryoshka level of that width has to beat."""
    train = data.labeled("train")[0].float()
    parts = parts_of(train, widths, params.base.seed)
    for split in data.labeled_splits():
        if isinstance(split, LeftOut):
            continue
        features, labels = data.labeled(split)
        for part in parts:
            predicted = _classify(part.take(train), part.take(features), data, params)
            yield accuracy(f"knn_{part.kind}", split, f"top1_{part.width}", predicted == labels, data, params)


class Part(NamedTuple):
    """As many dimensions as a level has, but others: `take` maps features (N, D) to them (N, width)."""

    kind: Literal["random_dims", "components"]
    width: int
    take: Callable[[Tensor], Tensor]


def parts_of(train: Tensor, widths: tuple[int, ...], seed: int) -> list[Part]:
    """Return random dimensions and the first principal components of `train` (N, D), for each width up to D."""
    widths = tuple(width for width in widths if width <= train.shape[1])
    if not widths:
        return []
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        order = torch.randperm(train.shape[1]).to(train.device)
        mean = train.mean(dim=0)
        rank = min(max(widths) + OVERSAMPLING, *train.shape)
        axes = torch.svd_lowrank((train - mean).cpu(), q=rank, niter=4)[2].to(train.device)

    def drawn(features: Tensor, width: int) -> Tensor:
        return features[:, order[:width]]

    def components(features: Tensor, width: int) -> Tensor:
        return (features.float() - mean) @ axes[:, :width]

    return [
        part
        for width in widths
        for part in (
            Part("random_dims", width, partial(drawn, width=width)),
            Part("components", width, partial(components, width=width)),
        )
    ]


def predict(data: Dataset, split: SplitName, params: Params, width: int | None = None) -> tuple[Tensor, Tensor]:
    """Predicted and true classes (N,) of a split's labeled images, from their first `width` features."""
    queries, truth = data.labeled(split)
    return _classify(data.labeled("train")[0][:, :width], queries[:, :width], data, params), truth


def accuracy(
    benchmark: str, split: SplitName, metric: str, correct: Tensor, data: Dataset, params: Params
) -> Measurement:
    """Share of the split's labeled images that are right, `correct` (n,)."""
    outcome = Outcome("hits", correct.cpu().numpy(), data.images(split), len(correct))
    return measure(benchmark, split, metric, outcome, Resampling.of(params))


def _classify(train: Tensor, queries: Tensor, data: Dataset, params: Params) -> Tensor:
    labels = data.labeled("train")[1]
    k, temperature = params.evaluate.knn_k, params.evaluate.knn_temperature
    return knn_predict(train, labels, queries, len(data.classes), k, temperature).argmax(1)
