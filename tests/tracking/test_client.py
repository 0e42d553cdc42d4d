import socket
from pathlib import Path

import pytest

from franca.errors import FrancaError
from franca.tracking.client import connect, experiment_id, redacted, server_errors, tracking_uri


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


def test_deleted_experiment_says_how_to_restore_it(root: Path) -> None:
    client = connect()
    client.delete_experiment(experiment_id(client, "gone"))
    with pytest.raises(FrancaError, match="mlflow experiments restore --experiment-id"), server_errors():
        experiment_id(client, "gone")
