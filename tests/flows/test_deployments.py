"""A server, a worker and the deployments of prefect.yaml, as `make prefect-ui` and `make worker` start them."""

import json
import os
import re
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

ROOT = Path(__file__).parents[2]

pytestmark = pytest.mark.slow


Program = subprocess.Popen[bytes]


class Site(httpx.Client):
    """The API of a server, and a function that starts programs with its URL."""

    start_program: Callable[..., Program]
    start_server: Callable[[], Program]
    output_of: Callable[..., str]
    server: Program
    worker: Program
    home: Path


@pytest.fixture
def api(project: Path, tmp_path: Path) -> Iterator[Site]:
    for name in ("flows", "franca"):
        shutil.copytree(ROOT / name, project / name)
    for name in ("prefect.yaml", "pyproject.toml"):
        shutil.copy(ROOT / name, project / name)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    here = Path(sys.executable).parent
    environment = {
        **os.environ,
        "PATH": f"{here}:{os.environ['PATH']}",
        "PREFECT_HOME": str(tmp_path / "prefect"),
        "PREFECT_API_URL": f"http://127.0.0.1:{port}/api",
        "PREFECT_SERVER_ALLOW_EPHEMERAL_MODE": "false",
    }

    started = []

    def start(*command: str) -> Program:
        with (tmp_path / f"{Path(command[0]).name}.log").open("ab") as log:
            program = subprocess.Popen(
                command, cwd=project, env=environment, stdout=log, stderr=log, start_new_session=True
            )
        started.append(program)
        return program

    try:
        with Site(base_url=environment["PREFECT_API_URL"]) as site:
            site.home = tmp_path / "prefect"
            site.start_server = lambda: start("prefect", "server", "start", "--host", "127.0.0.1", "--port", port)
            site.server = site.start_server()
            site.output_of = lambda *command: (
                subprocess.run(
                    command, cwd=project, env=environment, capture_output=True, text=True, check=True
                ).stdout
            )
            wait(lambda: answers(site, "/health"))
            site.start_program, site.worker = start, start("flows/worker.sh")
            wait(lambda: is_deployed(site))
            yield site
    finally:
        for program in reversed(started):
            program.terminate()
            program.wait(60)


def is_deployed(client: httpx.Client) -> bool:
    """Return whether flows/deploy.py has done its last step for the last deployment of prefect.yaml."""
    found = client.get("/deployments/name/reproduce/run")
    return found.is_success and found.json()["parameter_openapi_schema"].get("additionalProperties") is False


def answers(client: httpx.Client, path: str) -> bool:
    try:
        return client.get(path).is_success
    except httpx.TransportError:
        return False


def wait(value: Any, seconds: float = 240) -> Any:
    """Wait for a true result of `value` and return it."""
    deadline = time.monotonic() + seconds
    while not (found := value()):
        assert time.monotonic() < deadline
        time.sleep(0.5)
    return found


def deployment(api: httpx.Client, name: str) -> dict[str, Any]:
    return dict(api.get(f"/deployments/name/{name}").json())


def form(api: httpx.Client) -> dict[str, Any]:
    """Return the initial values of the form of the manual deployment."""
    return dict(deployment(api, "pipeline/manual")["parameter_openapi_schema"]["properties"]["params"]["default"])


def start(api: httpx.Client, name: str, parameters: dict[str, Any]) -> httpx.Response:
    return api.post(f"/deployments/{deployment(api, name)['id']}/create_flow_run", json={"parameters": parameters})


def end_of(api: httpx.Client, run: str) -> dict[str, Any]:
    def ended() -> dict[str, Any] | None:
        state = api.get(f"/flow_runs/{run}").json()["state"]
        return state if state["type"] in {"COMPLETED", "FAILED", "CRASHED", "CANCELLED"} else None

    return dict(wait(ended))


def test_forms_and_runs(api: httpx.Client) -> None:
    params = form(api)
    assert params["register"]["model_name"] == "franca"

    for section, key, value in (("evaluate", "knn_k", 0), ("evaluate", "knn_q", 5), ("register", "model_name", "a/b")):
        wrong = {**params, section: {**params[section], key: value}}
        refused = start(api, "pipeline/manual", {"params": wrong})
        assert refused.status_code == 409
        assert re.search(rf"params\.{section}.*({key}|{value})", refused.json()["detail"])

    nightly = start(api, "pipeline/nightly", {}).json()["id"]
    assert end_of(api, nightly)["type"] == "COMPLETED"

    untouched = start(api, "pipeline/manual", {"params": params}).json()["id"]
    assert end_of(api, untouched)["type"] == "COMPLETED"
    tasks = api.post("/task_runs/filter", json={"flow_runs": {"id": {"any_": [untouched]}}}).json()
    assert [task["state_name"] for task in tasks if task["name"] == "evaluate"] == ["Cached"]

    backbone = {**params["base"]["backbone"], "embed_dim": 100}
    crossed = {**params, "base": {**params["base"], "backbone": backbone}}
    state = end_of(api, start(api, "pipeline/manual", {"params": crossed}).json()["id"])
    assert state["type"] == "FAILED"
    assert "embed_dim 100 must be a multiple of 16" in state["message"]


def with_source(api: httpx.Client, source: str) -> dict[str, Any]:
    params = form(api)
    return {"params": {**params, "prepare": {**params["prepare"], "source": source}}}


def logs(api: httpx.Client, run: str) -> list[str]:
    found = api.post("/logs/filter", json={"logs": {"flow_run_id": {"any_": [run]}}, "sort": "TIMESTAMP_ASC"}).json()
    return [line["message"] for line in found]


