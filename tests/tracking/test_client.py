import os
import socket
import subprocess
import sys
import threading
from base64 import b64encode
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from franca.errors import FrancaError
from franca.tracking.client import connect, experiment_id, redacted, tracking_uri
from franca.tracking.history import EXPERIMENT


def test_default_database_is_relative_to_dvc_root(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("DVC_ROOT", str(tmp_path))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "")
    assert tracking_uri() == f"sqlite:///{tmp_path}/mlflow.db"


@pytest.mark.parametrize(
    ("given", "meant"),
    [
        ("sqlite:///other.db", "sqlite:///{root}/other.db"),
        ("sqlite:////elsewhere/mlflow.db", "sqlite:////elsewhere/mlflow.db"),
        ("http://127.0.0.1:5000/", "http://127.0.0.1:5000"),
    ],
)
def test_address_from_environment(given: str, meant: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("DVC_ROOT", str(tmp_path))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", given)
    assert tracking_uri() == meant.format(root=tmp_path)


def test_password_is_redacted() -> None:
    assert redacted("http://user:word@host:5000/path") == "http://host:5000/path"
    assert redacted("sqlite:////a@b/mlflow.db") == "sqlite:////a@b/mlflow.db"
    for malformed in (
        "http://user:w/rd@host",
        "http://user:w?rd@host",
        "http://user:1#wrd@host",
        "http://[user:w@host",
    ):
        assert redacted(malformed) == "http://host"


@pytest.mark.parametrize(
    "uri", ["http://user:p%40ss/wxyz@host:5000", "http://user:1/wxyz@host", "postgresql://u:1#wxyz@h/db"]
)
def test_password_with_special_characters_is_an_error_that_does_not_print_it(
    uri: str, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    with pytest.raises(
        FrancaError, match=r"^MLFLOW_TRACKING_URI: not a valid address; write special characters"
    ) as caught:
        connect()
    assert "wxyz" not in str(caught.value)


REGISTER = """
import logging, sys, traceback
from franca.tracking import client, mirror
from pathlib import Path
logging.basicConfig(level=logging.DEBUG)
found = client.connect()
with client.server_errors():
    try:
        found.set_terminated("0" * 32)
    except Exception:
        traceback.print_exc()
    found.create_experiment("x")
"""


def test_user_and_password_reach_the_server_and_no_output(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: set[str | None] = set()

    class Forbidden(BaseHTTPRequestHandler):
        def answer(self) -> None:
            seen.add(self.headers["Authorization"])
            self.send_response(200 if self.path == "/health" else 500)
            self.end_headers()
            self.wfile.write(b"{}")

        do_GET = do_POST = answer

        def log_message(self, *_: object) -> None: ...

    with HTTPServer(("127.0.0.1", 0), Forbidden) as site:
        threading.Thread(target=site.serve_forever, daemon=True).start()
        address = f"http://jane:s3cr%40t@127.0.0.1:{site.server_address[1]}"
        environment = {**os.environ, "MLFLOW_TRACKING_URI": address, "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0"}
        done = subprocess.run([sys.executable, "-c", REGISTER], env=environment, capture_output=True, text=True)
        site.shutdown()
    assert "Traceback" in done.stderr and f"127.0.0.1:{site.server_address[1]}" in done.stderr
    assert "s3cr" not in done.stdout + done.stderr
    assert seen == {"Basic " + b64encode(b"jane:s3cr@t").decode()}


@pytest.mark.parametrize("uri", ["http://127.0.0.1:9", "http://user:word@127.0.0.1:9", "postgresql://127.0.0.1:9/db"])
def test_unreachable_server_is_a_one_line_error(uri: str, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    with pytest.raises(FrancaError, match="connection refused; start it or change MLFLOW_TRACKING_URI") as caught:
        connect()
    assert "\n" not in str(caught.value)
    assert "word" not in str(caught.value)


@pytest.mark.timeout(60)  # MLflow's own default is four minutes
def test_server_that_never_answers_is_an_error_within_seconds(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("franca.tracking.client.CONNECT_SECONDS", 0.5)
    with socket.create_server(("127.0.0.1", 0)) as deaf:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{deaf.getsockname()[1]}")
        with pytest.raises(FrancaError, match="timed out"):
            connect()


def test_artifacts_are_next_to_the_database(root: Path) -> None:
    client = connect()
    found = client.get_experiment(experiment_id(client, "one"))
    assert found.artifact_location == (root / "mlartifacts").as_uri()
    assert experiment_id(client, "one") == found.experiment_id


def test_a_deleted_experiment_is_an_error_that_names_the_parameter_if_there_is_one(root: Path) -> None:
    client = connect()
    for name, key, end in (("runs", "register.experiment", " or change register.experiment"), (EXPERIMENT, None, "")):
        number = experiment_id(client, name, key)
        client.delete_experiment(number)
        with pytest.raises(FrancaError, match="was deleted on the tracking server; restore it by") as caught:
            experiment_id(client, name, key)
        assert str(caught.value).endswith(f"`mlflow experiments restore --experiment-id {number}`{end}")
