"""LiDAR of pooled features: the number of dimensions that tell images apart by their views. Needs no labels."""

import numpy as np
import torch

from franca.data.store.transform import load_images
from franca.evaluation.benchmarks.corruptions import embed_pooled
from franca.evaluation.features import BATCH, FeatureExtractor, FeatureSet, evenly_spaced
from franca.evaluation.halves import random_halves
from franca.evaluation.intervals import Resampling, measure
from franca.evaluation.methods.lidar import lidar, random_views
from franca.evaluation.outcomes import Outcome
from franca.evaluation.result import Result
from franca.params import Params

MAX_IMAGES = 1000
MIN_IMAGES = 4
VIEWS = 10
SIDE = (0.6, 1.0)
"""Share of an image's side that a view has, at least and at most."""


def run(extractor: FeatureExtractor, features: FeatureSet, params: Params) -> Result:
    """Measure lidar of `lidar`.

    The views are the same for all images and models, so scores of models trained with different augmentations can be
    compared.
    """
    found, skipped = [], {}
    rng = np.random.default_rng(0)
    mirrored = np.arange(VIEWS) % 2
    corners = torch.from_numpy(
        np.stack([rng.random(VIEWS), rng.random(VIEWS), rng.uniform(*SIDE, VIEWS), mirrored], axis=1)
    )
    for split in features.scored_splits():
        images = features.image_sets[split]
        rows = evenly_spaced(len(images), MAX_IMAGES)
        if len(rows) < MIN_IMAGES:
            skipped[split] = f"fewer than {MIN_IMAGES} {split} images"
            continue
        parts = []
        for start in range(0, len(rows), BATCH):
            batch = load_images(images, extractor.image_size, rows[start : start + BATCH].tolist())
            parts.append(torch.stack([embed_pooled(extractor, random_views(batch, view)) for view in corners], dim=1))
        x = torch.cat(parts)
        values = np.array([lidar(x[torch.from_numpy(half).to(x.device)]) for half in random_halves(len(x))])
        outcome = Outcome("replicates", values, features.images(split, rows), len(x))
        found.append(measure("lidar", split, "lidar", outcome, Resampling.of(params), lidar(x)))
    return Result(found, skipped)
