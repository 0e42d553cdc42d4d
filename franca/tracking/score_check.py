"""Check that the scores of an evaluation are possible, and are those of the images that it counted."""

import math
from typing import Any

from franca.benchmarks import BY_NAME
from franca.errors import FrancaError
from franca.evaluation.comparison import Evidence
from franca.evaluation.statistics import statistic_of

TOLERANCE = 1e-3
"""Largest difference between a score and that of its images; scores are stored with four decimals."""


def check_scores(evidence: Evidence, origin: str) -> None:
    """Refuse results with a score that is not a number, above 100 %, or not what `outcomes.npz` adds up to.

    Args:
        evidence: The results.
        origin: Where they are from, for the message.

    Raises:
        FrancaError: A score is wrong, as after an edit of the file.
    """
    for row in evidence.results["rows"]:
        if fault := _fault(row, evidence):
            name = f"{row['benchmark']}/{row['split']}/{row['metric']} of {row['model']}"
            raise FrancaError(f"{origin}: {name} {fault}; run `dvc repro --force evaluate` to measure again")
    for dataset, part in evidence.datasets.items():
        check_scores(part, f"{origin}, data set {dataset}")
    for dataset, found in evidence.datasets.items():
        check_scores(found, f"{origin} on {dataset}")


def _fault(row: dict[str, Any], evidence: Evidence) -> str | None:
    numbers = [row["value"], row["low"], row["high"]]
    if not all(isinstance(number, int | float) and math.isfinite(number) for number in numbers):
        return f"is {row['value']} [{row['low']}, {row['high']}], not a finite number"
    value = row["value"]
    benchmark = BY_NAME.get(row["benchmark"])
    if benchmark is not None and benchmark.unit == "%" and not 0 <= value <= 100:
        return f"is {value:g} %, which is impossible"
    outcome = evidence.outcomes.get((row["model"], row["benchmark"], row["split"], row["metric"]))
    if outcome is None or outcome.kind == "replicates":
        return None
    if outcome.kind == "hits":
        counted = 100 * float(outcome.values.mean())
    else:
        counted = float(statistic_of(row["metric"])(outcome.values.sum(axis=0)))
    return None if abs(counted - value) <= TOLERANCE else f"is {value:g}, but its images add up to {counted:.4f}"
