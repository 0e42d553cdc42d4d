"""Registration: complete the MLflow run from files, register the model, and check its gates."""

import hashlib
import json
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from franca.advice import causes
from franca.data.store.prepared import read_channels
from franca.evaluation.comparison import Evidence
from franca.evaluation.outcomes import FILE, read_outcomes
from franca.files import write_json
from franca.params import Params
from franca.paths import MODEL, RESULTS
from franca.tracking import history
from franca.tracking.client import connect, experiment_id, redacted, server_errors, tracking_uri
from franca.tracking.decision_text import DECISION, WRITTEN
from franca.tracking.links import links, public_uri
from franca.tracking.log_run import FILLED, finish_run, log_run, log_scores
from franca.tracking.promote import apply_gates
from franca.tracking.registry import CHAMPION, ensure_version, model_id
from franca.tracking.run_content import RunContent, read_run_content
from franca.tracking.runs import pipeline_run
from franca.tracking.score_check import check_scores
from franca.tracking.unchanged import RECEIPT, input_digest, read_server_state
from franca.tracking.version_card import describe_version

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities.model_registry import ModelVersion

JUDGED = "franca.judged"
"""Tag of a version: digest of the gates and results that its decision was made from."""


def register(params: Params) -> dict[str, Any]:
    """Bring the tracking server up to date with the project's files; return the receipt, which is written as well.

    This is idempotent. It sends only what the server does not have, and checks the same gates on the same results
    once: afterwards aliases are moved by `franca promote` or by hand.
    """
    content = read_run_content(params)
    evidence = _evidence(content)
    check_scores(evidence, str(RESULTS / "evaluate/results.json"))
    name = params.register_.model_name
    client = connect()
    with server_errors():
        experiment = experiment_id(client, params.register_.experiment, "register.experiment")
        run = pipeline_run(client, experiment, content.fingerprint, content.pipeline)
        complete = run.info.status == "FINISHED" and run.data.tags.get(FILLED) == content.pipeline
        if not complete:
            run = log_run(client, run, content)
        version = ensure_version(client, name, run, MODEL, content.digest)
        log_scores(client, run, client.get_logged_model(model_id(version)), content)
        if not complete:
            finish_run(client, run, content, params, str(version.version))
            run = client.get_run(run.info.run_id)
        if not complete or WRITTEN not in version.tags:
            describe_version(client, version, run, content, MODEL)
        reasons = _decide(client, params, content, evidence, version)
        version = client.get_model_version(name, str(version.version))
    receipt: dict[str, Any] = {
        "tracking_uri": redacted(tracking_uri()),
        "experiment_id": experiment,
        "run_id": run.info.run_id,
        "model": name,
        "version": str(version.version),
        "aliases": sorted(version.aliases),
        "model_id": model_id(version),
        "digest": content.digest,
        "data_digest": content.results["data_digest"],
        "fingerprint": content.fingerprint,
        "decision": reasons,
        "links": links(public_uri(), experiment, run.info.run_id, name, str(version.version)),
    }
    receipt |= {"inputs": input_digest(params), "server": read_server_state(receipt)}
    write_json(RECEIPT, receipt)
    return receipt


def _evidence(content: RunContent) -> Evidence:
    """Return the results on the training source and on further data sets, with what each image adds to them."""

    def read(results: dict[str, Any], folder: str) -> Evidence:
        return Evidence(results, read_outcomes(RESULTS / folder / FILE, content.digest))

    own = read(content.results, "evaluate")
    return replace(
        own, datasets={name: read(found, f"datasets/{name}") for name, found in content.on_datasets.items()}
    )


def _decide(
    client: "MlflowClient", params: Params, content: RunContent, evidence: Evidence, version: "ModelVersion"
) -> list[str]:
    """Check the gates of the version unless that was done before; return the sentences of the decision."""
    name, number = params.register_.model_name, str(version.version)
    gates = [gate.model_dump() for gate in params.register_.gates]
    asked = [gates, params.register_.promotion, content.results]
    if content.on_datasets:
        asked.append(content.on_datasets)
    judged = hashlib.sha256(json.dumps(asked, sort_keys=True).encode()).hexdigest()[:16]
    known = client.get_model_version(name, number)
    if known.tags.get(JUDGED) == judged and DECISION in known.tags:
        sentences = str(known.tags[DECISION]).splitlines()
        if CHAMPION in known.aliases and not _is_known(history.read(client, name), number):
            return ["it is the champion, by an alias that was set by hand", f"the gates had said: {sentences[0]}"]
        return sentences
    decision = apply_gates(client, params, version, evidence, _advice(params, content))
    client.set_model_version_tag(name, number, JUDGED, judged)
    return decision.sentences


def _is_known(entries: list[history.Entry], champion: str) -> bool:
    """Return whether the history says who made this version champion."""
    last = history.last_champion(entries)
    return last is not None and last.after == champion and last.action != "found"


def _advice(params: Params, content: RunContent) -> str:
    """Return likely reasons in this run for a model that is not better than its baselines."""
    steps = int(content.metrics.get("pretrain/steps", 0))
    images = content.manifest.get("counts", {}).get("train", {}).get("images", 0)
    return causes(params, steps, images, read_channels(content.manifest))
