"""The servers of docker/compose.yaml with its own variables, without Docker: pages, host names, restarts."""

import json
import os
import re
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx
import pytest
from prefect.settings import PREFECT_UI_URL, temporary_settings
from prefect.utilities.urls import url_for

from franca.params import read_yaml
from franca.tracking.links import links, public_uri
from tests.flows.test_deployments import answers, wait

ROOT = Path(__file__).parents[2]
SERVICES = read_yaml(ROOT / "docker/compose.yaml")["services"]
Start = Callable[..., subprocess.Popen[bytes]]


def variables(service: str, **values: str) -> dict[str, str]:
    """Return a service's environment, with `values` for what docker/.env would set."""

    def value(found: re.Match[str]) -> str:
        name, _, default = found[1].partition(":-")
        return values.get(name, default)

    return {
        name: re.sub(r"\$\{([^}]*)\}", value, str(text)) for name, text in SERVICES[service]["environment"].items()
    }


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Start a program of the environment, in a folder of the test; all of them end with it."""
    started: list[subprocess.Popen[bytes]] = []
    here = Path(sys.executable).parent

    def run(*command: str, **environment: str) -> subprocess.Popen[bytes]:
        with (tmp_path / f"{command[0]}.log").open("ab") as log:
            program = subprocess.Popen(
                command,
                cwd=tmp_path,
                env={**os.environ, "PATH": f"{here}:{os.environ['PATH']}", **environment},
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        started.append(program)
        return program

    yield run
    for program in reversed(started):
        program.terminate()
        program.wait(60)


@pytest.fixture
def port() -> str:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return str(free.getsockname()[1])


def prefect_variables(folder: Path, port: str) -> dict[str, str]:
    """Those of compose, with folders of the test for its volume and tmpfs, SQLite, and no login."""
    found = variables("prefect", PREFECT_PUBLIC_URL=f"http://127.0.0.1:{port}")
    del found["PREFECT_SERVER_DATABASE_CONNECTION_URL"]
    (folder / "state/prefect").mkdir(parents=True, exist_ok=True)
    return {name: re.sub("^/(state|tmp)/", f"{folder}/\\1/", text) for name, text in found.items()}


@pytest.mark.slow
def test_prefect_serves_its_pages_from_a_folder_of_its_user(start: Start, port: str, tmp_path: Path) -> None:
    start("prefect", "server", "start", "--port", port, **prefect_variables(tmp_path, port))
    with httpx.Client(base_url=f"http://127.0.0.1:{port}") as client:
        wait(lambda: answers(client, "/api/health"))
        page = client.get("/", follow_redirects=True)
        assert page.is_success and "<html" in page.text
        settings = client.get("/ui-settings").json()
    assert settings["api_url"] == f"http://127.0.0.1:{port}/api"
    assert list((tmp_path / "tmp/ui").rglob("index.html"))


@pytest.mark.slow
def test_leases_of_running_flows_survive_a_restart_of_the_server(start: Start, port: str, tmp_path: Path) -> None:
    environment = prefect_variables(tmp_path, port)
    command = ("prefect", "server", "start", "--port", port)
    with httpx.Client(base_url=f"http://127.0.0.1:{port}/api") as client:
        server = start(*command, **environment)
        wait(lambda: answers(client, "/health"))
        assert client.post("/v2/concurrency_limits/", json={"name": "one", "limit": 1}).is_success
        asked = {"names": ["one"], "slots": 1, "mode": "concurrency", "lease_duration": 300}
        lease = client.post("/v2/concurrency_limits/increment-with-lease", json=asked).json()["lease_id"]
        server.terminate()
        server.wait(60)
        start(*command, **environment)
        wait(lambda: answers(client, "/health"))
        renewed = client.post(f"/v2/concurrency_limits/leases/{lease}/renew", json={"lease_duration": 300})
        assert renewed.is_success, renewed.text


@pytest.mark.slow
@pytest.mark.parametrize(
    ("host", "origin", "allowed"),
    [
        ("models.example.org:5000", "http://models.example.org:5000", True),
        ("models.example.org", "https://models.example.org", True),
        ("models.example.org:8443", "https://models.example.org:8443", True),
        ("localhost:5000", "http://localhost:5000", True),
        ("mlflow:5000", None, True),
        ("models.example.org:5000", "http://evil.example.com", False),
        ("evil.example.com:5000", None, False),
        ("models.example.org.evil.com", None, False),
    ],
)
def test_mlflow_answers_browsers_under_its_public_name_only(
    mlflow_url: str, host: str, origin: str | None, allowed: bool
) -> None:
    headers = {"Host": host} | ({"Origin": origin} if origin else {})
    answer = httpx.post(
        f"{mlflow_url}/ajax-api/2.0/mlflow/experiments/search", headers=headers, json={"max_results": 1}
    )
    assert answer.status_code == (200 if allowed else 403), answer.text


@pytest.fixture(scope="module")
def mlflow_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("mlflow")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environment = variables("mlflow", PUBLIC_HOST="models.example.org")
    environment["MLFLOW_BACKEND_STORE_URI"] = f"sqlite:///{folder}/mlflow.db"
    environment["MLFLOW_ARTIFACTS_DESTINATION"] = str(folder / "artifacts")
    command = [sys.executable, "-m", "mlflow", "server", "--port", str(port), "--workers", "1"]
    with (folder / "log").open("wb") as log:
        server = subprocess.Popen(
            command, cwd=folder, env={**os.environ, **environment}, stdout=log, stderr=log, start_new_session=True
        )
    try:
        with httpx.Client(base_url=f"http://127.0.0.1:{port}") as client:
            wait(lambda: answers(client, "/health"))
        yield f"http://127.0.0.1:{port}"
    finally:
        server.terminate()
        server.wait(60)


def test_the_pages_of_prefect_call_the_port_that_was_asked_for() -> None:
    shown = subprocess.run(
        ["make", "-n", "-p", "prefect-ui", "PREFECT_PORT=4300"], cwd=ROOT, capture_output=True, text=True, check=False
    ).stdout
    assert re.search(r"PREFECT_SERVER_UI_API_URL := http://127\.0\.0\.1:4300/api", shown)


def test_state_that_must_outlive_the_container_is_on_volumes() -> None:
    volumes: list[Any] = SERVICES["prefect"]["volumes"]
    assert any(volume.endswith(f":{SERVICES['prefect']['environment']['PREFECT_HOME']}") for volume in volumes)
    assert json.dumps(SERVICES["prefect"]["environment"]).count("lease_storage.filesystem") == 1


def test_links_in_runs_and_artifacts_have_the_addresses_of_browsers(monkeypatch: pytest.MonkeyPatch) -> None:
    public = {"MLFLOW_PUBLIC_URL": "https://models.example.org", "PREFECT_PUBLIC_URL": "https://flows.example.org"}
    environment = variables("worker", **public)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert public_uri() == "https://models.example.org"
    found = links(public_uri(), "1", "abc", "franca", "3")
    assert found["run"].startswith("https://models.example.org/#/experiments/1/runs/abc")
    with temporary_settings({PREFECT_UI_URL: environment["PREFECT_UI_URL"]}):
        page = url_for("flow-run", obj_id=uuid4())
    assert page is not None and page.startswith("https://flows.example.org/runs/flow-run/")
    assert {variables("worker")[name] for name in ("MLFLOW_PUBLIC_URL", "PREFECT_UI_URL")} == {
        "http://localhost:5000",
        "http://localhost:4200",
    }
