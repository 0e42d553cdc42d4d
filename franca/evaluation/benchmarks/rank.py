"""RankMe of pooled features: higher is better, and no labels are needed."""

from collections.abc import Iterator

import numpy as np
import torch

from franca.evaluation.features import Dataset, LeftOut, evenly_spaced
from franca.evaluation.intervals import Measurement, Resampling, measure
from franca.evaluation.outcomes import Outcome
from franca.params import Params
from franca.probes.effective_rank import rankme

IMAGES = 4000
FEWEST = 4
HALVES = 50
"""Random halves of the images behind an interval."""


def run(data: Dataset, params: Params) -> Iterator[Measurement | LeftOut]:
    """rankme of benchmark `rank`.

    Two models with the same images have the same halves, whose differences give a paired interval.
    """
    resampling = Resampling.of(params)
    for split in data.splits():
        features = data.parts[split].pooled
        rows = evenly_spaced(len(features), IMAGES)
        if len(rows) < FEWEST:
            yield LeftOut(split, f"fewer than {FEWEST} {split} images")
            continue
        x = features[torch.from_numpy(rows).to(features.device)]
        # Not the run's seed: models of different seeds could not be compared on the same halves.
        rng = np.random.default_rng(0)
        halves = [rng.permutation(len(x))[: len(x) // 2] for _ in range(HALVES)]
        values = np.array([rankme(x[torch.from_numpy(half).to(x.device)]) for half in halves])
        outcome = Outcome("replicates", values, data.images(split, rows), len(x))
        yield measure("rank", split, "rankme", outcome, resampling, rankme(x))
