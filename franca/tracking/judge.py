"""The outcome of the gates for a model version. Nothing on the server is changed here."""

import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from franca.advice import USUAL
from franca.benchmarks import OURS
from franca.data.store.prepared import Store
from franca.errors import FrancaError
from franca.evaluation.comparison import Evidence
from franca.params import Gate, Params
from franca.paths import DATASETS, PREPARED
from franca.tracking import history
from franca.tracking.gates import NAMES, GateResult, check_gates, known_metrics, select_gates
from franca.tracking.history import Entry
from franca.tracking.registry import (
    CHAMPION,
    find_number,
    model_folder,
    read_evidence,
    run_of,
    version_number,
    version_with_alias,
)
from franca.tracking.score_check import check_scores

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities.model_registry import ModelVersion

REJECTED = "franca.rejected"
"""Tag of a version that a person rejected or rolled back: who, and why."""
Outcome = Literal["promote", "wait", "challenger", "worse", "barred", "champion"]
"""What becomes of a version.

promote: it passed all gates and becomes the champion.
wait: the same, but a person has to approve it.
challenger: it failed a gate.
worse: it is not shown to be better than its baselines.
barred: it was rejected, or was champion before; only a person can make it champion.
champion: it is the champion already.
"""


@dataclass(frozen=True)
class Decision:
    """The outcome of the gates for a version.

    Attributes:
        version: Number of the version.
        champion: Number of the version with the alias `champion`, if there is one.
        outcome: What becomes of the version.
        reason: The outcome in one sentence.
        results: The result of each gate.
        notes: Further sentences: gates that do not apply, advice.
        suite: Digest of the suite of the results that were compared.
        data: Digest of the data that they were measured on.
        scores: Score and interval of the version, and of the champion, for each metric of the gates.
    """

    version: str
    champion: str | None
    outcome: Outcome
    reason: str
    results: tuple[GateResult, ...] = ()
    notes: tuple[str, ...] = ()
    suite: str | None = None
    data: str | None = None
    scores: tuple[dict[str, Any], ...] = ()

    @property
    def sentences(self) -> list[str]:
        """The reason, the notes and a sentence for each gate."""
        return [self.reason, *self.notes, *(result.sentence for result in self.results)]

    @property
    def gates(self) -> list[dict[str, Any]]:
        """Metric, result and sentence of each gate."""
        names = ("metric", "passed", "sentence")
        return [{name: getattr(result, name) for name in names} for result in self.results]

    @property
    def worse_than(self) -> list[str]:
        """Baselines that the model is not shown to be better than."""
        return list(dict.fromkeys(result.worse_than for result in self.results if result.worse_than))


class Rival(NamedTuple):
    """The version that gates against `champion` compare with.

    Attributes:
        number: Number of the version.
        version: The version; None if it was deleted.
        run: MLflow run with its results.
        title: How sentences name it.
    """

    number: str
    version: "ModelVersion | None"
    run: str | None
    title: str


