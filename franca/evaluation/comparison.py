"""Differences between the scores of two models, paired image by image if both were measured on the same images.

Imports no torch.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from franca.benchmarks import COLUMNS, OURS
from franca.data.store.index import SplitName
from franca.evaluation.intervals import Difference, Resampling, independent_difference, paired_difference
from franca.evaluation.outcomes import Key, Outcome


@dataclass(frozen=True)
class Evidence:
    """The results of one evaluation.

    Attributes:
        results: Content of `results.json`.
        outcomes: Content of `outcomes.npz`; empty if the evaluation was made by a version that wrote no such file.
        datasets: Evidence of the same models on further data sets, by the name of the data set.
    """

    results: dict[str, Any]
    outcomes: Mapping[Key, Outcome] = field(default_factory=dict)
    datasets: Mapping[str, "Evidence"] = field(default_factory=dict)

    def on(self, dataset: str | None) -> "Evidence | None":
        """Return the evidence on a data set, None if there is none; for None, the evidence itself."""
        return self if dataset is None else self.datasets.get(dataset)

    def row(self, model: str, benchmark: str, split: str, metric: str) -> dict[str, Any] | None:
        """Return the row of a score in `results.json`, or None if it was not measured."""
        wanted = (model, benchmark, split, metric)
        keys = ("model", "benchmark", "split", "metric")
        return next((row for row in self.results["rows"] if tuple(row[key] for key in keys) == wanted), None)


def compare(
    ours: Evidence, theirs: Evidence, model: str, benchmark: str, split: str, metric: str, resampling: Resampling
) -> Difference | None:
    """Return the score of our model in `ours` minus that of `model` in `theirs`.

    Returns:
        the paired difference if both have outcomes on the same images, else the difference of two independent scores;
        None if one of the scores is missing.
    """
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
    """Return the differences between our model and every other one, as `results.json` stores them."""
    models = dict.fromkeys(row["model"] for row in evidence.results["rows"])
    found = []
    for model in models:
        for benchmark, metric, _ in COLUMNS if model != OURS else ():
            for split in splits:
                result = compare(evidence, evidence, model, benchmark, split, metric, resampling)
                if result is not None:
                    about = {"against": model, "benchmark": benchmark, "split": split, "metric": metric}
                    found.append(about | result._asdict())
    return found
