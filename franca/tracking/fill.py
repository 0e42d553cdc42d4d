"""Complete an MLflow run from a record; whatever the run holds already is not sent again."""

import json
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

from franca.files import write_bytes
from franca.paths import PREPARED, RESULTS
from franca.tracking import lineage
from franca.tracking.curves import Curves
from franca.tracking.record import STAGES, Record

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import LoggedModel, Run

_BATCH = 100
_CONTEXTS = {"train": "training", "val": "validation", "test": "test"}


def fill_run(client: "MlflowClient", run: "Run", record: Record) -> "Run":
    """Curves, parameters, metrics, tags, data sets and artifacts; returns the run as the server has it now."""
    from mlflow.entities import Metric, Param, RunTag

    run_id = run.info.run_id
    client.update_run(run_id, status="RUNNING")
    if record.run_folder.is_dir():
        Curves(client, record.run_folder, run_id).send()
    params = [Param(name, value) for name, value in record.params.items() if name not in run.data.params]
    for start in range(0, len(params), _BATCH):
        client.log_batch(run_id, params=params[start : start + _BATCH])
    tags = lineage.tags(lineage.read_facts(record.run_folder)) | {
        "franca.digest": record.digest,
        "franca.data_digest": record.results["data_digest"],
    }
    now = int(time.time() * 1000)
    changed = {name: value for name, value in record.metrics.items() if run.data.metrics.get(name) != value}
    new = [Metric(name, value, now, 0) for name, value in changed.items()]
    client.log_batch(run_id, metrics=new, tags=[RunTag(name, value) for name, value in tags.items()])
    _log_datasets(client, run_id, record)
    _log_artifacts(client, run_id, record)
    return client.get_run(run_id)


def log_scores(client: "MlflowClient", run: "Run", model: "LoggedModel", record: Record) -> None:
    """Benchmark scores, on the run and on the logged model, each with the data set that it was measured on."""
    from mlflow.entities import Metric

    datasets = record.datasets()
    held = {(metric.key, metric.value, metric.dataset_digest) for metric in model.metrics or []}
    now = int(time.time() * 1000)
    metrics = []
    for key, value in record.scores.items():
        dataset = next((datasets[part] for part in key.split("/") if part in datasets), datasets["val"])
        if (key, value, dataset.digest) not in held:
            metrics.append(Metric(key, value, now, 0, model.model_id, dataset.name, dataset.digest))
    if metrics:
        client.log_batch(run.info.run_id, metrics=metrics)


def _log_datasets(client: "MlflowClient", run_id: str, record: Record) -> None:
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
        for part in record.datasets().values()
    ]
    client.log_inputs(run_id, inputs)


def _log_artifacts(client: "MlflowClient", run_id: str, record: Record) -> None:
    client.log_text(run_id, record.params_file, "params.yaml")
    for stage in STAGES:
        if (RESULTS / stage).is_dir():
            client.log_artifacts(run_id, str(RESULTS / stage), f"results/{stage}")
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        write_bytes(folder / "packages.txt", lineage.packages().encode())
        if diff := lineage.code_diff():
            write_bytes(folder / "code.diff", diff.encode("utf-8", "surrogateescape"))
        for path in (lineage.LOCK, PREPARED / "manifest.json", record.run_folder / "run.json"):
            if path.is_file():
                write_bytes(folder / path.name, path.read_bytes())
        client.log_artifacts(run_id, str(folder), "lineage")
