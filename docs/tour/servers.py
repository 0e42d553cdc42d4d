"""The tour's servers: MLflow, Prefect and a worker, on free ports of this machine."""

import os
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx

PATIENCE_SECONDS = 1800.0
DONE = {"COMPLETED", "FAILED", "CANCELLED", "CRASHED"}


def free_port() -> int:
    """Return a port of this machine that nothing listens on."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def wait(what: str, condition: Callable[[], Any]) -> Any:
    """Wait until a condition returns something true, and return that; TimeoutError after half an hour."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not (found := condition()):
        if time.monotonic() > deadline:
            raise TimeoutError(f"waited {PATIENCE_SECONDS / 60:g} minutes for {what}")
        time.sleep(1)
    return found


def answers(address: str) -> bool:
    """Return whether a server answers at an address with success."""
    try:
        return httpx.get(address, timeout=10).is_success
    except httpx.TransportError:
        return False


class Servers:
    """Programs that run until the tour ends; each writes to a log file."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._programs: list[subprocess.Popen[bytes]] = []

    def start(self, name: str, command: list[str], cwd: Path, environment: Mapping[str, str]) -> None:
        """Start a program in a process group of its own."""
        with (self.folder / f"{name}.log").open("ab") as log:
            self._programs.append(
                subprocess.Popen(command, cwd=cwd, env=environment, stdout=log, stderr=log, start_new_session=True)
            )

    def stop(self) -> None:
        """Stop all programs, the last one first, and wait for them."""
        for program in reversed(self._programs):
            _signal(program, signal.SIGTERM)
            try:
                program.wait(60)
            except subprocess.TimeoutExpired:
                _signal(program, signal.SIGKILL)
                program.wait()


def _signal(program: subprocess.Popen[bytes], number: signal.Signals) -> None:
    with suppress(ProcessLookupError):
        os.killpg(program.pid, number)


class Prefect:
    """The API of the Prefect server."""

    def __init__(self, address: str) -> None:
        self._client = httpx.Client(base_url=address, timeout=60)

    def deployment(self, name: str) -> str | None:
        """Return the ID of a deployment FLOW/NAME, None if there is none yet."""
        found = self._ask("GET", f"/deployments/name/{name}")
        return str(found.json()["id"]) if found.is_success else None

    def start(self, deployment: str, parameters: dict[str, Any]) -> str:
        """Start a deployment and return the ID of the flow run."""
        identifier = self.deployment(deployment)
        found = self._ask("POST", f"/deployments/{identifier}/create_flow_run", {"parameters": parameters})
        return str(found.raise_for_status().json()["id"])

    def state(self, run: str) -> dict[str, Any]:
        """Return the state of a flow run."""
        return dict(self._ask("GET", f"/flow_runs/{run}").raise_for_status().json()["state"])

    def end(self, run: str) -> str:
        """Wait for the end of a flow run and return the name of its state."""
        state = wait(f"flow run {run}", lambda: (s := self.state(run))["type"] in DONE and s)
        return str(state["name"])

    def suspended(self) -> str:
        """Wait until a flow run asks for input, and return its ID."""
        query = {"flow_runs": {"state": {"name": {"any_": ["Suspended"]}}}}
        found = wait("a form", lambda: self._ask("POST", "/flow_runs/filter", query).raise_for_status().json())
        return str(found[0]["id"])

    def answer(self, run: str, **values: str) -> None:
        """Fill in the form of a suspended flow run."""
        found = self._ask("POST", f"/flow_runs/{run}/resume", {"run_input": values}).json()
        if found["status"] != "ACCEPT":
            raise RuntimeError(f"the form was refused: {found}")

    def _ask(self, method: str, path: str, content: Any = None) -> httpx.Response:
        """Send a request again for as long as the server is too busy to answer it, as Prefect's own client does."""

        def answer() -> httpx.Response | None:
            found = self._client.request(method, path, json=content)
            return None if found.status_code == httpx.codes.SERVICE_UNAVAILABLE else found

        response: httpx.Response = wait("the Prefect server", answer)
        return response
