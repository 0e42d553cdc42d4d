"""What promotion asks of a challenger: floors, and being better than baselines and champion beyond chance."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from franca.benchmarks import BASELINES, BY_NAME, LABEL_FREE, LABELED, LOWER_IS_BETTER, OURS, PHRASES
from franca.errors import FrancaError
from franca.evaluation.comparison import Evidence, compare
from franca.evaluation.intervals import Difference, Resampling
from franca.params import Gate

NAMES = PHRASES | {"champion": "the champion"}


class Verdict(NamedTuple):
    """What one gate says. `worse_than` is the baseline that the model is not shown to be better than."""

    metric: str
    holds: bool
    sentence: str
    worse_than: str | None = None


def benchmark(gate: Gate) -> str:
    return gate.metric.partition("/")[0]


def unmeasured(gates: Sequence[Gate], skipped: Mapping[str, str]) -> dict[str, str]:
    """Return why metrics of gates were not measured, from `skipped` of `results.json`."""
    reasons = {}
    for gate in gates:
        name, split, _ = gate.metric.split("/")
        name = BY_NAME[name].module  # results.json gives the reason once for all that a module measures
        if reason := skipped.get(name) or skipped.get(f"{name}/{split}"):
            reasons[gate.metric] = reason
    return reasons


def choose(gates: Sequence[Gate], skipped: Mapping[str, str]) -> tuple[list[Gate], list[str]]:
    """Return the gates that apply, and a sentence if gates that need labels are left out.

    Gates on metrics without labels apply where the images have none, that is if no gate that needs labels can be
    measured; where there are labels, those gates decide. A list of one kind alone always applies.
    """
    labeled = [gate for gate in gates if benchmark(gate) in LABELED]
    free = [gate for gate in gates if benchmark(gate) in LABEL_FREE]
    if not labeled or not free:
        return list(gates), []
    reasons = unmeasured(labeled, skipped)
    if any(gate.metric not in reasons for gate in labeled):
        metrics = ", ".join(dict.fromkeys(gate.metric for gate in free))
        return [gate for gate in gates if gate not in free], [f"not applied, since the images have labels: {metrics}"]
    metrics = ", ".join(dict.fromkeys(gate.metric for gate in labeled))
    note = f"gates that need no labels decide; {metrics} not measured: {next(iter(reasons.values()))}"
    return [gate for gate in gates if gate not in labeled], [note]


def judge(gates: Sequence[Gate], challenger: Evidence, champion: Evidence | None, seed: int) -> list[Verdict]:
    """Return a verdict for each gate; without a champion those against it ask for their floors alone.

    Raises:
        FrancaError: A gate names a metric that no benchmark has.
    """
    suite = challenger.results["suite"]
    resampling = Resampling(seed, suite["bootstrap_samples"], suite["confidence"])
    reasons = unmeasured(gates, challenger.results.get("skipped", {}))
    verdicts = []
    for gate in gates:
        if gate.metric in reasons:
            sentence = f"{gate.metric} not measured: {reasons[gate.metric]}"
            verdicts.append(Verdict(gate.metric, False, sentence))
            continue
        if gate.metric not in known_metrics(challenger):
            known = ", ".join(known_metrics(challenger)) or "none"
            raise FrancaError(f"register.gates: the challenger has no metric '{gate.metric}'; known: {known}")
        verdicts.append(_judge(gate, challenger, champion, resampling))
    return verdicts


def known_metrics(evidence: Evidence) -> list[str]:
    """Return our model's val metrics as gates name them, such as `knn/val/top1`."""
    rows = evidence.results["rows"]
    ours = [row for row in rows if (row["model"], row["split"]) == (OURS, "val")]
    return sorted(f"{row['benchmark']}/{row['split']}/{row['metric']}" for row in ours)


def _judge(gate: Gate, challenger: Evidence, champion: Evidence | None, resampling: Resampling) -> Verdict:
    name, split, metric = gate.metric.split("/")
    ours = challenger.row(OURS, name, split, metric)
    assert ours is not None
    sign = -1 if name in LOWER_IS_BETTER else 1
    reasons, holds, worse_than = [], True, None
    if gate.floor is not None:
        holds = sign * (ours["value"] - gate.floor) >= 0
        reasons.append(f"the {'floor' if sign > 0 else 'limit'} is {gate.floor:g}")
    if gate.against == "champion" and champion is None:
        reasons.append("no champion yet")
    else:
        model = BASELINES.get(gate.against, OURS)
        other = champion if gate.against == "champion" else challenger
        assert other is not None
        difference = compare(challenger, other, model, name, split, metric, resampling)
        row = other.row(model, name, split, metric)
        if (difference is None or row is None) and gate.against == "champion":
            sentence = (
                f"{gate.metric} fails: the champion has no such metric; remove this gate, or choose a metric that both"
                " models have"
            )
            return Verdict(gate.metric, False, sentence)
        if difference is None or row is None:
            raise FrancaError(
                f"register.gates: {gate.metric} of {NAMES[gate.against]} was not measured; run `dvc repro evaluate` or"
                " take another metric"
            )
        holds &= _is_better(difference, sign, gate.min_improvement)
        if gate.against != "champion" and _limits(difference, sign)[0] <= 0:
            worse_than = gate.against
        reasons.append(_compared(difference, row["value"], gate))
    outcome = "holds" if holds else "fails"
    sentence = f"{gate.metric} {ours['value']:.2f} {outcome}: {'; '.join(reasons)}"
    return Verdict(gate.metric, holds, sentence, worse_than)


def _is_better(difference: Difference, sign: int, min_improvement: float) -> bool:
    """Whether a difference is what a gate asks for; `sign` -1 if less is better."""
    low, high = _limits(difference, sign)
    if min_improvement > 0:
        return sign * difference.value >= min_improvement and low > 0
    return high >= 0


def _limits(difference: Difference, sign: int) -> tuple[float, float]:
    """Return the interval's limits, turned round if `sign` is -1, so that a positive difference is an improvement."""
    return (difference.low, difference.high) if sign > 0 else (-difference.high, -difference.low)


def _compared(difference: Difference, theirs: float, gate: Gate) -> str:
    side = "above" if difference.value >= 0 else "below"
    whose = f"{NAMES[gate.against]}'s" if gate.against == "champion" else f"{NAMES[gate.against]},"
    kind = "same images" if difference.paired else "unpaired"
    less = ", less is better" if benchmark(gate) in LOWER_IS_BETTER else ""
    asked = (
        f"at least {gate.min_improvement:g} better, interval above 0"
        if gate.min_improvement
        else "not significantly worse"
    )
    return (
        f"{abs(difference.value):.2f} {side} {whose} {theirs:.2f} (difference {difference.low:+.2f} to"
        f" {difference.high:+.2f}, {kind}{less}; required: {asked})"
    )
