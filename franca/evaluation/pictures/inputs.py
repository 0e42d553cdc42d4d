"""What the pictures of an evaluation are made from."""

from dataclasses import dataclass
from typing import Any

from franca.evaluation.features import FeatureSet
from franca.params import Params


@dataclass(frozen=True)
class PictureInputs:
    """The argument of a benchmark's `draw`.

    Attributes:
        results: Content of `results.json`.
        features: Features by the evaluated model.
        drawables: `Result.drawable` of the benchmark by model; models without one are missing.
        params: All parameters.
    """

    results: dict[str, Any]
    features: FeatureSet
    drawables: dict[str, Any]
    params: Params
