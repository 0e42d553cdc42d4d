"""Agreement of two views: how many images are found by one view among the other views of all. Needs no labels."""

from collections.abc import Iterator

from franca.evaluation.features import VIEWS, Dataset, LeftOut, evenly_spaced
from franca.evaluation.intervals import Measurement, Resampling, measure
from franca.evaluation.outcomes import Outcome
from franca.params import Params
from franca.probes.view_agreement import found

FEWEST = 4


def run(data: Dataset, params: Params) -> Iterator[Measurement | LeftOut]:
    """top1 of benchmark `views`."""
    for split in data.splits():
        first, second = data.parts[split].views
        if len(first) < FEWEST:
            yield LeftOut(split, f"fewer than {FEWEST} {split} images")
            continue
        rows = evenly_spaced(len(data.parts[split].labels), VIEWS)
        outcome = Outcome("hits", found(first, second).cpu().numpy(), data.images(split, rows), len(first))
        yield measure("views", split, "top1", outcome, Resampling.of(params))
