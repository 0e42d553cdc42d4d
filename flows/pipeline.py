"""The pipeline as a Prefect flow. `python -m flows.pipeline` runs it once, with params.yaml and without a server."""

import sys
from pathlib import Path
from typing import Any, NoReturn, cast

from prefect import Task, flow, get_run_logger, task
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import FlowRun, TaskRun
from prefect.deployments import run_deployment
from prefect.exceptions import ObjectNotFound
from prefect.runtime import flow_run
from prefect.states import Completed, State

from flows.artifacts import publish_artifacts
from flows.commands import dvc
from flows.workspace import Workspace, workspace
from franca.errors import FrancaError, Stopped
from franca.files import read_json
from franca.params import Params, load_params, read_yaml
from franca.paths import PARAMS, RESULTS, requeue_path

APPROVAL = "promote/champion"
"""The deployment that asks for approval."""

# What DVC prints for a stage that it does not run.
_UNCHANGED = ("didn't change, skipping", "is cached - skipping run")


def exit_with_error(error: FrancaError) -> NoReturn:
    """Print the error and exit with code 2."""
    print(f"error: {error}", file=sys.stderr)
    sys.exit(2)


def file_params() -> Params:
    """Return the values of params.yaml: the default of the flow's parameter, and of the form in Prefect's UI.

    If the file is invalid, a flow run fails with the reason in its log. Outside a flow run the process exits, because
    `prefect deploy` ignores exceptions of this module and would deploy a flow without a form.
    """
    try:
        return load_params(PARAMS)
    except FrancaError as error:
        if flow_run.id:
            raise
        exit_with_error(error)


@task(retries=3, retry_delay_seconds=10, cache_policy=NO_CACHE)
def pull(place: Workspace) -> None:
    """Fetch the data of `data.dvc`. If that fails, go on with the data on disk, if there is any."""
    logger = get_run_logger()
    try:
        dvc(["pull", "data.dvc"], place.folder, logger.info, place.env)
    except FrancaError as error:
        if not (place.folder / "data").exists():
            raise
        logger.warning("`dvc pull data.dvc` failed, so the data on disk is used: %s", error)


def last_stop(stage: str) -> dict[str, Any] | None:
    """Return the run and step at which `stage` was stopped; None if it was not, or has started again since."""
    path = requeue_path()
    marker = read_json(path) if path.exists() else {}
    return marker if marker.get("stage") == stage else None


def was_stopped(task: Task[Any, Any], run: TaskRun, state: State[Any]) -> bool:
    """Return whether a task failed because its stage was stopped from outside."""
    return isinstance(state.data, Stopped)


# Stages are resumed without limit; Prefect requires a number.
@task(
    task_run_name="{stage}",
    cache_policy=NO_CACHE,
    retries=1000,
    retry_delay_seconds=10,
    retry_condition_fn=was_stopped,
)
def reproduce(stage: str, place: Workspace) -> State[None] | None:
    """Bring one stage up to date with DVC; the task's state is Cached if there was nothing to run.

    A stage that was stopped from outside (SIGTERM) is run again and resumes, as long as it makes progress: two stops
    at the same step are a failure.
    """
    before = last_stop(stage)
    try:
        lines = dvc(["repro", "--single-item", stage], place.folder, get_run_logger().info, place.env)
    except FrancaError as error:
        kind = FrancaError if last_stop(stage) in (None, before) else Stopped
        raise kind(f"stage {stage}: {error}") from None
    if any(sign in line for sign in _UNCHANGED for line in lines):
        return Completed(name="Cached", message="no dependency of the stage has changed")
    return None


def stage_names(folder: Path) -> list[str]:
    """Return the stages in the order of dvc.yaml, which lists each stage after those it depends on.

    A stage that dvc.yaml repeats for each data set is listed once for each.
    """
    datasets = read_yaml(folder / "params.yaml")["datasets"]
    names: list[str] = []
    for name, stage in read_yaml(folder / "dvc.yaml")["stages"].items():
        names += [f"{name}@{dataset}" for dataset in datasets] if "foreach" in stage else [name]
    return names


@flow
def pipeline(params: Params = file_params()) -> None:  # noqa: B008
    """Run each stage of dvc.yaml that is not up to date, from the data to a registered model."""
    run_pipeline(params)


def run_pipeline(params: Params) -> None:
    """Run the stages as part of a flow run, in the project or, with other values than the file's, in a worktree."""
    with workspace(params, flow_run.name, get_run_logger().info) as place:
        pull(place)
        for stage in stage_names(place.folder):
            reproduce(stage, place)
        publish_artifacts(place.folder)
        receipt = read_json(place.folder / RESULTS / "register/receipt.json")
    if receipt["decision"][0].startswith("waits for approval"):
        ask_for_approval(receipt["version"])


def ask_for_approval(version: str) -> None:
    """Start the flow that is suspended until a person has approved or rejected the version."""
    logger = get_run_logger()
    try:
        started = cast(FlowRun, run_deployment(APPROVAL, parameters={"apply": True}, timeout=0, as_subflow=False))
    except ObjectNotFound:
        logger.warning("version %s waits for approval: `franca approve %s --reason TEXT`", version, version)
    else:
        logger.info("version %s waits for approval in the flow run %s", version, started.name)


if __name__ == "__main__":
    try:
        pipeline()
    except FrancaError as error:
        exit_with_error(error)
