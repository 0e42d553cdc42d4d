"""Gates: compare a challenger with floors, baselines and the champion, with confidence intervals."""

from collections.abc import Sequence
from typing import NamedTuple

from franca.benchmarks import BASELINES, BY_NAME, LABEL_FREE, LABELED, LOWER_IS_BETTER, OURS, PHRASES
from franca.errors import FrancaError
from franca.evaluation.comparison import Evidence, compare
from franca.evaluation.intervals import Difference, Resampling
from franca.params import Gate

NAMES = PHRASES | {"champion": "the champion"}


class GateResult(NamedTuple):
    """The result of one gate.

    Attributes:
        metric: The gate's metric.
        passed: Whether the gate passed.
        sentence: The numbers and the reason.
        worse_than: The baseline that the model is not shown to be better than, if any.
    """

    metric: str
    passed: bool
    sentence: str
    worse_than: str | None = None


def benchmark_of(gate: Gate) -> str:
    """Return the name of the benchmark of a gate's metric."""
    return gate.key[0]


def unmeasured_reasons(gates: Sequence[Gate], evidence: Evidence) -> dict[str, str]:
    """Return the metrics of gates that were not measured, with the reason that `results.json` gives."""
    reasons = {}
    for gate in gates:
        found = evidence.on(gate.dataset)
        if found is None:
            reasons[gate.metric] = f"no results on the data set {gate.dataset}"
            continue
        skipped = found.results.get("skipped", {})
        name, split, _ = gate.key
        name = BY_NAME[name].module  # results.json gives the reason once for all that a module measures
        if reason := skipped.get(name) or skipped.get(f"{name}/{split}"):
            reasons[gate.metric] = reason
    return reasons


def select_gates(gates: Sequence[Gate], evidence: Evidence) -> tuple[list[Gate], list[str]]:
    """Return the gates that apply, and a note about those that are left out.

    Gates on further data sets always apply. Of those on the training source: if any that needs labels was measured,
    gates on label-free metrics are left out; otherwise it is the other way round. If all are of one kind, all apply,
    unless the source has no labels and there are gates on further data sets: those decide then.
    """
    own = [gate for gate in gates if gate.dataset is None]
    labeled = [gate for gate in own if benchmark_of(gate) in LABELED]
    label_free = [gate for gate in own if benchmark_of(gate) in LABEL_FREE]
    reasons = unmeasured_reasons(labeled, evidence)
    if any(gate.metric not in reasons for gate in labeled):
        if not label_free:
            return list(gates), []
        metrics = ", ".join(dict.fromkeys(gate.metric for gate in label_free))
        return [gate for gate in gates if gate not in label_free], [
            f"not applied, since the images have labels: {metrics}"
        ]
    if not labeled or (not label_free and len(own) == len(gates)):
        return list(gates), []
    metrics = ", ".join(dict.fromkeys(gate.metric for gate in labeled))
    deciding = "gates that need no labels decide" if label_free else "the gates on further data sets decide"
    note = f"{deciding}; {metrics} not measured: {next(iter(reasons.values()))}"
    return [gate for gate in gates if gate not in labeled], [note]


def check_gates(gates: Sequence[Gate], challenger: Evidence, champion: Evidence | None, seed: int) -> list[GateResult]:
    """Return a result for each gate.

    Args:
        gates: The gates that apply.
        challenger: Results of the challenger and of its baselines.
        champion: Results of the champion. If there is none, gates against it check their floors only.
        seed: Seed of the bootstrap.

    Raises:
        FrancaError: A gate has an unknown metric, or its baseline was not measured.
    """
    suite = challenger.results["suite"]
    resampling = Resampling(seed, suite["bootstrap_samples"], suite["confidence"])
    reasons = unmeasured_reasons(gates, challenger)
    results = []
    for gate in gates:
        if gate.metric in reasons:
            sentence = f"{gate.metric} not measured: {reasons[gate.metric]}"
            results.append(GateResult(gate.metric, False, sentence))
            continue
        if gate.metric not in known_metrics(challenger):
            known = ", ".join(known_metrics(challenger)) or "none"
            raise FrancaError(f"register.gates: the challenger has no metric '{gate.metric}'; known: {known}")
        results.append(_check_gate(gate, challenger, champion, resampling))
    return results


