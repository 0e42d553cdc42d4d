"""Log the content of a run to MLflow; what the run already has is not sent again."""

import json
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

from franca.files import write_bytes
from franca.params import Params
from franca.params.render import to_yaml
from franca.paths import PREPARED, RESULTS
from franca.tracking import lineage
from franca.tracking.curves import CurveUploader
from franca.tracking.run_content import STAGES, RunContent, param_texts

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import LoggedModel, Run

_BATCH = 100
"""MLflow's limit of parameters per request."""
_CONTEXTS = {"train": "training", "val": "validation", "test": "test"}
"""Names of the splits in MLflow's UI."""


def log_run(client: "MlflowClient", run: "Run", content: RunContent) -> "Run":
    """Log metrics, parameters, tags, data sets and artifacts; return the run as the server has it then."""
    from mlflow.entities import Metric, Param, RunTag

    run_id = run.info.run_id
    client.update_run(run_id, status="RUNNING")
    if content.run_folder.is_dir():
        CurveUploader(client, content.run_folder, run_id).send()
    params = [Param(name, value) for name, value in content.params.items() if name not in run.data.params]
    for start in range(0, len(params), _BATCH):
        client.log_batch(run_id, params=params[start : start + _BATCH])
    tags = lineage.tags(lineage.read_facts(content.run_folder)) | {
        "franca.digest": content.digest,
        "franca.data_digest": content.results["data_digest"],
    }
    now = int(time.time() * 1000)
    changed = {name: value for name, value in content.metrics.items() if run.data.metrics.get(name) != value}
    new = [Metric(name, value, now, 0) for name, value in changed.items()]
    client.log_batch(run_id, metrics=new, tags=[RunTag(name, value) for name, value in tags.items()])
    _log_datasets(client, run_id, content)
    _log_artifacts(client, run_id, content)
    return client.get_run(run_id)


def log_scores(client: "MlflowClient", run: "Run", model: "LoggedModel", content: RunContent) -> None:
    """Log benchmark scores to the run and to the logged model, each with the data set it was measured on."""
    from mlflow.entities import Metric

    logged = {(metric.key, metric.value, metric.dataset_digest) for metric in model.metrics or []}
    now = int(time.time() * 1000)
    metrics = []
    for key, value in content.scores.items():
        dataset = content.dataset_of(key)
        if (key, value, dataset.digest) not in logged:
            metrics.append(Metric(key, value, now, 0, model.model_id, dataset.name, dataset.digest))
    if metrics:
        client.log_batch(run.info.run_id, metrics=metrics)


def _log_datasets(client: "MlflowClient", run_id: str, content: RunContent) -> None:
    from mlflow.entities import Dataset, DatasetInput, InputTag

    inputs = [
        DatasetInput(
            Dataset(
                part.name,
                part.digest,
                source_type="local",
                source=json.dumps({"uri": part.source}),
                profile=json.dumps(part.profile),
            ),
            [InputTag("mlflow.data.context", _CONTEXTS[part.split])],
        )
        for part in content.datasets().values()
    ]
    client.log_inputs(run_id, inputs)


def _log_artifacts(client: "MlflowClient", run_id: str, content: RunContent) -> None:
    log_lineage(client, run_id, content.run_folder, content.params_file)
    for part in (*STAGES, *(f"datasets/{name}" for name in content.on_datasets)):
        if (RESULTS / part).is_dir():
            client.log_artifacts(run_id, str(RESULTS / part), f"results/{part}")
    for path in (lineage.LOCK, PREPARED / "manifest.json"):
        if path.is_file():
            client.log_artifact(run_id, str(path), "lineage")


def log_lineage(client: "MlflowClient", run_id: str, run_folder: Path, params: str) -> None:
    """Upload what the code of a run is restored from: parameters, packages, uncommitted changes, machine."""
    client.log_text(run_id, params, "params.yaml")
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        write_bytes(folder / "packages.txt", lineage.packages().encode())
        # Written even if it is empty: that of the start of a run may not be.
        write_bytes(folder / "code.diff", lineage.code_diff().encode("utf-8", "surrogateescape"))
        if (run_folder / "run.json").is_file():
            write_bytes(folder / "run.json", (run_folder / "run.json").read_bytes())
        client.log_artifacts(run_id, str(folder), "lineage")


def log_start(client: "MlflowClient", run_id: str, run_folder: Path, params: Params) -> None:
    """Log what is known at the first step: commit, machine, parameters; a run that is killed then explains itself.

    Of the parameters, only those are logged that every pipeline with this pretraining shares, since MLflow does not
    allow logged parameters to change. All of them are in the artifact `params.yaml`.
    """
    from mlflow.entities import Param, RunTag

    tags = lineage.tags(lineage.read_facts(run_folder))
    if commit := tags.get("mlflow.source.git.commit"):
        tags["franca.train.commit"] = commit
    values = params.model_dump(mode="json", by_alias=True, include={"base", "pretrain"})
    for name in ("mean", "std"):
        if values["base"][name] == "auto":
            del values["base"][name]  # `register` knows the numbers
    known = client.get_run(run_id).data.params
    found = [Param(name, value) for name, value in param_texts(values).items() if name not in known]
    for start in range(0, len(found), _BATCH):
        client.log_batch(run_id, params=found[start : start + _BATCH])
    client.log_batch(run_id, tags=[RunTag(name, value) for name, value in tags.items()])
    log_lineage(client, run_id, run_folder, to_yaml(params, "The parameters of this run, as validated."))
