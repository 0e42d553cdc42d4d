"""What a benchmark returns for one model."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from franca.data.store.index import SplitName
from franca.evaluation.intervals import Measurement


class Skipped(Exception):
    """The data do not allow a benchmark on any split; the message is the reason."""


@dataclass(frozen=True)
class Result:
    """The scores of one model on one benchmark.

    Attributes:
        measurements: The scores, in the order of the rows in `results.json`.
        skipped: Why a split has no scores.
        drawable: What the benchmark's `draw` needs of this model; None if its pictures need nothing.
    """

    measurements: list[Measurement]
    skipped: Mapping[SplitName, str] = field(default_factory=dict)
    drawable: Any = None
