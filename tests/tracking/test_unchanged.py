"""The quick check of `register`: it finds every change of files and server, and needs no MLflow."""

import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from franca.files import read_json, write_json
from franca.params import Params, parse_params
from franca.stages import register
from franca.tracking.client import connect
from franca.tracking.unchanged import RECEIPT, read_unchanged
from tests.tracking.conftest import REPOSITORY, Finish, Server


@pytest.fixture
def registered(finish: Finish, params: Params) -> Params:
    finish()
    register.run(params)
    assert read_unchanged(params) == read_json(RECEIPT)
    return params


def test_a_second_run_imports_neither_mlflow_nor_torch(registered: Params, root: Path) -> None:
    write_json(root / "values.json", registered.model_dump(mode="json", by_alias=True))
    code = (
        "import json, sys; from franca.params import parse_params; from franca.stages import register;"
        "register.run(parse_params(json.load(open('values.json')), 'values.json'));"
        "print(sorted({'mlflow', 'torch', 'numpy'} & set(sys.modules)))"
    )
    command = [sys.executable, "-c", f"import sys; sys.path.insert(0, {str(REPOSITORY)!r}); {code}"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    first, *_, last = done.stdout.splitlines()
    assert first.startswith("franca version 1 (champion) on sqlite:///")
    assert last == "[]"


def _other_results() -> None:
    path = Path("results/disentangle/metrics.json")
    write_json(path, read_json(path) | {"more": 1})


def _moved_alias() -> None:
    connect().delete_registered_model_alias("franca", "champion")


def _deleted_run() -> None:
    connect().delete_run(read_json(RECEIPT)["run_id"])


def _deleted_version() -> None:
    connect().delete_model_version("franca", "1")


def _changed_tag() -> None:
    connect().set_model_version_tag("franca", "1", "franca.judged", "other gates")


@pytest.mark.parametrize(
    "change",
    [
        _other_results,
        _moved_alias,
        _deleted_run,
        _deleted_version,
        _changed_tag,
        lambda: shutil.rmtree("mlartifacts"),
        lambda: Path("mlflow.db").unlink(),
        lambda: Path("mlflow.db").write_bytes(b"no database"),
        lambda: Path("models/franca/model.safetensors").write_bytes(b"other weights"),
        lambda: RECEIPT.write_text("{}"),
        RECEIPT.unlink,
    ],
)
def test_every_change_is_found(registered: Params, change: Callable[[], None]) -> None:
    change()
    assert read_unchanged(registered) is None


def test_other_gates_are_a_change(registered: Params) -> None:
    values = registered.model_dump(by_alias=True)
    gate = {"metric": "knn/val/top1", "against": "champion", "min_improvement": 0.5, "floor": 90.0}
    other = parse_params(values | {"register": values["register"] | {"gates": [gate]}}, "params.yaml")
    assert read_unchanged(other) is None


@pytest.mark.slow
def test_a_server_is_asked_by_http(
    finish: Finish, params: Params, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    finish()
    register.run(params)
    assert read_unchanged(params) == read_json(RECEIPT)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", server.uri.replace("://", "://user:secret@"))
    assert read_unchanged(params) is not None, "the same server, with a password"
    connect().delete_registered_model_alias("franca", "champion")
    assert read_unchanged(params) is None
    server.kill()
    assert read_unchanged(params) is None


def test_links_follow_the_public_address(registered: Params, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_PUBLIC_URL", "https://models.example.org/")
    assert read_unchanged(registered) is None
    register.run(registered)
    receipt = read_json(RECEIPT)
    assert receipt["links"]["version"].startswith("https://models.example.org/#/models/franca/versions/1?")
    assert receipt["tracking_uri"].startswith("sqlite:///")
    assert read_unchanged(registered) == receipt
