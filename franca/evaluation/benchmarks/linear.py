"""Linear probe: logistic regression on frozen pooled features, with the regularization chosen on val."""

from torch.nn.functional import one_hot

from franca.evaluation.benchmarks.knn import accuracy
from franca.evaluation.features import FeatureExtractor, FeatureSet
from franca.evaluation.result import Result
from franca.params import Params
from franca.probes.regression import fit_logistic


def run(extractor: FeatureExtractor, features: FeatureSet, params: Params) -> Result:
    """Measure top1 of `linear`."""
    train, labels = features.labeled("train")
    queries, truth = features.labeled("val")
    targets = one_hot(labels, len(features.classes)).to(train.dtype)
    probes = fit_logistic(train, targets, params.evaluate.linear_c)
    hits = [int((probe(queries).argmax(1) == truth).sum()) for probe in probes]
    best = probes[hits.index(max(hits))]
    splits, skipped = features.labeled_splits()
    found = []
    for split in splits:
        queries, truth = features.labeled(split)
        found.append(accuracy("linear", split, "top1", best(queries).argmax(1) == truth, features, params))
    return Result(found, skipped)
