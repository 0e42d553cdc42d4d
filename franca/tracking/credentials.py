"""How requests to the tracking server say who they are, as MLflow's own client does."""

import base64
import os
from urllib.parse import unquote, urlsplit


def auth_headers(uri: str) -> dict[str, str]:
    """Return the header with user and password of an address, else of the environment; empty if there are none."""
    parts = urlsplit(uri)
    user = unquote(parts.username or "") or os.environ.get("MLFLOW_TRACKING_USERNAME")
    password = unquote(parts.password or "") or os.environ.get("MLFLOW_TRACKING_PASSWORD", "")
    if user:
        return {"Authorization": f"Basic {base64.b64encode(f'{user}:{password}'.encode()).decode()}"}
    if token := os.environ.get("MLFLOW_TRACKING_TOKEN"):
        return {"Authorization": f"Bearer {token}"}
    return {}
