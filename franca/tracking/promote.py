"""`franca promote`: make the challenger the champion if it passes its gates."""

import json
from typing import TYPE_CHECKING, Any

from franca.advice import USUAL
from franca.errors import ApprovalNeeded, FrancaError, GatesFailed
from franca.evaluation.comparison import Evidence
from franca.params import Params
from franca.tracking.client import connect, server_errors
from franca.tracking.judge import Decision, decision_text, evaluate_gates
from franca.tracking.ledger import record
from franca.tracking.links import links, pictures, public_uri
from franca.tracking.registry import (
    CHALLENGER,
    CHAMPION,
    read_evidence,
    run_of,
    version_number,
    version_with_alias,
)

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities.model_registry import ModelVersion


def run(params: Params, apply: bool, as_json: bool = False) -> None:
    """Check the gates of the challenger and print the results; with `apply`, make it champion if all pass.

    Raises:
        GatesFailed: A gate failed, or the version may only be made champion by a person.
        ApprovalNeeded: All gates pass, and `register.promotion` is `manual`.
    """
    name = params.register_.model_name
    client = connect()
    with server_errors():
        challenger = version_with_alias(client, name, CHALLENGER)
        if challenger is None:
            champion = version_number(version_with_alias(client, name, CHAMPION))
            _print_nothing(name, champion, as_json)
            return
        number = str(challenger.version)
        evidence = read_evidence(client, run_of(challenger))
        if evidence is None:
            raise FrancaError(f"{name} version {number} has no results on the tracking server; run `franca register`")
        check = apply_gates if apply else evaluate_gates
        decision = check(client, params, challenger, evidence)
        pages = _pages(client, challenger) if as_json else {}
    if as_json:
        print(json.dumps(summary(name, decision, apply) | {"links": pages}))
    else:
        print(decision_text(name, decision))
        if decision.outcome == "promote":
            print(f"champion {decision.champion or 'none'} -> {number}" if apply else _dry_run(decision))
    if decision.outcome == "wait":
        raise ApprovalNeeded(f"{name} version {number} {decision.reason}")
    if decision.outcome not in ("promote", "champion"):
        raise GatesFailed(f"{name} version {number}: {decision.reason}")


def apply_gates(
    client: "MlflowClient", params: Params, version: "ModelVersion", evidence: Evidence, advice: str = USUAL
) -> Decision:
    """Check the gates of a version, make it champion if all pass, and record the decision.

    Takes the arguments of `evaluate_gates`. Checking may take minutes if a model has to be measured, so the model is
    locked for the write only. If champion or version have changed in the meantime, the gates are checked again.
    """
    name = params.register_.model_name
    while True:
        decision = evaluate_gates(client, params, version, evidence, advice)
        if record(client, name, decision):
            return decision
        version = client.get_model_version(name, str(version.version))


def summary(name: str, decision: Decision, applied: bool) -> dict[str, Any]:
    """Return a decision as the object that `--json` prints."""
    promoted = decision.outcome == "promote" and applied
    return {
        "model": name,
        "version": decision.version,
        "outcome": decision.outcome,
        "promoted": promoted,
        "from": decision.champion,
        "to": decision.version if promoted else decision.champion,
        "reason": decision.reason,
        "notes": list(decision.notes),
        "gates": decision.gates,
        "scores": list(decision.scores),
        "suite": decision.suite,
        "data": decision.data,
    }


def _pages(client: "MlflowClient", version: "ModelVersion") -> dict[str, str]:
    uri, run_id = public_uri(), run_of(version)
    experiment = str(client.get_run(run_id).info.experiment_id)
    found = links(uri, experiment, run_id, version.name, str(version.version))
    return found | {"pictures": pictures(uri, experiment, run_id)} if found else {}


def _print_nothing(name: str, champion: str | None, as_json: bool) -> None:
    current = f"champion is version {champion}" if champion else "it has no champion either"
    reason = f"no version has the alias '{CHALLENGER}', so there is nothing to promote; {current}"
    if as_json:
        about = {"model": name, "version": None, "outcome": "nothing", "promoted": False}
        print(json.dumps(about | {"from": champion, "to": champion, "reason": reason}))
    else:
        print(f"{name}: {reason}")


def _dry_run(decision: Decision) -> str:
    move = f"{decision.champion or 'none'} -> {decision.version}"
    return f"dry run: nothing was changed; `franca promote --apply` moves the champion {move}"