def known_metrics(evidence: Evidence) -> list[str]:
    """Return the names of our model's val metrics in the form of gates: `knn/val/top1`, `imagenet/knn/val/top1`."""
    ours = [row for row in evidence.results["rows"] if (row["model"], row["split"]) == (OURS, "val")]
    names = [f"{row['benchmark']}/{row['split']}/{row['metric']}" for row in ours]
    for dataset, found in evidence.datasets.items():
        names += [f"{dataset}/{name}" for name in known_metrics(found)]
    return sorted(names)


def _check_gate(gate: Gate, challenger: Evidence, champion: Evidence | None, resampling: Resampling) -> GateResult:
    name, split, metric = gate.key
    measured = challenger.on(gate.dataset)
    ours = measured.row(OURS, name, split, metric) if measured else None
    assert measured is not None and ours is not None  # check_gates has compared the metric with known_metrics
    sign = -1 if name in LOWER_IS_BETTER else 1
    reasons, passed, worse_than = [], True, None
    if gate.floor is not None:
        passed = sign * (ours["value"] - gate.floor) >= 0
        reasons.append(f"the {'floor' if sign > 0 else 'limit'} is {gate.floor:g}")
    if gate.against == "champion" and champion is None:
        reasons.append("no champion yet")
    else:
        model = BASELINES.get(gate.against, OURS)
        other = champion.on(gate.dataset) if champion and gate.against == "champion" else measured
        row = other.row(model, name, split, metric) if other else None
        difference = compare(measured, other, model, name, split, metric, resampling) if other else None
        if (difference is None or row is None) and gate.against == "champion":
            sentence = (
                f"{gate.metric} fails: the champion has no such metric; remove this gate, or choose a metric that both"
                " models have"
            )
            return GateResult(gate.metric, False, sentence)
        if difference is None or row is None:
            raise FrancaError(
                f"register.gates: {gate.metric} of {NAMES[gate.against]} was not measured; run `dvc repro evaluate` or"
                " take another metric"
            )
        passed &= _is_better(difference, sign, gate.min_improvement)
        if gate.against != "champion" and _limits(difference, sign)[0] <= 0:
            worse_than = gate.against
        reasons.append(_compared(difference, row["value"], gate))
    outcome = "holds" if passed else "fails"
    sentence = f"{gate.metric} {ours['value']:.2f} {outcome}: {'; '.join(reasons)}"
    return GateResult(gate.metric, passed, sentence, worse_than)


def _is_better(difference: Difference, sign: int, min_improvement: float) -> bool:
    """Return whether a difference meets the gate; `sign` is -1 if lower is better."""
    low, high = _limits(difference, sign)
    # Two rules: an improvement must be significant; "not worse" only fails if a loss is significant.
    if min_improvement > 0:
        return sign * difference.value >= min_improvement and low > 0
    return high >= 0


def _limits(difference: Difference, sign: int) -> tuple[float, float]:
    """Return the limits of the interval, negated if `sign` is -1, so that a positive difference is an improvement."""
    return (difference.low, difference.high) if sign > 0 else (-difference.high, -difference.low)


def _compared(difference: Difference, theirs: float, gate: Gate) -> str:
    side = "above" if difference.value >= 0 else "below"
    whose = f"{NAMES[gate.against]}'s" if gate.against == "champion" else f"{NAMES[gate.against]},"
    kind = "same images" if difference.paired else "unpaired"
    less = ", less is better" if benchmark_of(gate) in LOWER_IS_BETTER else ""
    asked = (
        f"at least {gate.min_improvement:g} better, interval above 0"
        if gate.min_improvement
        else "not significantly worse"
    )
    return (
        f"{abs(difference.value):.2f} {side} {whose} {theirs:.2f} (difference {difference.low:+.2f} to"
        f" {difference.high:+.2f}, {kind}{less}; required: {asked})"
    )
