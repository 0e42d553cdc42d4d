"""The register stage: complete the MLflow run from files, register the model once, let the gates decide."""

import hashlib
import json
from typing import TYPE_CHECKING, Any

from franca.advice import causes
from franca.data.store.prepared import read_channels
from franca.evaluation.comparison import Evidence
from franca.evaluation.outcomes import FILE, read_outcomes
from franca.files import write_json
from franca.params import Params
from franca.paths import MODEL, RESULTS
from franca.tracking.client import connect, experiment_id, redacted, server_faults, tracking_uri
from franca.tracking.fill import fill_run, log_scores
from franca.tracking.promote import DECISION, settle
from franca.tracking.record import Record, read_record
from franca.tracking.registry import CHALLENGER, CHAMPION, ensure_version, model_id
from franca.tracking.runs import pipeline_run

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities.model_registry import ModelVersion

RECEIPT = RESULTS / "register/receipt.json"
JUDGED = "franca.judged"
FILLED = "franca.filled"


def run(params: Params) -> None:
    """Make the tracking server hold what the files say, and write the receipt.

    Running it again adds nothing that is there already, and does not judge again what the same gates have judged
    on the same results: from then on `franca promote` and people move the aliases.
    """
    record = read_record(params)
    name = params.register_.model_name
    client = connect()
    with server_faults():
        experiment = experiment_id(client, params.register_.experiment)
        run = pipeline_run(client, experiment, record.fingerprint, record.pipeline)
        filled = run.info.status == "FINISHED" and run.data.tags.get(FILLED) == record.pipeline
        if not filled:
            run = fill_run(client, run, record)
        version = ensure_version(client, name, run, MODEL, record.digest)
        log_scores(client, run, client.get_logged_model(model_id(version)), record)
        if not filled:
            client.set_tag(run.info.run_id, FILLED, record.pipeline)
            client.set_terminated(run.info.run_id)
        reasons = _decide(client, params, record, version)
        version = client.get_model_version(name, str(version.version))
    receipt = {
        "tracking_uri": redacted(tracking_uri()),
        "experiment_id": experiment,
        "run_id": run.info.run_id,
        "model": name,
        "version": str(version.version),
        "aliases": sorted(version.aliases),
        "model_id": model_id(version),
        "digest": record.digest,
        "data_digest": record.results["data_digest"],
        "fingerprint": record.fingerprint,
        "decision": reasons,
        "links": links(redacted(tracking_uri()), experiment, run.info.run_id, name, str(version.version)),
    }
    write_json(RECEIPT, receipt)
    print(summary(receipt))


def links(uri: str, experiment: str, run_id: str, name: str, version: str) -> dict[str, str]:
    """Pages of the run and of the version in MLflow's UI; none without a server."""
    if not uri.startswith("http"):
        return {}
    mode = "workflowType=machine_learning"
    return {
        "run": f"{uri}/#/experiments/{experiment}/runs/{run_id}?{mode}",
        "version": f"{uri}/#/models/{name}/versions/{version}?{mode}",
    }


def summary(receipt: dict[str, Any]) -> str:
    alias = ", ".join(receipt["aliases"]) or "no alias"
    lines = [f"{receipt['model']} version {receipt['version']} ({alias}) on {receipt['tracking_uri']}"]
    lines += [f"  {sentence}" for sentence in receipt["decision"]]
    lines += [f"  {what}: {link}" for what, link in receipt["links"].items()]
    if not receipt["links"]:
        lines.append(f"  to look at it: mlflow ui --backend-store-uri {receipt['tracking_uri']}")
    return "\n".join(lines)


def _decide(client: "MlflowClient", params: Params, record: Record, version: "ModelVersion") -> list[str]:
    """Let the gates judge the version once; return the sentences of the decision, made now or before."""
    name, number = params.register_.model_name, str(version.version)
    gates = [gate.model_dump() for gate in params.register_.gates]
    question = hashlib.sha256(json.dumps([gates, record.results], sort_keys=True).encode()).hexdigest()[:16]
    known = client.get_model_version(name, number)
    if known.tags.get(JUDGED) == question and DECISION in known.tags:
        sentences = str(known.tags[DECISION]).splitlines()
        if CHAMPION in known.aliases and not sentences[0].startswith(("all gates hold", "it is the champion")):
            return ["it is the champion, by an alias that was set by hand", f"the gates had said: {sentences[0]}"]
        return sentences
    evidence = Evidence(record.results, read_outcomes(RESULTS / "evaluate" / FILE, record.digest))
    decision = settle(client, params, version, evidence, _advice(params, record))
    if decision.champion != number and not decision.promote and not decision.worse_than:
        client.set_registered_model_alias(name, CHALLENGER, number)
    client.set_model_version_tag(name, number, JUDGED, question)
    return decision.sentences


def _advice(params: Params, record: Record) -> str:
    """What this run has that usually keeps a model from being better than its baselines."""
    steps = int(record.metrics.get("pretrain/steps", 0))
    images = record.manifest.get("counts", {}).get("train", {}).get("images", 0)
    return causes(params, steps, images, read_channels(record.manifest))
