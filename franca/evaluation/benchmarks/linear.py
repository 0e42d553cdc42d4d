"""Linear probe: logistic regression on frozen pooled features, with the regularization chosen on val.

Like k-NN it is also measured on the first D dimensions for each Matryoshka level D (`linear_levels`), and on controls
of the same size (`linear_random_dims`, `linear_components`).
"""

from collections.abc import Callable
from functools import partial

from torch import Tensor

from franca.evaluation.benchmarks.knn import accuracy
from franca.evaluation.dimensions import controls, sample
from franca.evaluation.features import FeatureExtractor, FeatureSet
from franca.evaluation.methods.logistic import fit_logistic, predict_classes
from franca.evaluation.result import Result
from franca.feature_files import map_blocks
from franca.params import Params

Take = Callable[[Tensor], Tensor]


def run(extractor: FeatureExtractor, features: FeatureSet, params: Params) -> Result:
    """Measure top1 of `linear`, and top1_D of its controls and of `linear_levels` if the features nest."""
    train, labels = features.labeled("train")
    whole, device = train.shape[1], labels.device
    splits, skipped = features.labeled_splits()
    found = []
    for control in controls(sample(train).to(device), extractor.levels, params.base.seed):
        predict = _fit(features, params, partial(map_blocks, control.take, device=device))
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
    probes = fit_logistic(take(train), labels, len(features.classes), params.evaluate.linear_c)
    taken = take(queries)
    hits = [int((predict_classes(probe, taken) == truth).sum()) for probe in probes]
    best = probes[hits.index(max(hits))]
    return lambda x: predict_classes(best, take(x))
