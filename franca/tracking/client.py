"""Connect to the tracking server, and report its errors in one line."""

import logging
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit, urlunsplit

from franca.errors import FrancaError
from franca.paths import runs_root
from franca.tracking.database import prepare_database, sqlite_reason

if TYPE_CHECKING:
    from mlflow import MlflowClient

CONNECT_SECONDS = 3
_SQLITE = "sqlite:///"

# MLflow reads these when it is imported. By default it retries 7 times: calls to a dead server block for minutes.
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
os.environ.setdefault("MLFLOW_LOGGING_LEVEL", "WARNING")
os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
# Otherwise MLflow prints links for each run that ends; register prints its own.
os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")


def tracking_uri() -> str:
    """Return `MLFLOW_TRACKING_URI`, by default SQLite in the project's root.

    A relative SQLite path is resolved against the project's root, not the current folder: `dvc exp run --temp` deletes
    its current folder after the run, and a database in it would be lost.

    Raises:
        FrancaError: The address is malformed, so that it is not clear where its password ends.
    """
    uri = os.environ.get("MLFLOW_TRACKING_URI") or f"{_SQLITE}mlflow.db"
    if uri.startswith(_SQLITE):
        return f"{_SQLITE}{runs_root().parent / uri.removeprefix(_SQLITE)}"
    if _is_malformed(uri):
        raise FrancaError(
            "MLFLOW_TRACKING_URI: not a valid address; write special characters of user, password and path as %XX "
            "(`/` is %2F, `?` is %3F, `#` is %23, `@` is %40)"
        )
    return uri.rstrip("/")


def _is_malformed(uri: str) -> bool:
    """Return whether the host is unclear, as if a password contained `/`, `?` or `#`."""
    try:
        parts = urlsplit(uri)
        _ = parts.port  # raises ValueError if it is not a number
    except ValueError:
        return True
    return "@" in parts.path + parts.query + parts.fragment and bool(parts.netloc)


def sqlite_file() -> Path | None:
    """Return the SQLite file of the tracking URI, whether it exists or not; None if the URI names a server.

    Raises:
        FrancaError: The project's path has characters with a special meaning in a database URL.
    """
    from sqlalchemy import make_url

    uri, root = tracking_uri(), str(runs_root().parent)
    if not uri.startswith(_SQLITE):
        return None
    if uri.startswith(f"{_SQLITE}{root}") and make_url(f"{_SQLITE}{root}").database != root:
        raise FrancaError(
            f"{root}: `?` and `%` in a folder's name have a special meaning in a database URL; "
            "rename the folder or set MLFLOW_TRACKING_URI"
        )
    return Path(str(make_url(uri).database))


def redacted(uri: str) -> str:
    """Return `uri` without user and password, for files and messages."""
    if not uri.startswith(_SQLITE) and _is_malformed(uri):
        return uri.partition("://")[0] + "://" + uri.rpartition("@")[2]
    parts = urlsplit(uri)
    return urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2])) if "@" in parts.netloc else uri


def connect() -> "MlflowClient":
    """Return a client of the tracking server, and create the SQLite database if there is none.

    User and password of an HTTP address are moved to the variables that MLflow reads them from, because MLflow prints
    the address in messages and errors.

    Raises:
        FrancaError: The server does not answer within `CONNECT_SECONDS`, or the database cannot be used.
    """
    uri, file = _without_credentials(tracking_uri()), sqlite_file()
    with server_errors():
        import mlflow

        _check_reachable(uri)
        logging.getLogger("alembic").setLevel(logging.WARNING)
        # This logger prints the traceback of an error that is also raised; we report it in one line.
        logging.getLogger("mlflow.store.db.utils").setLevel(logging.CRITICAL)
        if file is not None:
            prepare_database(file)
        mlflow.set_tracking_uri(uri)
        return mlflow.MlflowClient()


def _without_credentials(uri: str) -> str:
    parts = urlsplit(uri)
    if parts.scheme not in ("http", "https") or not parts.username or not parts.password:
        return uri
    os.environ["MLFLOW_TRACKING_USERNAME"] = unquote(parts.username)
    os.environ["MLFLOW_TRACKING_PASSWORD"] = unquote(parts.password)
    return redacted(uri)


def _check_reachable(uri: str) -> None:
    """Raise an exception of the network within seconds if nothing answers at `uri`."""
    parts = urlsplit(uri)
    if parts.scheme in ("http", "https"):
        from mlflow.utils.credentials import get_default_host_creds
        from mlflow.utils.rest_utils import http_request

        http_request(get_default_host_creds(uri), "/health", "GET", max_retries=0, timeout=CONNECT_SECONDS)
    elif parts.hostname and parts.port:
        socket.create_connection((parts.hostname, parts.port), CONNECT_SECONDS).close()


@contextmanager
def server_errors() -> Iterator[None]:
    """Raise the exceptions of MLflow and of the libraries below it as a FrancaError of one line."""
    from alembic.util import CommandError
    from mlflow.exceptions import MlflowException
    from requests.exceptions import RequestException
    from sqlalchemy.exc import SQLAlchemyError

    network = (RequestException, ConnectionError, TimeoutError, socket.gaierror)
    try:
        yield
    except (MlflowException, SQLAlchemyError, CommandError, *network) as error:
        file = sqlite_file()
        place = f"server {redacted(tracking_uri())}" if file is None else f"database {file}"
        raise FrancaError(f"tracking {place}: {_reason(error)}") from error


def _reason(error: Exception) -> str:
    if reason := sqlite_reason(error):
        return reason
    text = " ".join(str(error).split()).replace(tracking_uri(), redacted(tracking_uri()))
    # The address of a database keeps its password, which drivers may spell in either form.
    if password := urlsplit(tracking_uri()).password:
        text = text.replace(password, "***").replace(unquote(password), "***")
    for cause in ("Connection refused", "Name or service not known", "timed out", "No route to host"):
        if cause in text:
            return f"{cause.lower()}; start it or change MLFLOW_TRACKING_URI (no results are lost: they are in files)"
    return text if len(text) <= 300 else text[:297] + "..."


def experiment_id(client: "MlflowClient", name: str, key: str | None = None) -> str:
    """Return the ID of the experiment `name`, which is created if it is missing.

    With a SQLite file, artifacts of a new experiment go to the folder `mlartifacts` next to it.

    Args:
        client: The tracking server.
        name: Name of the experiment.
        key: The parameter that names it; None if the name is fixed.

    Raises:
        FrancaError: The experiment was deleted.
    """
    from mlflow.exceptions import MlflowException

    found = client.get_experiment_by_name(name)
    if found is None:
        file = sqlite_file()
        here = (file.parent / "mlartifacts").as_uri() if file else None
        try:
            return str(client.create_experiment(name, artifact_location=here))
        except MlflowException as error:
            # Another process may have created it in the meantime; SQLite then reports a violated constraint.
            found = client.get_experiment_by_name(name)
            if found is None:
                raise error
    if found.lifecycle_stage != "active":
        raise FrancaError(
            f"experiment '{name}' was deleted on the tracking server; restore it by "
            f"`mlflow experiments restore --experiment-id {found.experiment_id}`{f' or change {key}' if key else ''}"
        )
    return str(found.experiment_id)
