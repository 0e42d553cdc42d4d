"""Move the champion alias to a challenger that passes its gates, on the same data and suite, one writer at a time."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from franca.data.store import Store
from franca.errors import FrancaError
from franca.params import Params
from franca.paths import PREPARED
from franca.tracking.claim import claim
from franca.tracking.client import connect, server_faults
from franca.tracking.gates import Verdict, judge, scores, unmeasured
from franca.tracking.registry import CHALLENGER, CHAMPION, model_folder, results_of, version_with_alias

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities.model_registry import ModelVersion

DECISION = "franca.decision"


@dataclass(frozen=True)
class Decision:
    """What was decided about a version, against which champion (a version, or None), and why."""

    version: str
    champion: str | None
    promote: bool
    reason: str
    verdicts: tuple[Verdict, ...] = ()

    @property
    def sentences(self) -> list[str]:
        return [self.reason, *(verdict.sentence for verdict in self.verdicts)]


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
        results = results_of(client, challenger)
        if results is None:
            raise FrancaError(
                f"{name} version {challenger.version} has no results on the tracking server; run `franca register`"
            )
        decide = settle if apply else assess
        decision = decide(client, params, challenger, results)
        print(table(name, decision))
        if decision.promote and not apply:
            print("dry run: nothing was changed; `franca promote --apply` moves the alias")


def assess(client: "MlflowClient", params: Params, version: "ModelVersion", results: dict[str, Any]) -> Decision:
    """Judge `version`, measured in `results`, against the present champion; changes nothing."""
    name = params.register_.model_name
    champion = version_with_alias(client, name, CHAMPION)
    if champion is not None and champion.version == version.version:
        return Decision(str(version.version), str(champion.version), False, "it is the champion already")
    theirs = champion_results(client, champion, results, params) if champion else None
    verdicts = unmeasured(params.register_.gates, results.get("skipped", {}))
    missing = {verdict.metric for verdict in verdicts}
    gates = [gate for gate in params.register_.gates if gate.metric not in missing]
    verdicts += judge(gates, scores(results), scores(theirs) if theirs else None)
    failed = [verdict.metric for verdict in verdicts if not verdict.holds]
    against = f"against champion version {champion.version}" if champion else "with no champion yet"
    reason = f"stays challenger: {', '.join(failed)} failed {against}" if failed else f"all gates hold {against}"
    return Decision(
        str(version.version), str(champion.version) if champion else None, not failed, reason, tuple(verdicts)
    )


def settle(client: "MlflowClient", params: Params, version: "ModelVersion", results: dict[str, Any]) -> Decision:
    """Judge `version` and make it champion where the gates hold; its tags and aliases say how it ended.

    Judging may take minutes, the claim is held for the write alone: where the champion changed in between, the
    version is judged again, against the new one.
    """
    name = params.register_.model_name
    while True:
        decision = assess(client, params, version, results)
        if not decision.promote or _crown(client, name, decision):
            break
    client.set_model_version_tag(name, version.version, DECISION, "\n".join(decision.sentences))
    return decision


def champion_results(
    client: "MlflowClient", champion: "ModelVersion", reference: dict[str, Any], params: Params
) -> dict[str, Any]:
    """The champion's results on the data and by the suite of `reference`, measured anew where its own are others."""
    own = results_of(client, champion)
    if own is not None and comparable(own, reference):
        return own
    store = Store(PREPARED)
    suite = params.evaluate.suite
    if store.digest != reference["data_digest"] or suite != reference["suite"]:
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
    lines = [f"{name} version {decision.version}: {decision.reason}"]
    lines += [f"  {'pass' if verdict.holds else 'FAIL'}  {verdict.sentence}" for verdict in decision.verdicts]
    return "\n".join(lines)


def _crown(client: "MlflowClient", name: str, decision: Decision) -> bool:
    """Move the alias unless the champion is no longer the one that was judged against."""
    with claim(client, name) as ours:
        champion = version_with_alias(client, name, CHAMPION)
        if (str(champion.version) if champion else None) != decision.champion or not ours():
            return False
        client.set_registered_model_alias(name, CHAMPION, decision.version)
        challenger = version_with_alias(client, name, CHALLENGER)
        if challenger is not None and str(challenger.version) == decision.version:
            client.delete_registered_model_alias(name, CHALLENGER)
        return True
