"""Promotion: move the champion alias to a model version that passes its gates."""

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from franca.advice import USUAL
from franca.data.store.prepared import Store
from franca.errors import FrancaError
from franca.evaluation.comparison import Evidence
from franca.params import Params
from franca.paths import PREPARED
from franca.tracking.client import connect, server_errors
from franca.tracking.gates import NAMES, GateResult, check_gates, known_metrics, select_gates
from franca.tracking.model_lock import lock_model
from franca.tracking.registry import CHALLENGER, CHAMPION, model_folder, read_evidence, version_with_alias

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities.model_registry import ModelVersion

DECISION = "franca.decision"
WORSE_THAN = "franca.worse_than"
"""Tag of a version that is not better than its baselines; its value names them."""
MAX_DESCRIPTION = 5000
"""Longest description that MLflow's database stores, in characters."""


@dataclass(frozen=True)
class Decision:
    """The outcome of the gates for a version.

    Attributes:
        version: Number of the version.
        champion: Number of the champion's version that it was compared with, if there is one.
        promote: Whether it passed all gates and is to become the champion.
        reason: The outcome in one sentence.
        results: The result of each gate.
        notes: Further sentences: gates that do not apply, advice.
    """

    version: str
    champion: str | None
    promote: bool
    reason: str
    results: tuple[GateResult, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def sentences(self) -> list[str]:
        """The reason, the notes and a sentence for each gate."""
        return [self.reason, *self.notes, *(result.sentence for result in self.results)]

    @property
    def worse_than(self) -> list[str]:
        """Baselines that the model is not shown to be better than."""
        return list(dict.fromkeys(result.worse_than for result in self.results if result.worse_than))


def run(params: Params, apply: bool) -> None:
    """Check the gates of the challenger and print the results; with `apply`, make it champion if all pass."""
    name = params.register_.model_name
    client = connect()
    with server_errors():
        challenger = version_with_alias(client, name, CHALLENGER)
        if challenger is None:
            champion = version_with_alias(client, name, CHAMPION)
            current = f"champion is version {champion.version}" if champion else "it has no champion either"
            print(f"{name}: no version has the alias '{CHALLENGER}', so there is nothing to promote; {current}")
            return
        evidence = read_evidence(client, challenger)
        if evidence is None:
            raise FrancaError(
                f"{name} version {challenger.version} has no results on the tracking server; run `franca register`"
            )
        check = apply_gates if apply else evaluate_gates
        decision = check(client, params, challenger, evidence)
        print(decision_text(name, decision))
        if decision.promote and not apply:
            print("dry run: nothing was changed; `franca promote --apply` moves the alias")


def evaluate_gates(
    client: "MlflowClient", params: Params, version: "ModelVersion", evidence: Evidence, advice: str = USUAL
) -> Decision:
    """Check the gates of a version against its baselines and the current champion; change nothing.

    Args:
        client: The tracking server.
        params: Gates, model name, and the suite to measure a champion with whose results are of other data.
        version: The version to check.
        evidence: Its results.
        advice: A note for a model that is not better than its baselines.

    Raises:
        FrancaError: A gate names an unknown metric, or the champion would have to be measured on other data.
    """
    name = params.register_.model_name
    champion = version_with_alias(client, name, CHAMPION)
    gates, notes = select_gates(params.register_.gates, evidence.results.get("skipped", {}))
    if champion is not None and champion.version == version.version:
        own = [gate for gate in gates if gate.against != "champion"]
        results = check_gates(own, evidence, None, params.base.seed)
        number = str(version.version)
        return Decision(number, number, False, "it is the champion already", tuple(results), tuple(notes))
    needed = {gate.metric for gate in gates if gate.against == "champion"} & set(known_metrics(evidence))
    theirs = champion_evidence(client, champion, evidence, needed, params) if champion and needed else None
    results = check_gates(gates, evidence, theirs, params.base.seed)
    decision = Decision(
        str(version.version), str(champion.version) if champion else None, False, "", tuple(results), tuple(notes)
    )
    failed = list(dict.fromkeys(result.metric for result in results if not result.passed))
    against = f"against champion version {champion.version}" if champion else "with no champion yet"
    if decision.worse_than:
        worse = " and ".join(NAMES[baseline] for baseline in decision.worse_than)
        metrics = ", ".join(dict.fromkeys(result.metric for result in results if result.worse_than))
        reason = f"not shown to be better than {worse} ({metrics}), so it gets no alias"
        return replace(decision, reason=reason, notes=(advice, *notes))
    if failed:
        return replace(decision, reason=f"stays challenger: {', '.join(failed)} failed {against}")
    return replace(decision, reason=f"all gates hold {against}", promote=True)


def apply_gates(
    client: "MlflowClient", params: Params, version: "ModelVersion", evidence: Evidence, advice: str = USUAL
) -> Decision:
    """Check the gates of a version and make it champion if all pass; record the decision in its tags and description.

    Takes the arguments of `evaluate_gates`. Checking may take minutes if the champion has to be measured, so the model
    is locked for the write only. If the champion has changed in the meantime, the gates are checked again, against the
    new champion.
    """
    name = params.register_.model_name
    while True:
        decision = evaluate_gates(client, params, version, evidence, advice)
        if not decision.promote or _move_alias(client, name, decision):
            break
    _record_decision(client, name, version, decision)
    return decision


def champion_evidence(
    client: "MlflowClient", champion: "ModelVersion", reference: Evidence, needed: set[str], params: Params
) -> Evidence:
    """Return results of the champion on the data and with the suite of `reference`.

    If its stored results are of other data or another suite, or lack one of the metrics `needed`, the champion is
    downloaded and measured.

    Raises:
        FrancaError: It has to be measured, but the prepared data or the suite in `params` differ from `reference`.
    """
    own = read_evidence(client, champion)
    if own is not None and is_comparable(own.results, reference.results) and needed <= set(known_metrics(own)):
        return own
    store = Store(PREPARED)
    suite = params.evaluate.suite
    if store.digest != reference.results["data_digest"] or suite != reference.results["suite"]:
        raise FrancaError(
            f"{PREPARED} and params.evaluate are not what the challenger was measured with, so the champion cannot "
            f"be measured on the same data; run `dvc repro evaluate register` first"
        )
    from franca.evaluation.suite import evaluate_model

    print(f"measuring champion version {champion.version} on the current data and suite")
    with model_folder(f"models:/{champion.name}/{champion.version}") as folder:
        return evaluate_model(folder, store, params)


def is_comparable(one: dict[str, Any], other: dict[str, Any]) -> bool:
    """Return whether two `results.json` are of the same data and the same suite."""
    return (one.get("data_digest"), one.get("suite")) == (other["data_digest"], other["suite"])


def decision_text(name: str, decision: Decision) -> str:
    """Return the decision as lines for the terminal, with pass or FAIL for each gate."""
    lines = [f"{name} version {decision.version}: {decision.reason}", *(f"  {note}" for note in decision.notes)]
    lines += [f"  {'pass' if result.passed else 'FAIL'}  {result.sentence}" for result in decision.results]
    return "\n".join(lines)


def _record_decision(client: "MlflowClient", name: str, version: "ModelVersion", decision: Decision) -> None:
    """Write the decision to description and tags of the version; keep a description that a person wrote."""
    number, text = str(version.version), "\n".join(decision.sentences)
    current = client.get_model_version(name, number)
    if (current.description or "") in ("", current.tags.get(DECISION, "")[:MAX_DESCRIPTION]):
        client.update_model_version(name, number, text[:MAX_DESCRIPTION])
    client.set_model_version_tag(name, number, DECISION, text)
    if decision.worse_than:
        client.set_model_version_tag(name, number, WORSE_THAN, ", ".join(decision.worse_than))
        challenger = version_with_alias(client, name, CHALLENGER)
        if challenger is not None and str(challenger.version) == number:
            client.delete_registered_model_alias(name, CHALLENGER)
    elif WORSE_THAN in current.tags:
        client.delete_model_version_tag(name, number, WORSE_THAN)


def _move_alias(client: "MlflowClient", name: str, decision: Decision) -> bool:
    """Move the champion alias; return False if the champion is no longer the one of the decision."""
    with lock_model(client, name) as still_held:
        champion = version_with_alias(client, name, CHAMPION)
        if (str(champion.version) if champion else None) != decision.champion or not still_held():
            return False
        client.set_registered_model_alias(name, CHAMPION, decision.version)
        challenger = version_with_alias(client, name, CHALLENGER)
        # A challenger that is not newer than the champion is obsolete.
        if challenger is not None and int(challenger.version) <= int(decision.version):
            client.delete_registered_model_alias(name, CHALLENGER)
        return True
