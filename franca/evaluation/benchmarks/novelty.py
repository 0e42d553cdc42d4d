"""Detection of images of classes that the detectors have not seen, on the pooled features.

Known and novel images come from one data set: some classes are left out of the training images, and a detector has to
tell val and test images of these classes from the others. Images of another data set differ in size, compression and
colors as well, so that telling them apart would say little about the features.
"""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from franca.evaluation.features import FeatureExtractor, FeatureSet
from franca.evaluation.halves import random_halves
from franca.evaluation.intervals import Measurement, Resampling, measure
from franca.evaluation.methods.novelty import Separation, energy, mahalanobis, neighbor_distance, separation
from franca.evaluation.outcomes import Outcome
from franca.evaluation.result import Result, Skipped
from franca.feature_files import take_rows
from franca.params import Params

MIN_CLASSES = 4
DIVISIONS = 5
"""Random divisions of the classes into known and novel ones, over which scores are averaged."""
KNOWN_SHARE = 0.6
DETECTORS = ("knn", "mahalanobis", "energy")
Floats = NDArray[np.float64]


def run(extractor: FeatureExtractor, features: FeatureSet, params: Params) -> Result:
    """Measure auroc and aupr of `novelty` and fpr95 of `novelty_misses`, each by all `DETECTORS`."""
    splits, skipped = features.labeled_splits()
    train, labels = features.labeled("train")
    present = labels.unique().cpu().numpy()
    if len(present) < MIN_CLASSES:
        raise Skipped(f"the train images have fewer than {MIN_CLASSES} classes")
    queries = {split: features.labeled(split) for split in splits}
    divisions = [
        (known, _scores(train, labels, known, {s: x for s, (x, _) in queries.items()})) for known in divide(present)
    ]
    found: list[Measurement] = []
    for split in splits:
        truth = queries[split][1].cpu().numpy()
        marks = [np.isin(truth, known) for known, _ in divisions]
        for detector in DETECTORS:
            scores = [of_split[split][detector] for _, of_split in divisions]
            halves = [_mean(scores, marks, half) for half in random_halves(len(truth))]
            whole = _mean(scores, marks, np.arange(len(truth)))
            for field in Separation._fields:
                replicates = np.array([getattr(half, field) for half in halves])
                outcome = Outcome("replicates", replicates, features.images(split), len(truth))
                benchmark = "novelty_misses" if field == "fpr95" else "novelty"
                value, metric = float(getattr(whole, field)), f"{field}_{detector}"
                found.append(measure(benchmark, split, metric, outcome, Resampling.of(params), value))
    return Result(found, skipped)


def divide(present: NDArray[np.int64]) -> list[NDArray[np.int64]]:
    """Return the known classes of each division; not by the run's seed, so that all models get the same ones."""
    rng = np.random.default_rng(0)
    known = round(KNOWN_SHARE * len(present))
    return [np.sort(rng.permutation(present)[:known]) for _ in range(DIVISIONS)]


def _scores(
    train: Tensor, labels: Tensor, known: NDArray[np.int64], queries: dict[str, Tensor]
) -> dict[str, dict[str, Floats]]:
    """Fit all detectors on the images of known classes; return scores (n,) by split and detector."""
    classes = torch.from_numpy(known).to(labels.device)
    kept = torch.isin(labels, classes)
    x, y = take_rows(train, kept.nonzero()[:, 0].cpu()), torch.searchsorted(classes, labels[kept])
    bounds = np.cumsum([len(part) for part in queries.values()])[:-1]
    together = torch.cat(list(queries.values()))
    values = {
        "knn": neighbor_distance(x, together, labels.device),
        "mahalanobis": mahalanobis(x, y, together),
        "energy": energy(x, y, together),
    }
    arrays = {name: np.split(value.double().cpu().numpy(), bounds) for name, value in values.items()}
    return {split: {name: parts[i] for name, parts in arrays.items()} for i, split in enumerate(queries)}


def _mean(scores: list[Floats], marks: list[NDArray[np.bool_]], rows: NDArray[np.int64]) -> Separation:
    """Return the mean over divisions of how well scores of images `rows` separate known from novel ones.

    Divisions whose images are all known or all novel are left out.
    """
    parts = [
        separation(score[rows][mark[rows]], score[rows][~mark[rows]])
        for score, mark in zip(scores, marks, strict=True)
        if 0 < mark[rows].sum() < len(rows)
    ]
    return Separation(*np.mean(parts, axis=0)) if parts else Separation(50.0, 50.0, 95.0)