def evaluate_gates(
    client: "MlflowClient", params: Params, version: "ModelVersion", evidence: Evidence, advice: str = USUAL
) -> Decision:
    """Check the gates of a version against its baselines and the champion.

    If no version has the alias `champion`, the last one of the history is compared with.

    Args:
        client: The tracking server.
        params: Gates, model name, and the suite to measure models with whose results cannot be compared.
        version: The version to check.
        evidence: Its results.
        advice: A note for a model that is not better than its baselines.

    Raises:
        FrancaError: A gate names an unknown metric, a score is impossible, or models would have to be measured again
            and the data for it are missing.
    """
    name, number = params.register_.model_name, str(version.version)
    check_scores(evidence, f"results of version {number}")
    champion = version_with_alias(client, name, CHAMPION)
    current = version_number(champion)
    entries = history.read(client, name)
    gates, notes = select_gates(params.register_.gates, evidence)
    decision = Decision(number, current, "challenger", "", notes=tuple(notes))
    rival = _rival(client, name, champion, entries)
    if rival is not None and rival.number == number:
        rival = None
    needed = {gate.metric for gate in gates if gate.against == "champion"} & set(known_metrics(evidence))
    theirs = None
    gone = bool(
        rival and needed and rival.version is None and not _is_comparable(_stored(client, rival), evidence, needed)
    )
    if current == number or gone:
        gates = [gate for gate in gates if gate.against != "champion"]
    elif rival is not None and needed:
        evidence, theirs = _on_common_ground(client, params, version, evidence, rival, needed)
    decision = replace(
        decision,
        results=tuple(check_gates(gates, evidence, theirs, params.base.seed)),
        suite=history.suite_digest(evidence.results),
        data=evidence.results["data_digest"],
        scores=tuple(_scores(gates, evidence, theirs)),
    )
    if current == number:
        return replace(decision, outcome="champion", reason="it is the champion already")
    if bar := _bar(version, entries):
        return replace(decision, outcome="barred", reason=f"{bar}; {_by_a_person(number)}")
    if gone and rival and not decision.worse_than:
        reason = f"stays challenger: {rival.title} was deleted and cannot be measured on the same data"
        return replace(decision, reason=f"{reason}; {_by_a_person(number)}")
    return _outcome(decision, f"against {rival.title}" if rival else "with no champion yet", params, advice)


def decision_text(name: str, decision: Decision) -> str:
    """Return the decision as lines for the terminal, with pass or FAIL for each gate."""
    lines = [f"{name} version {decision.version}: {decision.reason}", *(f"  {note}" for note in decision.notes)]
    lines += [f"  {'pass' if result.passed else 'FAIL'}  {result.sentence}" for result in decision.results]
    return "\n".join(lines)


def _scores(gates: Sequence[Gate], ours: Evidence, theirs: Evidence | None) -> Iterator[dict[str, Any]]:
    for metric, gate in {gate.metric: gate for gate in gates}.items():
        measured = [found.on(gate.dataset) if found else None for found in (ours, theirs)]
        rows = [found.row(OURS, *gate.key) if found else None for found in measured]
        own, champion = ({key: row[key] for key in ("value", "low", "high")} if row else None for row in rows)
        yield {"metric": metric, "version": own, "champion": champion}


def _outcome(decision: Decision, against: str, params: Params, advice: str) -> Decision:
    """Return the decision with the outcome that its gates ask for."""
    if decision.worse_than:
        worse = " and ".join(NAMES[baseline] for baseline in decision.worse_than)
        metrics = ", ".join(dict.fromkeys(result.metric for result in decision.results if result.worse_than))
        reason = f"not shown to be better than {worse} ({metrics}), so it gets no alias"
        return replace(decision, outcome="worse", reason=reason, notes=(advice, *decision.notes))
    if failed := list(dict.fromkeys(result.metric for result in decision.results if not result.passed)):
        return replace(decision, reason=f"stays challenger: {', '.join(failed)} failed {against}")
    if params.register_.promotion == "manual":
        reason = f"waits for approval: all gates hold {against}; `franca approve {decision.version} --reason TEXT`"
        return replace(decision, outcome="wait", reason=f"{reason} or `franca reject` decides")
    return replace(decision, outcome="promote", reason=f"all gates hold {against}")


def _rival(
    client: "MlflowClient", name: str, champion: "ModelVersion | None", entries: Sequence[Entry]
) -> Rival | None:
    """Return the champion; without one, the last one of the history, as long as its results are known."""
    if champion is not None:
        return Rival(str(champion.version), champion, run_of(champion), f"champion version {champion.version}")
    last = history.last_champion(entries)
    if last is None or last.after is None:
        return None
    version = find_number(client, name, last.after)
    runs = [entry.run for entry in entries if entry.version == last.after and entry.run]
    run = run_of(version) if version else next(reversed(runs), None)
    return Rival(last.after, version, run, f"version {last.after}, the last champion (no version has the alias now)")


