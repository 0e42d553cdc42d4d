"""View agreement: the share of images whose one view has their other view as its nearest neighbor. Needs no labels."""

from franca.evaluation.features import MAX_VIEWED, FeatureExtractor, FeatureSet, evenly_spaced
from franca.evaluation.intervals import Resampling, measure
from franca.evaluation.outcomes import Outcome
from franca.evaluation.result import Result
from franca.params import Params
from franca.probes.view_agreement import found as views_found

MIN_IMAGES = 4


def run(extractor: FeatureExtractor, features: FeatureSet, params: Params) -> Result:
    """Measure top1 of `views`."""
    found, skipped = [], {}
    for split in features.scored_splits():
        first, second = features.splits[split].views
        if len(first) < MIN_IMAGES:
            skipped[split] = f"fewer than {MIN_IMAGES} {split} images"
            continue
        rows = evenly_spaced(len(features.splits[split].labels), MAX_VIEWED)
        outcome = Outcome("hits", views_found(first, second).cpu().numpy(), features.images(split, rows), len(first))
        found.append(measure("views", split, "top1", outcome, Resampling.of(params)))
    return Result(found, skipped)
