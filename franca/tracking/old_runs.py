"""Runs in MLflow that no version of a model came from."""

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from franca.tracking.registry import run_of

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run


def unregistered_runs(client: "MlflowClient", experiment: str) -> "Iterator[Run]":
    """Yield the runs of an experiment that no registered version came from, newest first.

    Versions, with or without an alias, keep their runs: `franca rollback` may return to any of them. A run that MLflow
    calls running is left out, even if its process was killed: a long training may be silent for hours.

    Args:
        client: The tracking server's client.
        experiment: Name of the experiment; one that does not exist has no runs.
    """
    found = client.get_experiment_by_name(experiment)
    if found is None:
        return
    kept = set()
    for version in _pages(client.search_model_versions, filter_string=""):
        kept |= {run_of(version), str(version.run_id)}
    runs = _pages(client.search_runs, experiment_ids=[found.experiment_id], order_by=["attributes.start_time DESC"])
    for run in runs:
        if run.info.run_id not in kept and run.info.status not in ("RUNNING", "SCHEDULED"):
            yield run


def _pages(search: Callable[..., Any], **arguments: Any) -> Iterator[Any]:
    """Yield the entries of all pages of a search."""
    token = None
    while True:
        page = search(**arguments, page_token=token)
        yield from page
        token = page.token
        if not token:
            return
