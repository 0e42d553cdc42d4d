"""What a model is good for and what not, in plain sentences, from the intervals of its results. Imports no torch.

A difference counts only if its interval excludes zero. Test decides; a benchmark without test images is judged on val.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from franca.advice import USUAL
from franca.benchmarks import BY_NAME, COLUMNS, MODELS, OURS, RANDOM_INIT, TITLES, Benchmark
from franca.evaluation.comparison import Evidence
from franca.evaluation.intervals import Difference, Resampling, independent_difference, paired_difference

Outcome = Literal["good", "mixed", "bad", "unknown"]
BASELINES = {model.name: model.phrase or f"the {model.title}" for model in MODELS if model.name != OURS}
"""How sentences name the baselines."""
READABLE: tuple[tuple[float, str, Outcome], ...] = (
    (5, "hardly", "good"),
    (25, "partly", "mixed"),
    (math.inf, "largely", "bad"),
)
"""Words for the share of position that a linear map reads from patch features, each up to a limit in percent."""
SEED = 0
"""Seed of the resamples behind the sentences about levels, whose differences `results.json` does not have."""


@dataclass(frozen=True)
class Verdict:
    """The verdict on one kind of feature.

    Attributes:
        subject: What is judged, such as "global features".
        outcome: good: better than every baseline at everything; bad: at nothing; mixed: at some benchmarks; unknown:
            there is nothing to judge by.
        sentences: The reasons, each a sentence.
    """

    subject: str
    outcome: Outcome
    sentences: tuple[str, ...]


@dataclass(frozen=True)
class Standing:
    """A model next to the others on one benchmark.

    Attributes:
        benchmark: The benchmark.
        better: Differences to the models that it is better than, the smallest first; positive is better.
        worse: Differences to the models that it is worse than, negative.
        open: Differences whose interval contains zero.
    """

    benchmark: Benchmark
    better: dict[str, Difference]
    worse: dict[str, Difference]
    open: dict[str, Difference]

    @property
    def wins(self) -> bool:
        """Whether the model is better than every other one."""
        return bool(self.better) and not self.worse and not self.open

    @property
    def sentence(self) -> str:
        """The standing in words, with the difference that decides."""
        if self.wins:
            closest, difference = next(iter(self.better.items()))
            others = "every baseline" if len(self.better) > 1 else _name(closest)
            last = f"; the closest is {_name(closest)}" if len(self.better) > 1 else ""
            return f"{self.benchmark.title}: better than {others}{last} ({_signed(difference, self._unit)})."
        parts = [f"worse than {_name(name)} ({_signed(found, self._unit)})" for name, found in self.worse.items()]
        parts += [
            f"not shown to differ from {_name(name)} ({_signed(found, self._unit)})"
            for name, found in self.open.items()
        ]
        if self.better:
            parts.append(f"better than {_listed([_name(name) for name in self.better])}")
        return f"{self.benchmark.title}: {'; '.join(parts)}."

    @property
    def _unit(self) -> str:
        return "points" if self.benchmark.unit == "%" else self.benchmark.unit


def headline(results: Mapping[str, Any]) -> str:
    """Return the verdict in one or two sentences: what the model is worth using for."""
    found = [standing for names in tasks().values() for standing in _standings(results, names, BASELINES)]
    if not found:
        return "There is nothing to judge this model by: no benchmark measured it next to a baseline."
    wins = [standing.benchmark.title for standing in found if standing.wins]
    rest = [standing.benchmark.title for standing in found if not standing.wins]
    if not learned(results):
        everything = _listed([*wins, *rest], "or")
        return f"Not shown to have learned anything: not better than {BASELINES[RANDOM_INIT]} at {everything}."
    if not rest:
        return f"Better than every baseline at everything that was measured: {_listed(wins)}."
    if not wins:
        return f"Better than {BASELINES[RANDOM_INIT]}, but not than every baseline at {_listed(rest, 'or')}."
    return f"Better than every baseline at {_listed(wins)}, but not at {_listed(rest, 'or')}."


def learned(results: Mapping[str, Any]) -> bool:
    """Return whether our model is better than its random twin at any task."""
    standings = (standing for names in tasks().values() for standing in _standings(results, names, BASELINES))
    return any(RANDOM_INIT in standing.better for standing in standings)


def verdicts(evidence: Evidence) -> list[Verdict]:
    """Return a verdict for each kind of feature that was measured, and one for each comparator.

    Without outcomes, the intervals behind the sentences about levels are wider.
    """
    found = []
    for subject, names in tasks().items():
        standings = _standings(evidence.results, names, BASELINES)
        if not standings:
            continue
        sentences = [standing.sentence for standing in standings]
        if not any(RANDOM_INIT in standing.better for standing in standings):
            sentences.append(f"Nowhere better than {BASELINES[RANDOM_INIT]}, so training has not helped here.")
        wins = [standing.wins for standing in standings]
        found.append(Verdict(subject, "good" if all(wins) else "mixed" if any(wins) else "bad", tuple(sentences)))
    if found and not learned(evidence.results):
        found.append(Verdict("what to check", "unknown", (f"{USUAL[:1].upper()}{USUAL[1:]}.",)))
    found += _level_verdicts(evidence)
    found += _position_verdict(evidence)
    return [*found, *_comparator_verdicts(evidence.results)]


def text(evidence: Evidence) -> list[str]:
    """Return the headline and all sentences as lines of text."""
    lines = [f"Verdict: {headline(evidence.results)}"]
    for verdict in verdicts(evidence):
        lines += [f"  {verdict.subject}", *(f"    {sentence}" for sentence in verdict.sentences)]
    return lines


def deciding_split(results: Mapping[str, Any], benchmark: str) -> str | None:
    """Return test, or val if our model has no score of the benchmark on test; None if it has none at all."""
    splits = {row["split"] for row in results["rows"] if (row["model"], row["benchmark"]) == (OURS, benchmark)}
    return next((split for split in ("test", "val") if split in splits), None)


def families(results: Mapping[str, Any]) -> list[str]:
    """Return the benchmarks that were measured on the first D dimensions as well, as `<name>_levels`."""
    names = dict.fromkeys(row["benchmark"] for row in results["rows"] if row["model"] == OURS)
    return [name for name in names if f"{name}_levels" in names]


def by_width(results: Mapping[str, Any], model: str, benchmark: str, split: str) -> dict[int, dict[str, Any]]:
    """Return the rows of a model by the number D of dimensions in the name of their metric, such as `top1_D`."""
    rows = [
        row for row in results["rows"] if (row["model"], row["benchmark"], row["split"]) == (model, benchmark, split)
    ]
    return {int(row["metric"].rpartition("_")[2]): row for row in rows if row["metric"].rpartition("_")[2].isdigit()}


def is_task(benchmark: str) -> bool:
    """Return whether one direction of a benchmark's scores is better: RankMe has none."""
    return benchmark == "position" or any(benchmark in names for names in tasks().values())


