"""Logistic regression on frozen pooled features; its regularization is chosen on val."""

from collections.abc import Iterator

from torch.nn.functional import one_hot

from franca.evaluation.benchmarks.knn import accuracy
from franca.evaluation.features import Backbone, Dataset, LeftOut
from franca.evaluation.intervals import Measurement
from franca.params import Params
from franca.probes.regression import fit_logistic


def run(backbone: Backbone, data: Dataset, params: Params) -> Iterator[Measurement | LeftOut]:
    """top1 of benchmark `linear`."""
    train, labels = data.labeled("train")
    queries, truth = data.labeled("val")
    targets = one_hot(labels, len(data.classes)).to(train.dtype)
    probes = fit_logistic(train, targets, params.evaluate.linear_c)
    hits = [int((probe(queries).argmax(1) == truth).sum()) for probe in probes]
    best = probes[hits.index(max(hits))]
    for split in data.labeled_splits():
        if isinstance(split, LeftOut):
            yield split
            continue
        queries, truth = data.labeled(split)
        yield accuracy("linear", split, "top1", best(queries).argmax(1) == truth, data, params)
