"""Log the content of a run to MLflow; what the run already has is not sent again."""

import json
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

from franca.files import write_bytes
from franca.paths import PREPARED, RESULTS
from franca.tracking import lineage
from franca.tracking.curves import CurveUploader
from franca.tracking.run_content import STAGES, RunContent

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

    datasets = content.datasets()
    logged = {(metric.key, metric.value, metric.dataset_digest) for metric in model.metrics or []}
    now = int(time.time() * 1000)
    metrics = []
    for key, value in content.scores.items():
        dataset = next((datasets[part] for part in key.split("/") if part in datasets), datasets["val"])
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
    client.log_text(run_id, content.params_file, "params.yaml")
    for stage in STAGES:
        if (RESULTS / stage).is_dir():
            client.log_artifacts(run_id, str(RESULTS / stage), f"results/{stage}")
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        write_bytes(folder / "packages.txt", lineage.packages().encode())
        if diff := lineage.code_diff():
            write_bytes(folder / "code.diff", diff.encode("utf-8", "surrogateescape"))
        for path in (lineage.LOCK, PREPARED / "manifest.json", content.run_folder / "run.json"):
            if path.is_file():
                write_bytes(folder / path.name, path.read_bytes())
        client.log_artifacts(run_id, str(folder), "lineage")