def stage_processes(api: httpx.Client, run: str) -> list[psutil.Process]:
    """Return the processes that the endless stage names in its output."""
    lines = [line.split() for line in logs(api, run)]
    return [psutil.Process(int(pid)) for line in lines if line[0] == "pids" for pid in line[1:]]


def test_a_cancelled_run_leaves_no_process(api: httpx.Client) -> None:
    run = start(api, "pipeline/manual", with_source(api, "endless")).json()["id"]
    processes = wait(lambda: stage_processes(api, run))
    api.post(f"/flow_runs/{run}/set_state", json={"state": {"type": "CANCELLING"}})
    assert end_of(api, run)["type"] == "CANCELLED"
    assert not psutil.wait_procs(processes, timeout=20)[1]
    time.sleep(5)  # in which nothing may schedule it again
    assert end_of(api, run)["type"] == "CANCELLED"


def lease_end(api: Site) -> str:
    """Return when the lease of the one running flow ends."""
    (lease,) = {path.read_text() for path in api.home.glob("concurrency_leases/*-*.json")}
    return str(json.loads(lease)["expiration"])


@pytest.mark.timeout(900)
def test_a_run_survives_an_outage_of_the_server_and_can_be_cancelled_after_it(api: Site) -> None:
    """The lease of the deployment's limit is renewed after 225 s. A server that has lost it ends the run instead."""
    run = start(api, "pipeline/manual", with_source(api, "endless")).json()["id"]
    processes = wait(lambda: stage_processes(api, run))
    before = lease_end(api)
    api.server.terminate()
    api.server.wait(60)
    time.sleep(50)
    assert not psutil.wait_procs(processes, timeout=0)[0]

    api.start_server()
    wait(lambda: answers(api, "/health"))
    wait(lambda: lease_end(api) > before, 300)
    assert api.get(f"/flow_runs/{run}").json()["state"]["type"] == "RUNNING"
    api.post(f"/flow_runs/{run}/set_state", json={"state": {"type": "CANCELLING"}})
    assert end_of(api, run)["type"] == "CANCELLED"
    assert not psutil.wait_procs(processes, timeout=20)[1]


def test_a_run_of_a_stopped_worker_continues_on_the_next(api: Site) -> None:
    """The worker ends after its run, which goes back to the queue and is executed by the next worker."""
    run = start(api, "pipeline/manual", with_source(api, "waits")).json()["id"]
    wait(lambda: "step 0" in logs(api, run))
    below = psutil.Process(api.worker.pid).children(recursive=True)
    api.worker.terminate()
    api.worker.wait(60)
    assert not psutil.wait_procs(below, timeout=1)[1]
    assert api.get(f"/flow_runs/{run}").json()["state"]["name"] == "AwaitingRetry"

    api.start_program("flows/worker.sh")
    assert end_of(api, run)["type"] == "COMPLETED"
    assert [line for line in logs(api, run) if line.startswith("step ")] == ["step 0", "step 1"]


def test_what_is_paused_stays_paused_when_a_worker_starts(api: Site) -> None:
    nightly, manual = deployment(api, "pipeline/nightly"), deployment(api, "pipeline/manual")
    assert not nightly["paused"] and nightly["schedules"][0]["active"]
    (schedule,) = nightly["schedules"]
    assert api.post(f"/deployments/{manual['id']}/pause_deployment").is_success
    changed = {"active": False}
    assert api.patch(f"/deployments/{nightly['id']}/schedules/{schedule['id']}", json=changed).is_success
    before = nightly["updated"]

    api.start_program("flows/worker.sh")
    wait(lambda: deployment(api, "promote/champion")["updated"] > before)
    wait(lambda: deployment(api, "pipeline/nightly")["updated"] > before)
    nightly, manual = deployment(api, "pipeline/nightly"), deployment(api, "pipeline/manual")
    assert [entry["active"] for entry in nightly["schedules"]] == [False]
    assert manual["paused"] and not nightly["paused"]


def test_the_server_refuses_unknown_parameters_and_takes_a_few_changed_values(api: Site) -> None:
    for name, parameters in (
        ("pipeline/manual", {"parms": form(api)}),
        ("quick/quick", {"valeus": ["evaluate.knn_k=5"]}),
        ("quick/quick", {"preset": "photo-cpu"}),
        ("quick/quick", {"values": ["evaluate.knn_k"]}),
        ("promote/champion", {"aply": True}),
    ):
        refused = start(api, name, parameters)
        assert refused.status_code == 409, (name, parameters)
        assert "Validation failed" in refused.json()["detail"]

    submitted = api.output_of(
        sys.executable, "-m", "franca", "submit", "-S", "evaluate.knn_k=5", "-S", "evaluate.linear_c=[1e-5]"
    )
    assert re.fullmatch(rf"[\w-]+: {api.base_url.scheme}://\S+/runs/flow-run/[\w-]{{36}}\n", submitted)
    run = submitted.strip().rpartition("/")[2]
    assert end_of(api, run)["type"] == "COMPLETED"
    assert "90.0" not in str(api.post("/artifacts/filter", json=of_run(run)).json())
    assert "75.0 [60.0, 99.0]" in str(api.post("/artifacts/filter", json=of_run(run)).json())

    wrong = start(api, "quick/quick", {"values": ["evaluate.knn_q=5"]}).json()["id"]
    state = end_of(api, wrong)
    assert state["type"] == "FAILED"
    assert state["message"].endswith("changed values: evaluate.knn_q: unknown key (value 5); did you mean knn_k?")


def of_run(run: str) -> dict[str, Any]:
    return {"artifacts": {"flow_run_id": {"any_": [run]}}}