def tasks() -> dict[str, list[str]]:
    """Return the benchmarks with a main metric by what they judge. RankMe is no task, so it decides nothing."""
    tasks: dict[str, list[str]] = {"global features": [], "dense features": [], "views without labels": ["views"]}
    for name, *_ in COLUMNS:
        if "labels" in BY_NAME[name].needs:
            tasks["global features"].append(name)
        elif "masks" in BY_NAME[name].needs:
            tasks["dense features"].append(name)
    return tasks


def _standings(results: Mapping[str, Any], names: Sequence[str], models: Mapping[str, str]) -> list[Standing]:
    """Return the standing among `models` for each of the benchmarks that was measured."""
    found = []
    for benchmark in (BY_NAME[name] for name in names):
        split = deciding_split(results, benchmark.name)
        rows = [
            row
            for row in results.get("differences", [])
            if (row["benchmark"], row["split"], row["metric"]) == (benchmark.name, split, benchmark.metric)
            and row["against"] in models
        ]
        differences = {
            row["against"]: _improvement(
                Difference(row["value"], row["low"], row["high"], row["paired"]), benchmark.higher_is_better
            )
            for row in rows
        }
        if differences:
            found.append(_standing(benchmark, differences))
    return found


def _standing(benchmark: Benchmark, differences: Mapping[str, Difference]) -> Standing:
    ordered = sorted(differences.items(), key=lambda item: (item[1].value, item[0]))
    return Standing(
        benchmark,
        better={name: found for name, found in ordered if found.low > 0},
        worse={name: found for name, found in ordered if found.high < 0},
        open={name: found for name, found in ordered if found.low <= 0 <= found.high},
    )


def _improvement(difference: Difference, higher_is_better: bool) -> Difference:
    """Return a difference of which positive values are better."""
    if higher_is_better:
        return difference
    return Difference(-difference.value, -difference.high, -difference.low, difference.paired)


