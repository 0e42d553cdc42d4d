"""Few-shot classification: nearest class mean from 1, 5 and 10 images of each class, the mean of many draws."""

import numpy as np
from numpy.typing import NDArray

from franca.evaluation.features import FeatureExtractor, FeatureSet
from franca.evaluation.halves import random_halves
from franca.evaluation.intervals import Measurement, Resampling, measure
from franca.evaluation.methods.few_shot import draw_shots, few_shot_hits
from franca.evaluation.outcomes import Outcome
from franca.evaluation.result import Result
from franca.params import Params

SHOTS = (1, 5, 10)
DRAWS = 100


def run(extractor: FeatureExtractor, features: FeatureSet, params: Params) -> Result:
    """Measure top1_S of `few_shot` for each S of `SHOTS` that the smallest training class allows."""
    splits, skipped = features.labeled_splits()
    train, labels = features.labeled("train")
    present = labels.cpu().numpy()
    smallest = min(np.unique(present, return_counts=True)[1])
    shots = [count for count in SHOTS if count <= smallest]
    found: list[Measurement] = []
    # Not the run's seed: models of different seeds could then not be compared on the same draws.
    drawn = {count: draw_shots(present, count, DRAWS, seed=0) for count in shots}
    for split in splits:
        queries, truth = features.labeled(split)
        for count in shots:
            hits = few_shot_hits(train, labels, queries, truth, drawn[count])
            outcome = Outcome("replicates", halves(hits), features.images(split), hits.shape[1])
            value = 100 * float(hits.mean())
            found.append(measure("few_shot", split, f"top1_{count}", outcome, Resampling.of(params), value))
    return Result(found, skipped)


def halves(hits: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Return accuracies in percent (R,) on random halves of both the draws and the images.

    Their standard deviation contains the choice of the drawn training images as well as that of the test images.

    Args:
        hits: (draws, M).
    """
    pairs = zip(random_halves(len(hits), seed=1), random_halves(hits.shape[1]), strict=True)
    return np.array([100 * hits[np.ix_(draws, images)].mean() for draws, images in pairs])
