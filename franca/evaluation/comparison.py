"""Differences between two models' scores, paired image by image wherever both were measured on the same images.

Imports no torch.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from franca.data.store.index import SplitName
from franca.evaluation.intervals import Difference, Resampling, independent_difference, paired_difference
from franca.evaluation.outcomes import Key, Outcome

OURS = "franca"
COMPARED = (
    ("knn", "top1"),
    ("linear", "top1"),
    ("segmentation", "miou"),
    ("position", "r2"),
    ("views", "top1"),
    ("rank", "rankme"),
)
"""Benchmarks and metrics in tables of differences."""


@dataclass(frozen=True)
class Evidence:
    """What an evaluation leaves: `results.json`, and the images behind its scores (an older version kept none)."""

    results: dict[str, Any]
    outcomes: Mapping[Key, Outcome] = field(default_factory=dict)

    def row(self, model: str, benchmark: str, split: str, metric: str) -> dict[str, Any] | None:
        """Return a score as `results.json` has it."""
        wanted = (model, benchmark, split, metric)
        keys = ("model", "benchmark", "split", "metric")
        return next((row for row in self.results["rows"] if tuple(row[key] for key in keys) == wanted), None)


def compare(
    ours: Evidence, theirs: Evidence, model: str, benchmark: str, split: str, metric: str, resampling: Resampling
) -> Difference | None:
    """Return our model's score in `ours` less that of `model` in `theirs`; None if one of them was not measured."""
    key = (benchmark, split, metric)
    our_row, their_row = ours.row(OURS, *key), theirs.row(model, *key)
    if our_row is None or their_row is None:
        return None
    our_outcome, their_outcome = ours.outcomes.get((OURS, *key)), theirs.outcomes.get((model, *key))
    if our_outcome is not None and their_outcome is not None:
        value = our_row["value"] - their_row["value"]
        if paired := paired_difference(value, metric, our_outcome, their_outcome, resampling):
            return paired
    scores = [(row["value"], row["low"], row["high"]) for row in (our_row, their_row)]
    return independent_difference(scores[0], scores[1])


def differences(evidence: Evidence, splits: tuple[SplitName, ...], resampling: Resampling) -> list[dict[str, Any]]:
    """Return the differences of our model from every other one, as `results.json` keeps them."""
    models = dict.fromkeys(row["model"] for row in evidence.results["rows"])
    found = []
    for model in models:
        for benchmark, metric in COMPARED if model != OURS else ():
            for split in splits:
                result = compare(evidence, evidence, model, benchmark, split, metric, resampling)
                if result is not None:
                    about = {"against": model, "benchmark": benchmark, "split": split, "metric": metric}
                    found.append(about | result._asdict())
    return found
