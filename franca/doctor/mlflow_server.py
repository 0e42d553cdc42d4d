"""The tracking server: does it answer, which version is it, does it accept the password, what time is it there."""

import socket
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from importlib import metadata
from pathlib import Path
from urllib.parse import urlsplit

from franca.doctor.clock import compare_clocks
from franca.doctor.finding import Finding, ok, problem
from franca.doctor.versions import compare_versions
from franca.errors import FrancaError
from franca.tracking.client import redacted, tracking_uri
from franca.tracking.credentials import auth_headers
from franca.web import SECONDS, NoAnswer, ask

CHECK = "MLflow"


def check_mlflow() -> Iterator[Finding]:
    """Yield findings about the tracking server or the SQLite file."""
    try:
        uri = tracking_uri()
    except FrancaError as error:
        yield problem(CHECK, str(error).partition("; ")[0], str(error).partition("; ")[2])
        return
    parts = urlsplit(uri)
    if parts.scheme in ("http", "https"):
        yield from _server(uri)
    elif parts.scheme == "sqlite":
        yield _sqlite(Path(uri.removeprefix("sqlite:///")))
    elif parts.hostname:
        yield _database(redacted(uri), parts.hostname, parts.port)
    else:
        yield problem(CHECK, f"{redacted(uri)}: not an address of a server", "change MLFLOW_TRACKING_URI")


def _server(uri: str) -> Iterator[Finding]:
    shown, headers = redacted(uri), auth_headers(uri)
    try:
        version = ask(f"{shown}/version", headers)
        listed = ask(f"{shown}/api/2.0/mlflow/experiments/search", headers, {"max_results": 1})
    except NoAnswer as reason:
        yield problem(
            CHECK, f"{shown}: {reason}", "start the server (`make mlflow-ui`), or change MLFLOW_TRACKING_URI"
        )
        return
    if listed.status == 401:
        fix = "set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD"
        yield problem(CHECK, f"{shown}: does not accept user and password", fix)
    elif listed.status == 403:
        fix = "add this name to MLFLOW_SERVER_ALLOWED_HOSTS of the server (PUBLIC_HOST in docker/.env)"
        yield problem(CHECK, f"{shown}: refuses this user or this host name", fix)
    elif listed.status != 200:
        fix = "check the address in MLFLOW_TRACKING_URI and the server's log"
        yield problem(CHECK, f"{shown}: status {listed.status} from its API", fix)
    else:
        yield compare_versions(CHECK, shown, str(version.content).strip(), metadata.version("mlflow"))
    yield compare_clocks(CHECK, listed.ahead)


def _sqlite(path: Path) -> Finding:
    if not path.exists():
        return ok(CHECK, f"no server set; `franca register` will create {path}")
    try:
        with closing(sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro", uri=True, timeout=SECONDS)) as database:
            ((count,),) = database.execute("SELECT count(*) FROM runs")
    except sqlite3.Error as error:
        return problem(CHECK, f"{path}: {error}", "restore a backup, or move it away and run `franca register`")
    return ok(CHECK, f"no server set; {path.name} has {count} run{'s' * (count != 1)}")


def _database(shown: str, host: str, port: int | None) -> Finding:
    if port is None:
        return ok(CHECK, f"{shown}: not asked, the address has no port")
    try:
        socket.create_connection((host, port), SECONDS).close()
    except OSError as error:
        return problem(
            CHECK, f"{shown}: {error.strerror or error}", "start the database or change MLFLOW_TRACKING_URI"
        )
    return ok(CHECK, f"{shown}: accepts connections")
