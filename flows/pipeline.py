"""The pipeline as a Prefect flow. `python -m flows.pipeline` runs it once, with params.yaml and without a server."""

import sys
from pathlib import Path
from typing import Any, NoReturn

from prefect import Task, flow, get_run_logger, task
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import TaskRun
from prefect.runtime import flow_run
from prefect.states import Completed, State

from flows.artifacts import publish
from flows.process import dvc
from flows.workspace import Workspace, workspace
from franca.errors import FrancaError, Stopped
from franca.files import read_json
from franca.params import Params, load_params, read_yaml
from franca.paths import PARAMS, requeue_path

_UNCHANGED = ("didn't change, skipping", "is cached - skipping run")


def give_up(error: FrancaError) -> NoReturn:
    print(f"error: {error}", file=sys.stderr)
    sys.exit(2)


def file_params() -> Params:
    """The values of params.yaml, which are the flow's default and fill its form.

    Where the file is wrong a flow run fails with that in its log. Anything else ends here, for `prefect deploy`
    would swallow an exception and deploy a flow without a form.
    """
    try:
        return load_params(PARAMS)
    except FrancaError as error:
        if flow_run.id:
            raise
        give_up(error)


@task(retries=3, retry_delay_seconds=10, cache_policy=NO_CACHE)
def pull(place: Workspace) -> None:
    """Fetch what `data.dvc` names. Data that is there may differ from it: what lies on disk is what is used."""
    logger = get_run_logger()
    try:
        dvc(["pull", "data.dvc"], place.folder, logger.info, place.env)
    except FrancaError as error:
        if not (place.folder / "data").exists():
            raise
        logger.warning("the data on disk is used as it is, for `dvc pull data.dvc` failed: %s", error)


def last_stop(stage: str) -> dict[str, Any] | None:
    """At which step of which run `stage` was told to stop, unless it has begun anew since."""
    path = requeue_path()
    marker = read_json(path) if path.exists() else {}
    return marker if marker.get("stage") == stage else None


def was_stopped(task: Task[Any, Any], run: TaskRun, state: State[Any]) -> bool:
    return isinstance(state.data, Stopped)


# As often as it takes, which Prefect wants as a number.
@task(
    task_run_name="{stage}",
    cache_policy=NO_CACHE,
    retries=1000,
    retry_delay_seconds=10,
    retry_condition_fn=was_stopped,
)
def reproduce(stage: str, place: Workspace) -> State[None] | None:
    """Let DVC bring one stage up to date; the state is Cached where it had nothing to run.

    A stage that was stopped from outside runs again, if it got on since it was last stopped.
    """
    before = last_stop(stage)
    try:
        lines = dvc(["repro", "--single-item", stage], place.folder, get_run_logger().info, place.env)
    except FrancaError as error:
        kind = FrancaError if last_stop(stage) in (None, before) else Stopped
        raise kind(f"stage {stage}: {error}") from None
    if any(sign in line for sign in _UNCHANGED for line in lines):
        return Completed(name="Cached", message="nothing that the stage depends on has changed")
    return None


def stages(folder: Path) -> list[str]:
    """Names of the stages, in the order of dvc.yaml, where a stage stands below those it needs."""
    return list(read_yaml(folder / "dvc.yaml")["stages"])


@flow
def pipeline(params: Params = file_params()) -> None:  # noqa: B008
    """From data to a measured and registered model: each stage of dvc.yaml that is not up to date runs."""
    with workspace(params, flow_run.name, get_run_logger().info) as place:
        pull(place)
        for stage in stages(place.folder):
            reproduce(stage, place)
        publish(place.folder)


if __name__ == "__main__":
    try:
        pipeline()
    except FrancaError as error:
        give_up(error)
