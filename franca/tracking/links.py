"""URLs of MLflow's pages."""


def links(uri: str, experiment: str, run_id: str, name: str, version: str) -> dict[str, str]:
    """Return the URLs of the run and of the version in MLflow's UI; empty without a server."""
    if not uri.startswith("http"):
        return {}
    mode = "workflowType=machine_learning"
    return {
        "run": f"{uri}/#/experiments/{experiment}/runs/{run_id}?{mode}",
        "version": f"{uri}/#/models/{name}/versions/{version}?{mode}",
    }


def pictures(uri: str, experiment: str, run_id: str) -> str:
    """Return the URL of the pictures of an evaluation in MLflow's UI."""
    folder = "results/evaluate/plots"
    return f"{uri}/#/experiments/{experiment}/runs/{run_id}/artifacts/{folder}?workflowType=machine_learning"
