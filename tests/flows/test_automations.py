"""Automations on a real server: what they send, and that deploying them again changes nothing."""

import json
import threading
import uuid
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import pytest
from prefect import flow, tags
from prefect.client.orchestration import get_client
from prefect.settings import PREFECT_API_URL, temporary_settings

from flows import automations as deployed
from flows.alert import check_address
from franca.errors import FrancaError
from franca.events import send_event
from franca.tracking.announce import announce
from franca.tracking.history import Entry
from tests.flows.test_deployments import answers, wait
from tests.flows.test_servers import Start, port, start  # noqa: F401


class Receiver(NamedTuple):
    """A webhook, and what it was sent."""

    url: str
    posts: list[dict[str, Any]]

    def titles(self) -> list[str]:
        return [post["title"] for post in self.posts]


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    posts: list[dict[str, Any]] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            posts.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(200)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *arguments: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
    yield Receiver(f"http://127.0.0.1:{server.server_port}/", posts)
    server.shutdown()
    server.server_close()


def test_an_address_that_is_none_is_refused_without_repeating_it() -> None:
    check_address("mailtos://user:secret@example.org?from=a@example.org&to=b@example.org")
    check_address("https://hooks.example.org/x")
    for wrong in ("nonsense", "mail://user:secret@example.org", "http://"):
        with pytest.raises(FrancaError, match="FRANCA_ALERT_URL: neither") as found:
            check_address(wrong)
        assert "secret" not in str(found.value)


@pytest.mark.server
def test_alerts_of_a_real_server(
    start: Start,  # noqa: F811
    port: str,  # noqa: F811
    receiver: Receiver,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    address = f"http://127.0.0.1:{port}/api"
    environment = {
        "PREFECT_HOME": str(tmp_path / "prefect"),
        "PREFECT_UI_URL": f"http://127.0.0.1:{port}",
        "PREFECT_SERVER_SERVICES_LATE_RUNS_AFTER_SECONDS": "3",
    }
    start("prefect", "server", "start", "--host", "127.0.0.1", "--port", port, **environment)
    with httpx.Client(base_url=address, timeout=60) as api, temporary_settings({PREFECT_API_URL: address}):
        wait(lambda: answers(api, "/health"))
        deploy(receiver.url)
        before = automations(api)
        assert {entry["name"] for entry in before} == {
            f"franca: {name}"
            for name in ("silent", "failed", "crashed", "late", "champion moved", "data changed", "drift found")
        }

        paused = next(entry["id"] for entry in before if entry["name"] == "franca: drift found")
        assert api.patch(f"/automations/{paused}", json={"enabled": False}).is_success
        before = automations(api)
        deploy(receiver.url)
        deploy(None)
        assert automations(api) == before

        with tags("franca"):
            fails(return_state=True)
        wait(lambda: "A run failed" in receiver.titles())
        (alert,) = receiver.posts
        assert alert["text"].startswith("fails run ") and 'because of "quotes"' in alert["text"]
        assert alert["flow"] == "fails" and alert["event"] == "prefect.flow-run.Failed"
        assert alert["url"].startswith(f"http://127.0.0.1:{port}/runs/flow-run/")

        monkeypatch.setenv("PREFECT_API_URL", address)
        announce("franca", Entry("rolled back", "1", "2", "1", "it was slow", actor="jane"))
        wait(lambda: "Champion moved" in receiver.titles())
        assert receiver.posts[-1]["text"] == "champion of franca: 2 -> 1, rolled back by jane: it was slow"
        assert json.loads(receiver.posts[-1]["payload"])["after"] == "1"
        assert send_event("franca.data.changed", "franca", "other data", {}) is None
        assert send_event("franca.drift.found", "franca", "drift", {}) is None  # that alert is paused

        flow = post(api, "/flows/", {"name": "by hand"}).json()["id"]
        silent = new_run(api, flow, "RUNNING")
        heartbeat = {
            "id": str(uuid.uuid4()),
            "occurred": datetime.now(UTC).isoformat(),
            "event": "prefect.flow-run.heartbeat",
            "resource": {"prefect.resource.id": f"prefect.flow-run.{silent}"},
            "related": [{"prefect.resource.id": "prefect.tag.franca", "prefect.resource.role": "tag"}],
        }
        post(api, "/events", [heartbeat])
        past = (datetime.now(UTC) - timedelta(minutes=1)).isoformat()
        new_run(api, flow, "SCHEDULED", {"state_details": {"scheduled_time": past}})
        foreign = new_run(api, flow, "RUNNING", tags=())
        post(api, f"/flow_runs/{foreign}/set_state", {"state": {"type": "FAILED"}})
        wait(lambda: {"Data changed", "A run is late", "A run crashed"} <= set(receiver.titles()))
        assert api.get(f"/flow_runs/{silent}").json()["state"]["type"] == "CRASHED"
        assert "no heartbeat for 10 s" in next(sent["text"] for sent in receiver.posts if "crashed" in sent["title"])
        assert sorted(receiver.titles()) == sorted(set(receiver.titles())), "each was sent once"
        assert len(receiver.posts) == 5


@flow
def fails() -> None:
    raise RuntimeError('because of "quotes"')


def deploy(address: str | None) -> None:
    """Do what flows/deploy.py does, as a worker with or without an address for alerts."""
    with pytest.MonkeyPatch.context() as patch, get_client(sync_client=True) as client:
        patch.setattr(deployed, "SILENT", timedelta(seconds=10))
        patch.setenv("FRANCA_ALERT_URL", address or "")
        deployed.deploy_automations(client)


def automations(api: httpx.Client) -> list[dict[str, Any]]:
    found = api.post("/automations/filter", json={}).json()
    return sorted(found, key=lambda entry: str(entry["name"]))


def new_run(
    api: httpx.Client, flow: str, state: str, more: dict[str, Any] | None = None, tags: tuple[str, ...] = ("franca",)
) -> str:
    body = {"flow_id": flow, "tags": list(tags), "state": {"type": state, **(more or {})}}
    return str(post(api, "/flow_runs/", body).json()["id"])


def post(api: httpx.Client, path: str, body: Any) -> httpx.Response:
    """Send a request, again while the server is too busy for it."""
    return wait(
        lambda: answer if (answer := api.post(path, json=body)).status_code != 503 else None
    ).raise_for_status()
