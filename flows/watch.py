"""A look at data.dvc as a Prefect flow: another version of the data becomes an event, and if wanted a training run."""

from pathlib import Path

from prefect import flow, get_run_logger
from prefect.deployments import run_deployment
from prefect.states import Completed, State
from prefect.variables import Variable

from franca.errors import FrancaError
from franca.events import DATA_CHANGED, send_event
from franca.git import run_git
from franca.params import load_params
from franca.paths import PARAMS

SEEN = "franca_data"
"""Prefect variable: git's ID of the data.dvc that was committed when the flow looked last."""
PIPELINE = "pipeline/nightly"


@flow
def watch(retrain: bool = False) -> State[None]:
    """Send the event `franca.data.changed` if another data.dvc has been committed since the last look.

    Args:
        retrain: Start the pipeline, too.
    """
    now, before = committed(Path.cwd()), Variable.get(SEEN)
    if now == before:
        return Completed(name="Unchanged", message="data.dvc is the same as at the last look")
    Variable.set(SEEN, now, overwrite=True)
    if before is None:
        return Completed(name="FirstLook", message="from now on, changes of data.dvc are reported")
    commit, subject = last_change(Path.cwd())
    text = f"data.dvc has changed in commit {commit} ({subject})"
    model = load_params(PARAMS).register_.model_name
    if fault := send_event(DATA_CHANGED, model, text, {"commit": commit, "before": before, "after": now}):
        get_run_logger().warning("no event was sent: %s", fault)
    if retrain:
        run_deployment(PIPELINE, timeout=0, as_subflow=False)
    return Completed(name="Changed", message=text)


def committed(folder: Path) -> str:
    """Return git's ID of the committed data.dvc; `none` if there is none."""
    try:
        return run_git("rev-parse", "--verify", "--quiet", "HEAD:data.dvc", folder=folder).decode().strip()
    except FrancaError:
        return "none"


def last_change(folder: Path) -> tuple[str, str]:
    """Return ID and subject of the last commit that changed data.dvc."""
    line = run_git("log", "-1", "--format=%h %s", "--", "data.dvc", folder=folder).decode().strip()
    commit, _, subject = line.partition(" ")
    return commit, subject
