"""How well a linear map predicts a patch's position in the image from its feature; RASA lowers it.

Lower is better: a patch feature should say what a patch shows, not where it is (Franca, arXiv 2507.14137).
"""

from franca.evaluation.features import FeatureExtractor, FeatureSet, evenly_spaced
from franca.evaluation.intervals import Resampling, measure
from franca.evaluation.outcomes import Outcome
from franca.evaluation.result import Result, Skipped
from franca.params import Params
from franca.probes.position import fit_position, position_errors


def run(extractor: FeatureExtractor, features: FeatureSet, params: Params) -> Result:
    """Measure r2 of `position`, see `franca.probes.r2`."""
    train = features.splits["train"].patches
    if not len(train):
        raise Skipped("no train images")
    if min(train.shape[1:3]) < 2:
        raise Skipped("an image has a single row or column of patches")
    probe = fit_position(train)
    found = []
    for split in features.scored_splits():
        patches = features.splits[split].patches
        sums = position_errors(probe, patches)
        rows = evenly_spaced(len(features.splits[split].labels), len(patches))
        outcome = Outcome("sums", sums, features.images(split, rows), len(sums))
        found.append(measure("position", split, "r2", outcome, Resampling.of(params)))
    return Result(found)
