"""Find or create the MLflow run of a pretraining, by its tags (names are not unique)."""

from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING

from franca.file_lock import lock_file
from franca.paths import runs_root

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

FINGERPRINT = "franca.fingerprint"
PIPELINE = "franca.pipeline"
STATE = "franca.state"
"""Tag of a run: training, trained, stopped at a step, or registered."""


def find_runs(client: "MlflowClient", experiment: str, fingerprint: str) -> "list[Run]":
    """Return the runs of this pretraining that are not deleted, newest first."""
    found = client.search_runs(
        [experiment], f"tags.`{FINGERPRINT}` = '{fingerprint}'", order_by=["attributes.start_time DESC"]
    )
    return list(found)


def create_run(client: "MlflowClient", experiment: str, fingerprint: str) -> "Run":
    """Create a run with the fingerprint as tag."""
    return client.create_run(experiment, tags={FINGERPRINT: fingerprint}, run_name=short_name(fingerprint))


def short_name(fingerprint: str) -> str:
    """Return the name of a run whose parameters are not known yet."""
    return f"franca-{fingerprint[:8]}"


def pipeline_run(client: "MlflowClient", experiment: str, fingerprint: str, pipeline: str) -> "Run":
    """Return the run of one pipeline: reuse its own, else take one that only has curves, else create one.

    One pretraining may be evaluated in several ways. Each has a run of its own, because MLflow does not allow logged
    parameters to change.
    """
    with lock_run_creation(fingerprint):
        runs = find_runs(client, experiment, fingerprint)
        own = [run for run in runs if run.data.tags.get(PIPELINE) == pipeline]
        free = [run for run in runs if PIPELINE not in run.data.tags]
        run = next(iter(own + free), None) or create_run(client, experiment, fingerprint)
        client.set_tag(run.info.run_id, PIPELINE, pipeline)
        return run


def lock_run_creation(fingerprint: str) -> AbstractContextManager[None]:
    """Lock out other processes that look for a run of this pretraining and create it if there is none.

    Without it, `register` and a mirror that is still uploading would create two runs. On a machine without the
    pretraining's folder there is no mirror and nothing is locked.
    """
    folder = runs_root() / f"pretrain-{fingerprint}"
    return lock_file(folder / "mlflow.lock") if folder.is_dir() else nullcontext()


def run_exists(client: "MlflowClient", run_id: str, fingerprint: str) -> bool:
    """Return whether the server has this run, not deleted and of this pretraining."""
    from mlflow.exceptions import MlflowException

    try:
        run = client.get_run(run_id)
    except MlflowException as error:
        if error.error_code == "RESOURCE_DOES_NOT_EXIST":
            return False
        raise
    return run.info.lifecycle_stage == "active" and run.data.tags.get(FINGERPRINT) == fingerprint