def _level_verdicts(evidence: Evidence) -> Iterator[Verdict]:
    """Yield a verdict for each benchmark with levels: does nesting gain anything over principal components?"""
    results = evidence.results
    for name in families(results):
        split = deciding_split(results, f"{name}_levels")
        assert split is not None  # families are of our model's rows
        levels = by_width(results, OURS, f"{name}_levels", split)
        whole, short = max(levels), sorted(levels)[:-1]
        if not short:
            continue
        title = BY_NAME[name].title if name in BY_NAME else name
        sentences = [_kept(levels, whole)]
        counts = {}
        for control, phrase in (("components", "principal components"), ("random_dims", "random dimensions")):
            differences = [_control_difference(evidence, name, control, split, width) for width in short]
            if known := [found for found in differences if found is not None]:
                counts[control] = [
                    sum(found.low > 0 for found in known),
                    sum(found.high < 0 for found in known),
                    len(known),
                ]
                sentences.append(_counted(phrase, *counts[control]))
        outcome: Outcome = "unknown"
        if "components" in counts:
            better, _, total = counts["components"]
            outcome = "good" if better == total else "mixed" if better else "bad"
            if not better:
                sentences.append(
                    "Nesting is not shown to gain anything here; principal components can be cut instead."
                )
        yield Verdict(f"nested widths ({title})", outcome, tuple(sentences))


def _kept(levels: Mapping[int, Mapping[str, Any]], whole: int) -> str:
    """Return how much of the full score the narrowest width keeps."""
    narrow = min(levels)
    part, full = levels[narrow]["value"], levels[whole]["value"]
    share = f", {100 * part / full:.0f} % of it" if full > 0 else ""
    return f"The first {narrow} of {whole} dimensions score {part:.1f} instead of {full:.1f}{share}."


def _counted(control: str, better: int, worse: int, total: int) -> str:
    if better == total:
        return f"The first D are better than D {control} at every width ({total})."
    rest = total - better - worse
    parts = [f"better at {better}"] * bool(better) + [f"worse at {worse}"] * bool(worse)
    parts += [f"not shown to differ at {rest}"] * bool(rest)
    return f"Of {total} widths, the first D are {_listed(parts)} compared with D {control}."


def _control_difference(evidence: Evidence, name: str, control: str, split: str, width: int) -> Difference | None:
    """Return the score on the first `width` dimensions minus that on a control of the same width."""
    benchmarks = (f"{name}_levels", f"{name}_{control}")
    rows = [by_width(evidence.results, OURS, benchmark, split).get(width) for benchmark in benchmarks]
    if rows[0] is None or rows[1] is None:
        return None
    metric = rows[0]["metric"]
    outcomes = [evidence.outcomes.get((OURS, benchmark, split, metric)) for benchmark in benchmarks]
    if outcomes[0] is not None and outcomes[1] is not None:
        suite = evidence.results["suite"]
        resampling = Resampling(SEED, suite["bootstrap_samples"], suite["confidence"])
        value = rows[0]["value"] - rows[1]["value"]
        if paired := paired_difference(value, metric, outcomes[0], outcomes[1], resampling):
            return paired
    first, second = ((row["value"], row["low"], row["high"]) for row in rows if row is not None)
    return independent_difference(first, second)


def _position_verdict(evidence: Evidence) -> Iterator[Verdict]:
    """Yield what patch features tell of the place of their patch, compared with the random twin."""
    split = deciding_split(evidence.results, "position")
    row = evidence.row(OURS, "position", split, "r2") if split else None
    if row is None:
        return
    word, outcome = next((word, outcome) for limit, word, outcome in READABLE if row["value"] < limit)
    sentences = [f"A patch's place can {word} be read from its feature (R2 {row['value']:.1f} %; less is better)."]
    for standing in _standings(evidence.results, ["position"], {RANDOM_INIT: BASELINES[RANDOM_INIT]}):
        sentences.append(standing.sentence)
    yield Verdict("position", outcome, tuple(sentences))


def _comparator_verdicts(results: Mapping[str, Any]) -> Iterator[Verdict]:
    """Yield where our model is better and worse than each comparator."""
    names = [name for task in tasks().values() for name in task]
    for model in dict.fromkeys(row["model"] for row in results["rows"] if row["model"] not in TITLES):
        standings = _standings(results, names, {model: model})
        better, worse, unknown = (
            [standing.benchmark.title for standing in standings if getattr(standing, kind)]
            for kind in ("better", "worse", "open")
        )
        parts = [f"better at {_listed(better)}"] * bool(better) + [f"worse at {_listed(worse)}"] * bool(worse)
        parts += [f"not shown to differ at {_listed(unknown)}"] * bool(unknown)
        if parts:
            outcome: Outcome = "mixed" if unknown or (better and worse) else "good" if better else "bad"
            yield Verdict(f"against {model}", outcome, (f"This model is {'; '.join(parts)}.",))


def _name(model: str) -> str:
    return BASELINES.get(model, model)


def _signed(difference: Difference, unit: str) -> str:
    return f"{difference.value:+.1f} {unit} [{difference.low:+.1f}, {difference.high:+.1f}]"


def _listed(words: Sequence[str], last: str = "and") -> str:
    """Return words with commas, and `last` before the last one."""
    return f"{', '.join(words[:-1])} {last} {words[-1]}" if len(words) > 1 else "".join(words)
