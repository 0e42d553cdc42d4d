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
from franca.tracking.run_names import final_name, rename, start_name
from franca.tracking.run_notes import final_note, start_note, write_note
from franca.tracking.runs import STATE, short_name
from franca.tracking.score_tables import score_csv
from franca.tracking.stored_curves import send_stored_curves

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import LoggedModel, Run

_BATCH = 100
"""MLflow's limit of parameters per request."""
TRAIN_COMMIT = "franca.train.commit"
"""Tag of a run: the commit at which its model was trained; MLflow's own tag is the one at which it was registered."""
FILLED = "franca.filled"
"""Tag of a run: the pipeline whose content it has completely."""
_CONTEXTS = {"train": "training", "val": "validation", "test": "test"}
"""Names of the splits in MLflow's UI."""


def log_run(client: "MlflowClient", run: "Run", content: RunContent) -> "Run":
    """Log metrics, parameters, tags, data sets and artifacts; return the run as the server has it then."""
    from mlflow.entities import Metric, Param, RunTag

    run_id = run.info.run_id
    client.update_run(run_id, status="RUNNING")
    if content.run_folder.is_dir():
        CurveUploader(client, content.run_folder, run_id).send()
    else:
        send_stored_curves(client, run_id)
    params = [Param(name, value) for name, value in content.params.items() if name not in run.data.params]
    for start in range(0, len(params), _BATCH):
        client.log_batch(run_id, params=params[start : start + _BATCH])
    tags = _lineage_tags(run, content) | {
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


def _lineage_tags(run: "Run", content: RunContent) -> dict[str, str]:
    """Return the tags about code, data and machine.

    In another clone than the training's, the machine is unknown, and the training's commit is the one that brought its
    results into git, unless the server knows better from the training's mirror.
    """
    tags = lineage.tags(lineage.read_facts(content.run_folder))
    if TRAIN_COMMIT not in run.data.tags:
        trained_here = content.run_folder.is_dir()
        commit = tags.get("mlflow.source.git.commit") if trained_here else None
        commit = commit or lineage.recorded_commit(RESULTS / "pretrain/metrics.json", content.fingerprint)
        if commit:
            tags[TRAIN_COMMIT] = commit
    return tags


def log_scores(client: "MlflowClient", run: "Run", model: "LoggedModel", content: RunContent) -> None:
    """Log benchmark scores to the run and to the logged model, each with the data set it was measured on.

    The number at the end of a metric's name, such as a number of dimensions, becomes MLflow's step.
    """
    from mlflow.entities import Metric

    logged = {(metric.key, metric.value, metric.dataset_digest) for metric in model.metrics or []}
    now = int(time.time() * 1000)
    metrics = []
    values = {key: {0: value} for key, value in content.scores.items()} | content.series
    for key, steps in values.items():
        dataset = content.dataset_of(key)
        if (key, steps[max(steps)], dataset.digest) not in logged:
            metrics += [
                Metric(key, value, now, step, model.model_id, dataset.name, dataset.digest)
                for step, value in sorted(steps.items())
            ]
    if metrics:
        client.log_batch(run.info.run_id, metrics=metrics)


def finish_run(client: "MlflowClient", run: "Run", content: RunContent, params: Params, version: str) -> None:
    """Give a run that is completely logged its name, description and state.

    Args:
        client: The tracking server.
        run: The run.
        content: Its content.
        params: All parameters.
        version: Number of the registered version of its weights.
    """
    run_id, fingerprint = run.info.run_id, content.fingerprint
    known = (short_name(fingerprint), start_name(params, fingerprint))
    rename(client, run, known, final_name(params, fingerprint, content.scores))
    write_note(client, run_id, final_note(params, content, client.get_run(run_id).data.tags, version))
    client.set_tag(run_id, STATE, "registered")
    client.set_tag(run_id, FILLED, content.pipeline)
    client.set_terminated(run_id)


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
    client.log_text(run_id, score_csv(content.all_results), "scores.csv")
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
        tags[TRAIN_COMMIT] = commit
    values = params.model_dump(mode="json", by_alias=True, include={"base", "pretrain"})
    for name in ("mean", "std"):
        if values["base"][name] == "auto":
            del values["base"][name]  # `register` knows the numbers
    run = client.get_run(run_id)
    known, fingerprint = run.data.params, run_folder.name.removeprefix("pretrain-")
    found = [Param(name, value) for name, value in param_texts(values).items() if name not in known]
    for start in range(0, len(found), _BATCH):
        client.log_batch(run_id, params=found[start : start + _BATCH])
    client.log_batch(run_id, tags=[RunTag(name, value) for name, value in tags.items()])
    name = start_name(params, fingerprint)
    rename(client, run, (short_name(fingerprint),), name)
    write_note(client, run_id, start_note(params, tags))
    log_lineage(client, run_id, run_folder, to_yaml(params, "The parameters of this run, as validated."))
