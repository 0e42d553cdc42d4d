"""Find or create the MLflow run that stands for a pretraining, by tags and never by name."""

from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING

from franca.paths import runs_root
from franca.tracking.lock import locked

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

FINGERPRINT = "franca.fingerprint"
PIPELINE = "franca.pipeline"


def find_runs(client: "MlflowClient", experiment: str, fingerprint: str) -> "list[Run]":
    """Active runs of the pretraining with this fingerprint, newest first."""
    found = client.search_runs(
        [experiment], f"tags.`{FINGERPRINT}` = '{fingerprint}'", order_by=["attributes.start_time DESC"]
    )
    return list(found)


def create_run(client: "MlflowClient", experiment: str, fingerprint: str) -> "Run":
    return client.create_run(experiment, tags={FINGERPRINT: fingerprint}, run_name=f"franca-{fingerprint[:8]}")


def pipeline_run(client: "MlflowClient", experiment: str, fingerprint: str, pipeline: str) -> "Run":
    """Return the run of one whole pipeline: reuse its own, else adopt an unclaimed mirror run, else create one.

    One pretraining may be evaluated in several ways; each gets its own run, as logged parameters never change.
    """
    with sole_creator(fingerprint):
        runs = find_runs(client, experiment, fingerprint)
        own = [run for run in runs if run.data.tags.get(PIPELINE) == pipeline]
        free = [run for run in runs if PIPELINE not in run.data.tags]
        run = next(iter(own + free), None) or create_run(client, experiment, fingerprint)
        client.set_tag(run.info.run_id, PIPELINE, pipeline)
        return run


def sole_creator(fingerprint: str) -> AbstractContextManager[None]:
    """Hold the right to look for a run of this pretraining and to create it if there is none.

    Without it `register` and a mirror that is still busy would create two. No lock is held on a machine that does not
    have the pretraining's folder: no mirror works there.
    """
    folder = runs_root() / f"pretrain-{fingerprint}"
    return locked(folder / "mlflow.lock") if folder.is_dir() else nullcontext()


def still_there(client: "MlflowClient", run_id: str, fingerprint: str) -> bool:
    """Whether the server holds this run, active and of this pretraining."""
    from mlflow.exceptions import MlflowException

    try:
        run = client.get_run(run_id)
    except MlflowException as error:
        if error.error_code == "RESOURCE_DOES_NOT_EXIST":
            return False
        raise
    return run.info.lifecycle_stage == "active" and run.data.tags.get(FINGERPRINT) == fingerprint
