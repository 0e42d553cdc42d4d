"""Move the champion alias to a challenger that passes its gates, on the same data and suite, one writer at a time."""

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from franca.advice import USUAL
from franca.data.store.prepared import Store
from franca.errors import FrancaError
from franca.evaluation.comparison import Evidence
from franca.params import Params
from franca.paths import PREPARED
from franca.tracking.claim import claim
from franca.tracking.client import connect, server_faults
from franca.tracking.gates import NAMES, Verdict, choose, judge, known_metrics
from franca.tracking.registry import CHALLENGER, CHAMPION, evidence_of, model_folder, version_with_alias

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities.model_registry import ModelVersion

DECISION = "franca.decision"
WORSE_THAN = "franca.worse_than"
"""Tag of a version that is not better than its baselines: which ones."""
DESCRIPTION_LIMIT = 5000
"""Characters that MLflow's database holds."""


@dataclass(frozen=True)
class Decision:
    """What was decided about a version, against which champion (a version, or None), and why."""

    version: str
    champion: str | None
    promote: bool
    reason: str
    verdicts: tuple[Verdict, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def sentences(self) -> list[str]:
        return [self.reason, *self.notes, *(verdict.sentence for verdict in self.verdicts)]

    @property
    def worse_than(self) -> list[str]:
        """Baselines that the model is not better than."""
        return list(dict.fromkeys(verdict.worse_than for verdict in self.verdicts if verdict.worse_than))


def run(params: Params, apply: bool) -> None:
    """Judge the challenger by the gates, print the verdicts and, with `apply`, make it champion where all hold."""
    name = params.register_.model_name
    client = connect()
    with server_faults():
        challenger = version_with_alias(client, name, CHALLENGER)
        if challenger is None:
            champion = version_with_alias(client, name, CHAMPION)
            standing = f"champion is version {champion.version}" if champion else "it has no champion either"
            print(f"{name}: no version has the alias '{CHALLENGER}', so there is nothing to promote; {standing}")
            return
        evidence = evidence_of(client, challenger)
        if evidence is None:
            raise FrancaError(
                f"{name} version {challenger.version} has no results on the tracking server; run `franca register`"
            )
        decide = settle if apply else assess
        decision = decide(client, params, challenger, evidence)
        print(table(name, decision))
        if decision.promote and not apply:
            print("dry run: nothing was changed; `franca promote --apply` moves the alias")


def assess(
    client: "MlflowClient", params: Params, version: "ModelVersion", evidence: Evidence, advice: str = USUAL
) -> Decision:
    """Judge `version`, measured in `evidence`, against its baselines and the present champion; changes nothing.

    `advice` is what to say of a model that is not better than its baselines.
    """
    name = params.register_.model_name
    champion = version_with_alias(client, name, CHAMPION)
    gates, notes = choose(params.register_.gates, evidence.results.get("skipped", {}))
    if champion is not None and champion.version == version.version:
        own = [gate for gate in gates if gate.against != "champion"]
        verdicts = judge(own, evidence, None, params.base.seed)
        number = str(version.version)
        return Decision(number, number, False, "it is the champion already", tuple(verdicts), tuple(notes))
    needed = {gate.metric for gate in gates if gate.against == "champion"} & set(known_metrics(evidence))
    theirs = champion_evidence(client, champion, evidence, needed, params) if champion and needed else None
    verdicts = judge(gates, evidence, theirs, params.base.seed)
    decision = Decision(
        str(version.version), str(champion.version) if champion else None, False, "", tuple(verdicts), tuple(notes)
    )
    failed = list(dict.fromkeys(verdict.metric for verdict in verdicts if not verdict.holds))
    against = f"against champion version {champion.version}" if champion else "with no champion yet"
    if decision.worse_than:
        worse = " and ".join(NAMES[baseline] for baseline in decision.worse_than)
        metrics = ", ".join(dict.fromkeys(verdict.metric for verdict in verdicts if verdict.worse_than))
        reason = f"not shown to be better than {worse} ({metrics}), so it gets no alias"
        return replace(decision, reason=reason, notes=(advice, *notes))
    if failed:
        return replace(decision, reason=f"stays challenger: {', '.join(failed)} failed {against}")
    return replace(decision, reason=f"all gates hold {against}", promote=True)


def settle(
    client: "MlflowClient", params: Params, version: "ModelVersion", evidence: Evidence, advice: str = USUAL
) -> Decision:
    """Judge `version` and make it champion if the gates hold; its tags, description and aliases say how it ended.

    Judging may take minutes, and the claim is held for the write alone. If the champion changed in between, the
    version is judged again, against the new one.
    """
    name = params.register_.model_name
    while True:
        decision = assess(client, params, version, evidence, advice)
        if not decision.promote or _crown(client, name, decision):
            break
    _tell(client, name, version, decision)
    return decision


def champion_evidence(
    client: "MlflowClient", champion: "ModelVersion", reference: Evidence, needed: set[str], params: Params
) -> Evidence:
    """Return what was measured of the champion on the data and by the suite of `reference`.

    If its own results are of other data or another suite, or lack one of the metrics `needed`, it is measured anew.
    """
    own = evidence_of(client, champion)
    if own is not None and comparable(own.results, reference.results) and needed <= set(known_metrics(own)):
        return own
    store = Store(PREPARED)
    suite = params.evaluate.suite
    if store.digest != reference.results["data_digest"] or suite != reference.results["suite"]:
        raise FrancaError(
            f"{PREPARED} and params.evaluate are not what the challenger was measured with, so the champion cannot "
            f"be measured beside it; run `dvc repro evaluate register` first"
        )
    from franca.evaluation.suite import evaluate_model

    print(f"measuring champion version {champion.version} on the present data and suite")
    with model_folder(f"models:/{champion.name}/{champion.version}") as folder:
        return evaluate_model(folder, store, params)


def comparable(one: dict[str, Any], other: dict[str, Any]) -> bool:
    return (one.get("data_digest"), one.get("suite")) == (other["data_digest"], other["suite"])


def table(name: str, decision: Decision) -> str:
    lines = [f"{name} version {decision.version}: {decision.reason}", *(f"  {note}" for note in decision.notes)]
    lines += [f"  {'pass' if verdict.holds else 'FAIL'}  {verdict.sentence}" for verdict in decision.verdicts]
    return "\n".join(lines)


def _tell(client: "MlflowClient", name: str, version: "ModelVersion", decision: Decision) -> None:
    """Write the decision on the version's page; a description that a person wrote is kept."""
    number, said = str(version.version), "\n".join(decision.sentences)
    present = client.get_model_version(name, number)
    if (present.description or "") in ("", present.tags.get(DECISION, "")[:DESCRIPTION_LIMIT]):
        client.update_model_version(name, number, said[:DESCRIPTION_LIMIT])
    client.set_model_version_tag(name, number, DECISION, said)
    if decision.worse_than:
        client.set_model_version_tag(name, number, WORSE_THAN, ", ".join(decision.worse_than))
        challenger = version_with_alias(client, name, CHALLENGER)
        if challenger is not None and str(challenger.version) == number:
            client.delete_registered_model_alias(name, CHALLENGER)
    elif WORSE_THAN in present.tags:
        client.delete_model_version_tag(name, number, WORSE_THAN)


def _crown(client: "MlflowClient", name: str, decision: Decision) -> bool:
    """Move the alias unless the champion is no longer the one that was judged against."""
    with claim(client, name) as ours:
        champion = version_with_alias(client, name, CHAMPION)
        if (str(champion.version) if champion else None) != decision.champion or not ours():
            return False
        client.set_registered_model_alias(name, CHAMPION, decision.version)
        challenger = version_with_alias(client, name, CHALLENGER)
        # An older challenger has been overtaken.
        if challenger is not None and int(challenger.version) <= int(decision.version):
            client.delete_registered_model_alias(name, CHALLENGER)
        return True
