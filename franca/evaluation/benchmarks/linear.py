"""Linear probe: logistic regression on frozen pooled features, with the regularization chosen on val.

Like k-NN it is also measured on the first D dimensions for each Matryoshka level D (`linear_levels`), and on controls
of the same size (`linear_random_dims`, `linear_components`).
"""

from collections.abc import Callable

from torch import Tensor
from torch.nn.functional import one_hot

from franca.evaluation.benchmarks.knn import accuracy
from franca.evaluation.dimensions import controls
from franca.evaluation.features import FeatureExtractor, FeatureSet
from franca.evaluation.result import Result
from franca.params import Params
from franca.probes.regression import fit_logistic

Take = Callable[[Tensor], Tensor]


def run(extractor: FeatureExtractor, features: FeatureSet, params: Params) -> Result:
    """Measure top1 of `linear`, and top1_D of its controls and of `linear_levels` if the features nest."""
    train = features.labeled("train")[0]
    whole = train.shape[1]
    splits, skipped = features.labeled_splits()
    found = []
    for control in controls(train.float(), extractor.levels, params.base.seed):
        predict = _fit(features, params, control.take)
        for split in splits:
            queries, truth = features.labeled(split)
            name, metric = f"linear_{control.kind}", f"top1_{control.width}"
            found.append(accuracy(name, split, metric, predict(queries) == truth, features, params))
    for width in extractor.levels or (whole,):
        predict = _fit(features, params, lambda x, width=width: x[:, :width])  # type: ignore[misc]
        for split in splits:
            queries, truth = features.labeled(split)
            correct = predict(queries) == truth
            if extractor.levels:
                found.append(accuracy("linear_levels", split, f"top1_{width}", correct, features, params))
            if width == whole:
                found.append(accuracy("linear", split, "top1", correct, features, params))
    return Result(found, skipped)


def _fit(features: FeatureSet, params: Params, take: Take) -> Take:
    """Fit on a part of the training features; return a map of features (N, D) to classes (N,) int64."""
    train, labels = features.labeled("train")
    queries, truth = features.labeled("val")
    targets = one_hot(labels, len(features.classes)).to(train.dtype)
    probes = fit_logistic(take(train), targets, params.evaluate.linear_c)
    hits = [int((probe(take(queries)).argmax(1) == truth).sum()) for probe in probes]
    best = probes[hits.index(max(hits))]
    return lambda x: best(take(x)).argmax(1)
