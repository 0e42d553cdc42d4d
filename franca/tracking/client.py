"""The tracking server: its address, a client for it, and one-line errors if it fails."""

import logging
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit, urlunsplit

from franca.errors import FrancaError
from franca.paths import runs_root
from franca.tracking.database import prepare_database, sqlite_reason

if TYPE_CHECKING:
    from mlflow import MlflowClient

KNOCK_SECONDS = 3
_SQLITE = "sqlite:///"

# MLflow reads these when it is imported, and by its own defaults would hold a caller for minutes when nobody answers.
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
os.environ.setdefault("MLFLOW_LOGGING_LEVEL", "WARNING")
os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")


def tracking_uri() -> str:
    """`MLFLOW_TRACKING_URI`, else SQLite in the project's root.

    A relative SQLite path hangs on that root too: in `dvc exp run --temp` the current folder is thrown away.
    """
    uri = os.environ.get("MLFLOW_TRACKING_URI") or f"{_SQLITE}mlflow.db"
    if uri.startswith(_SQLITE):
        return f"{_SQLITE}{runs_root().parent / uri.removeprefix(_SQLITE)}"
    return uri.rstrip("/")


def database() -> Path | None:
    """Return the SQLite file that the tracking address names, which need not exist yet; None for a server.

    Raises FrancaError if the project's folder has a name that a database's address cannot carry.
    """
    from sqlalchemy import make_url

    uri, root = tracking_uri(), str(runs_root().parent)
    if not uri.startswith(_SQLITE):
        return None
    if uri.startswith(f"{_SQLITE}{root}") and make_url(f"{_SQLITE}{root}").database != root:
        raise FrancaError(
            f"{root}: `?` and `%` in a folder's name have a meaning in the address of a database; "
            "rename the folder or set MLFLOW_TRACKING_URI"
        )
    return Path(str(make_url(uri).database))


def redacted(uri: str) -> str:
    """The address without user and password, fit for files and for the screen."""
    parts = urlsplit(uri)
    return urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2])) if "@" in parts.netloc else uri


def connect() -> "MlflowClient":
    """Return a client of the tracking server; fail within seconds if the server does not answer.

    A SQLite database is created first if there is none.
    """
    uri, file = tracking_uri(), database()
    with server_faults():
        import mlflow

        _knock(uri)
        logging.getLogger("alembic").setLevel(logging.WARNING)
        # It logs the traceback of an error that it raises as well, and which is reported in one line.
        logging.getLogger("mlflow.store.db.utils").setLevel(logging.CRITICAL)
        if file is not None:
            prepare_database(file)
        mlflow.set_tracking_uri(uri)
        return mlflow.MlflowClient()


def _knock(uri: str) -> None:
    parts = urlsplit(uri)
    if parts.scheme in ("http", "https"):
        from mlflow.utils.credentials import get_default_host_creds
        from mlflow.utils.rest_utils import http_request

        http_request(get_default_host_creds(uri), "/health", "GET", max_retries=0, timeout=KNOCK_SECONDS)
    elif parts.hostname and parts.port:
        socket.create_connection((parts.hostname, parts.port), KNOCK_SECONDS).close()


@contextmanager
def server_faults() -> Iterator[None]:
    """Turn what MLflow and the libraries below it raise into one line."""
    from alembic.util import CommandError
    from mlflow.exceptions import MlflowException
    from requests.exceptions import RequestException
    from sqlalchemy.exc import SQLAlchemyError

    network = (RequestException, ConnectionError, TimeoutError, socket.gaierror)
    try:
        yield
    except (MlflowException, SQLAlchemyError, CommandError, *network) as error:
        file = database()
        place = f"server {redacted(tracking_uri())}" if file is None else f"database {file}"
        raise FrancaError(f"tracking {place}: {_reason(error)}") from error


def _reason(error: Exception) -> str:
    if reason := sqlite_reason(error):
        return reason
    text = " ".join(str(error).split()).replace(tracking_uri(), redacted(tracking_uri()))
    for sign in ("Connection refused", "Name or service not known", "timed out", "No route to host"):
        if sign in text:
            return f"{sign.lower()}; start it or change MLFLOW_TRACKING_URI (nothing is lost: files wait for it)"
    return text if len(text) <= 300 else text[:297] + "..."


def experiment_id(client: "MlflowClient", name: str) -> str:
    """Find or create the experiment; with a SQLite file, artifacts go to the folder `mlartifacts` next to it."""
    from mlflow.exceptions import MlflowException

    found = client.get_experiment_by_name(name)
    if found is None:
        file = database()
        here = (file.parent / "mlartifacts").as_uri() if file else None
        try:
            return str(client.create_experiment(name, artifact_location=here))
        except MlflowException as error:
            # Another process may have created it since; SQLite then reports a violated constraint.
            found = client.get_experiment_by_name(name)
            if found is None:
                raise error
    if found.lifecycle_stage != "active":
        raise FrancaError(
            f"experiment '{name}' was deleted on the tracking server; bring it back by "
            f"`mlflow experiments restore --experiment-id {found.experiment_id}` or set register.experiment"
        )
    return str(found.experiment_id)
