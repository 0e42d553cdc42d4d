"""RankMe of pooled features: the number of dimensions that they fill. Needs no labels."""

import numpy as np
import torch

from franca.evaluation.features import FeatureExtractor, FeatureSet, evenly_spaced
from franca.evaluation.halves import random_halves
from franca.evaluation.intervals import Resampling, measure
from franca.evaluation.outcomes import Outcome
from franca.evaluation.result import Result
from franca.params import Params
from franca.probes.effective_rank import rankme

MAX_IMAGES = 4000
MIN_IMAGES = 4


def run(extractor: FeatureExtractor, features: FeatureSet, params: Params) -> Result:
    """Measure rankme of `rank`.

    Two models that are measured on the same images get the same halves, so their differences give a paired interval.
    """
    found, skipped = [], {}
    for split in features.scored_splits():
        pooled, device = features.splits[split].pooled, features.splits[split].labels.device
        rows = evenly_spaced(len(pooled), MAX_IMAGES)
        if len(rows) < MIN_IMAGES:
            skipped[split] = f"fewer than {MIN_IMAGES} {split} images"
            continue
        x = pooled[torch.from_numpy(rows)].to(device)
        values = np.array([rankme(x[torch.from_numpy(half).to(x.device)]) for half in random_halves(len(x))])
        outcome = Outcome("replicates", values, features.images(split, rows), len(x))
        found.append(measure("rank", split, "rankme", outcome, Resampling.of(params), rankme(x)))
    return Result(found, skipped)
