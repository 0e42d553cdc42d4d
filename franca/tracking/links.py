"""URLs of MLflow's pages."""

MODE = "workflowType=machine_learning"
"""Without it, MLflow's pages open in their mode for language models."""


def links(uri: str, experiment: str, run_id: str, name: str, version: str) -> dict[str, str]:
    """Return the URLs of the run and of the version in MLflow's UI; empty without a server."""
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
