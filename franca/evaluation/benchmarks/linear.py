"""Logistic regression on frozen pooled features; its regularization is chosen on val."""

from collections.abc import Callable, Iterator

from torch import Tensor
from torch.nn.functional import one_hot

from franca.evaluation.benchmarks.knn import accuracy, parts_of
from franca.evaluation.features import Backbone, Dataset, LeftOut
from franca.evaluation.intervals import Measurement
from franca.params import Params
from franca.probes.regression import fit_logistic

Take = Callable[[Tensor], Tensor]


def run(backbone: Backbone, data: Dataset, params: Params) -> Iterator[Measurement | LeftOut]:
    """top1 of benchmark `linear`, and top1_D of `linear_levels` on the first D features for each level D."""
    whole = data.labeled("train")[0].shape[1]
    for width in backbone.levels or (whole,):
        predict = _fit(data, params, lambda features, width=width: features[:, :width])  # type: ignore[misc]
        for split in data.labeled_splits():
            if isinstance(split, LeftOut):
                if width == whole:
                    yield split
                continue
            queries, truth = data.labeled(split)
            correct = predict(queries) == truth
            if backbone.levels:
                yield accuracy("linear_levels", split, f"top1_{width}", correct, data, params)
            if width == whole:
                yield accuracy("linear", split, "top1", correct, data, params)


def controls(backbone: Backbone, data: Dataset, params: Params) -> Iterator[Measurement]:
    """top1_D of as many random dimensions and principal components as each level D has, if features nest."""
    for part in parts_of(data.labeled("train")[0].float(), backbone.levels, params.base.seed):
        predict = _fit(data, params, part.take)
        for split in data.labeled_splits():
            if not isinstance(split, LeftOut):
                queries, truth = data.labeled(split)
                correct = predict(queries) == truth
                yield accuracy(f"linear_{part.kind}", split, f"top1_{part.width}", correct, data, params)


def _fit(data: Dataset, params: Params, take: Take) -> Take:
    """Fit on a part of the training features; return what maps features (N, D) to classes (N,)."""
    train, labels = data.labeled("train")
    queries, truth = data.labeled("val")
    targets = one_hot(labels, len(data.classes)).to(train.dtype)
    probes = fit_logistic(take(train), targets, params.evaluate.linear_c)
    hits = [int((probe(take(queries)).argmax(1) == truth).sum()) for probe in probes]
    best = probes[hits.index(max(hits))]
    return lambda features: best(take(features)).argmax(1)
