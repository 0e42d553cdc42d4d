"""What promotion asks of a challenger: floors, and being better or no worse than the champion beyond noise."""

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from franca.errors import FrancaError
from franca.params import Gate


class Score(NamedTuple):
    """A metric with its confidence interval; greater is better."""

    value: float
    low: float
    high: float


class Verdict(NamedTuple):
    metric: str
    holds: bool
    sentence: str


def scores(results: dict[str, Any]) -> dict[str, Score]:
    """Our model's val scores out of `results.json`, by a gate's key such as `knn/val/top1`."""
    return {
        f"{row['benchmark']}/{row['split']}/{row['metric']}": Score(row["value"], row["low"], row["high"])
        for row in results["rows"]
        if row["model"] == "franca" and row["split"] == "val"
    }


def unmeasured(gates: Sequence[Gate], skipped: Mapping[str, str]) -> list[Verdict]:
    """A verdict for each gate on a benchmark that the data do not allow, `skipped` of `results.json`: it fails."""
    verdicts = []
    for gate in gates:
        benchmark, split, _ = gate.metric.replace("knn_levels/", "knn/").split("/")
        reason = skipped.get(benchmark) or skipped.get(f"{benchmark}/{split}")
        if reason:
            verdicts.append(Verdict(gate.metric, False, f"{gate.metric} not measured: {reason}"))
    return verdicts


def judge(
    gates: Sequence[Gate], challenger: Mapping[str, Score], champion: Mapping[str, Score] | None
) -> list[Verdict]:
    """A verdict for each gate; without a champion only the floors count.

    Raises FrancaError where a gate names a metric that no benchmark has.
    """
    for whose, measured in (("challenger", challenger), ("champion", champion)):
        for gate in gates:
            if measured is not None and gate.metric not in measured:
                known = ", ".join(sorted(measured)) or "none"
                raise FrancaError(f"register.gates: the {whose} has no metric '{gate.metric}'; known: {known}")
    return [_judge(gate, challenger[gate.metric], champion[gate.metric] if champion else None) for gate in gates]


def noise(better: Score, worse: Score) -> float:
    """Difference that chance alone may make: half-widths of both intervals on the sides that face each other.

    This is the lower limit of the interval of a difference by the method of variance estimates recovery (Zou and
    Donner, 2008); the models are taken as independent, which on the same images is on the safe side.
    """
    return math.hypot(better.value - better.low, worse.high - worse.value)


def _judge(gate: Gate, challenger: Score, champion: Score | None) -> Verdict:
    from mlflow.models import MetricThreshold

    rules: list[tuple[MetricThreshold, str]] = []
    if gate.floor is not None:
        rules.append((MetricThreshold(threshold=gate.floor, greater_is_better=True), f"the floor is {gate.floor:g}"))
    if champion is not None and gate.min_improvement > 0:
        chance = noise(challenger, champion)
        needed = max(gate.min_improvement, chance)
        rule = MetricThreshold(min_absolute_change=needed, greater_is_better=True)
        asked = f"asked: {gate.min_improvement:g} more, and more than chance explains, {chance:.2f}"
        rules.append((rule, f"{_compared(challenger, champion)} ({asked})"))
    elif champion is not None:
        chance = noise(champion, challenger)
        rule = MetricThreshold(threshold=champion.value - chance, greater_is_better=True)
        asked = f"asked: no worse than chance explains, {chance:.2f}"
        rules.append((rule, f"{_compared(challenger, champion)} ({asked})"))
    holds = all(_valid(gate.metric, rule, challenger, champion) for rule, _ in rules)
    reasons = "; ".join(reason for _, reason in rules) or "no champion yet and no floor"
    outcome = "holds" if holds else "fails"
    return Verdict(gate.metric, holds, f"{gate.metric} {challenger.value:.2f} {outcome}: {reasons}")


def _valid(metric: str, rule: Any, challenger: Score, champion: Score | None) -> bool:
    from mlflow import validate_evaluation_results
    from mlflow.models import EvaluationResult
    from mlflow.models.evaluation.validation import ModelValidationFailedException

    candidate = EvaluationResult({metric: challenger.value}, {}, run_id="")
    baseline = EvaluationResult({metric: champion.value}, {}, run_id="") if champion else None
    try:
        validate_evaluation_results({metric: rule}, candidate, baseline)
    except ModelValidationFailedException:
        return False
    return True


def _compared(challenger: Score, champion: Score) -> str:
    difference = challenger.value - champion.value
    side = "above" if difference >= 0 else "below"
    return f"{abs(difference):.2f} {side} the champion's {champion.value:.2f}"
