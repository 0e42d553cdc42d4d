"""URLs of MLflow's pages."""

import os

from franca.tracking.client import redacted, tracking_uri

MODE = "workflowType=machine_learning"
"""Without it, MLflow's pages open in their mode for language models."""


def public_uri() -> str:
    """Return the address at which browsers find MLflow: `MLFLOW_PUBLIC_URL`, else that of the tracking server.

    Inside containers and clusters the server has another name than outside.
    """
    return os.environ.get("MLFLOW_PUBLIC_URL", "").rstrip("/") or redacted(tracking_uri())


def links(uri: str, experiment: str, run_id: str, name: str, version: str) -> dict[str, str]:
    """Return the URLs of the run and of the version in MLflow's UI; empty if `uri` is a database."""
    if not uri.startswith("http"):
        return {}
    return {
        "run": f"{uri}/#/experiments/{experiment}/runs/{run_id}?{MODE}",
        "version": f"{uri}/#/models/{name}/versions/{version}?{MODE}",
    }


def pictures(uri: str, experiment: str, run_id: str) -> str:
    """Return the URL of the pictures of an evaluation in MLflow's UI."""
    folder = "results/evaluate/plots"
    return f"{uri}/#/experiments/{experiment}/runs/{run_id}/artifacts/{folder}?{MODE}"