def _bar(version: "ModelVersion", entries: Sequence[Entry]) -> str | None:
    """Return why a version that passes its gates still does not become the champion; None if nothing is against it."""
    if rejected := version.tags.get(REJECTED):
        return f"rejected {rejected}"
    if str(version.version) in history.former_champions(entries):
        return "it was champion before and was replaced"
    return None


def _by_a_person(number: str) -> str:
    return f"`franca approve {number} --reason TEXT` makes it champion"


def _stored(client: "MlflowClient", rival: Rival) -> Evidence | None:
    """Return the results of the rival on the server; None if there are none, or impossible ones."""
    evidence = read_evidence(client, rival.run) if rival.run else None
    try:
        if evidence is not None:
            check_scores(evidence, f"results of {rival.title} on the tracking server")
    except FrancaError as error:
        print(f"not used: {error}", file=sys.stderr)
        return None
    return evidence


def _on_common_ground(
    client: "MlflowClient",
    params: Params,
    version: "ModelVersion",
    evidence: Evidence,
    rival: Rival,
    needed: set[str],
) -> tuple[Evidence, Evidence]:
    """Return results of a version and of its rival that are of the same data and suite and have all metrics `needed`.

    Results that cannot be compared are replaced by measuring the model on the data and with the suite of this project.

    Raises:
        FrancaError: There are no prepared data here.
    """
    theirs = _stored(client, rival)
    if theirs is not None and _is_comparable(theirs, evidence, needed):
        return evidence, theirs
    try:
        stores = {name: Store(PREPARED if name is None else DATASETS / name) for name in (None, *_datasets(needed))}
        digests = {name: store.digest for name, store in stores.items()}
    except (FrancaError, OSError) as error:
        raise FrancaError(
            f"{rival.title} has other data or another suite than version {version.version}, so one of them must be "
            f"measured again, which failed: {error}; run `dvc repro prepare` first"
        ) from None

    def is_of_here(found: Evidence | None) -> bool:
        parts = {name: found.on(name) for name in digests} if found else {None: None}
        return all(
            part is not None
            and (part.results.get("data_digest"), part.results.get("suite"))
            == (digests[name], params.evaluate.comparable)
            for name, part in parts.items()
        )

    if not is_of_here(evidence):
        evidence = _measure(client, version, stores, params, baselines=True)
    if theirs is None or not is_of_here(theirs) or not _is_comparable(theirs, evidence, needed):
        assert rival.version is not None
        theirs = _measure(client, rival.version, stores, params)
    return evidence, theirs


def _measure(
    client: "MlflowClient",
    version: "ModelVersion",
    stores: Mapping[str | None, Store],
    params: Params,
    baselines: bool = False,
) -> Evidence:
    """Measure a version on the store of the training source (key None) and on those of further data sets."""
    from franca.evaluation.suite import evaluate_model

    # Not to stdout, which is for the decision, as JSON for scripts.
    print(f"measuring version {version.version} on the current data and suite", file=sys.stderr)
    with model_folder(client, f"models:/{version.name}/{version.version}") as folder:
        found = {name: evaluate_model(folder, store, params, baselines=baselines) for name, store in stores.items()}
    datasets = {name: evidence for name, evidence in found.items() if name is not None}
    return replace(found[None], datasets=datasets)


def _is_comparable(one: Evidence | None, other: Evidence, needed: set[str]) -> bool:
    """Return whether results are of the same data and suite as `other` and have the metrics `needed`."""
    if one is None or not needed <= set(known_metrics(one)):
        return False
    pairs = [(one.on(name), other.on(name)) for name in (None, *_datasets(needed))]
    return all(
        mine is not None and its is not None and mine.results.get(key) == its.results[key]
        for mine, its in pairs
        for key in ("data_digest", "suite")
    )


def _datasets(metrics: Iterable[str]) -> list[str]:
    """Return the data sets of evaluation that metrics in the form of gates are of."""
    return sorted({metric.partition("/")[0] for metric in metrics if metric.count("/") == 3})
