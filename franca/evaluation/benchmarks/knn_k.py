"""Weighted k-NN of pooled features for several k, as in the official evaluation."""

from franca.evaluation.benchmarks.knn import accuracy
from franca.evaluation.features import FeatureExtractor, FeatureSet
from franca.evaluation.methods.knn_votes import knn_classes
from franca.evaluation.result import Result, Skipped
from franca.params import Params

KS = (10, 20, 100, 200)


def run(extractor: FeatureExtractor, features: FeatureSet, params: Params) -> Result:
    """Measure top1_K of `knn_k` for each K of `KS` up to the number of training images."""
    splits, skipped = features.labeled_splits()
    train, labels = features.labeled("train")
    ks = [k for k in KS if k <= len(train)]
    if not ks:
        raise Skipped(f"fewer than {KS[0]} train images have a label")
    found = []
    for split in splits:
        queries, truth = features.labeled(split)
        temperature = params.evaluate.knn_temperature
        for k, votes in knn_classes(train, labels, queries, len(features.classes), ks, temperature).items():
            found.append(accuracy("knn_k", split, f"top1_{k}", votes.classes == truth, features, params))
    return Result(found, skipped)
