"""The lock on a registered model: one holder at a time, however slow the server is; dead claims expire."""

import http.client
import http.server
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator

import pytest
from mlflow import MlflowClient

from franca.errors import FrancaError
from franca.tracking.client import connect
from franca.tracking.model_lock import PREFIX, lock_model
from tests.tracking.conftest import REPOSITORY, Server

COUNT = """
import sys, time
from franca.tracking.client import connect
from franca.tracking.model_lock import lock_model
client = connect()
for _ in range(int(sys.argv[1])):
    with lock_model(client, "m"):
        count = int(client.get_registered_model("m").tags["count"])
        time.sleep(0.2)
        client.set_registered_model_tag("m", "count", count + 1)
"""
OTHER = f"{PREFIX}other"
ELSEWHERE = "elsewhere process 7"


def make_model() -> MlflowClient:
    client = connect()
    client.create_registered_model("m", tags={"count": "0"})
    return client


@pytest.fixture
def client(root: object) -> MlflowClient:
    return make_model()


def claims(client: MlflowClient) -> dict[str, str]:
    tags = client.get_registered_model("m").tags
    return {key: value for key, value in tags.items() if key.startswith(PREFIX)}


def count_in_processes(client: MlflowClient, processes: int, times: int) -> None:
    writers = [subprocess.Popen([sys.executable, "-c", COUNT, str(times)]) for _ in range(processes)]
    assert [writer.wait(timeout=240) for writer in writers] == [0] * processes
    assert client.get_registered_model("m").tags["count"] == str(processes * times)
    assert not claims(client)


@pytest.mark.slow
def test_three_processes_never_write_at_once(client: MlflowClient, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(REPOSITORY))
    count_in_processes(client, 3, 4)


def test_claim_of_a_dead_process_expires(client: MlflowClient, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("franca.tracking.model_lock.STALE_SECONDS", 0.5)
    for dead in (f"1 0 0.5 {ELSEWHERE}", f"0 0 0.5 {ELSEWHERE}", "of another version"):
        client.set_registered_model_tag("m", OTHER, dead)
        with lock_model(client, "m") as ours:
            assert ours()
            assert OTHER not in claims(client)
        assert not claims(client)


@pytest.mark.parametrize("ticket", [0, 1])
def test_claim_of_a_live_process_is_reported(
    client: MlflowClient, monkeypatch: pytest.MonkeyPatch, ticket: int
) -> None:
    monkeypatch.setattr("franca.tracking.model_lock.TIMEOUT_SECONDS", 0.5)
    monkeypatch.setattr("franca.tracking.model_lock.STALE_SECONDS", 0.2)
    other = f"{ticket} 0 60.0 {ELSEWHERE}"
    client.set_registered_model_tag("m", OTHER, other)
    with pytest.raises(FrancaError, match="locked by elsewhere process 7; run again"), lock_model(client, "m"):
        pass
    assert claims(client) == {OTHER: other}


def test_a_later_ticket_does_not_matter(client: MlflowClient) -> None:
    with lock_model(client, "m"):
        client.set_registered_model_tag("m", OTHER, f"2 0 60.0 {ELSEWHERE}")
    assert list(claims(client)) == [OTHER]


def test_holder_notices_that_it_lost_the_lock(client: MlflowClient) -> None:
    with lock_model(client, "m") as ours:
        (own,) = claims(client)
        assert ours()
        client.delete_registered_model_tag("m", own)
        assert not ours()


def test_a_process_that_was_taken_for_dead_takes_a_new_ticket(
    client: MlflowClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its claim is deleted while it waits, and another process, which came later, has entered."""
    client.set_registered_model_tag("m", OTHER, f"1 0 60.0 {ELSEWHERE}")
    sleeps = iter(range(100))

    def sleep(seconds: float) -> None:
        (own,) = set(claims(client)) - {OTHER}
        match next(sleeps):
            case 0:
                client.delete_registered_model_tag("m", own)
                client.set_registered_model_tag("m", OTHER, f"7 0 60.0 {ELSEWHERE}")
            case 1:
                assert claims(client)[own].startswith("8 ")
                client.delete_registered_model_tag("m", OTHER)

    monkeypatch.setattr("franca.tracking.model_lock.time.sleep", sleep)
    with lock_model(client, "m") as ours:
        assert ours()
    assert next(sleeps) == 2


Slow = Callable[[float], None]


@pytest.fixture
def slow(server: Server, monkeypatch: pytest.MonkeyPatch) -> Iterator[Slow]:
    """Put a proxy before the server that delays each request."""
    proxies: list[http.server.ThreadingHTTPServer] = []

    def start(seconds: float) -> None:
        class Proxy(http.server.BaseHTTPRequestHandler):
            def forward(self) -> None:
                time.sleep(seconds)
                body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
                upstream = http.client.HTTPConnection("127.0.0.1", server.port)
                headers = {name: value for name, value in self.headers.items() if name.lower() != "host"}
                upstream.request(self.command, self.path, body, headers)
                answer = upstream.getresponse()
                content = answer.read()
                self.send_response(answer.status)
                self.send_header("Content-Type", answer.headers["Content-Type"])
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)
                upstream.close()

            do_GET = do_POST = do_PATCH = do_DELETE = do_PUT = forward

            def log_message(self, *_: object) -> None: ...

        proxy = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Proxy)
        proxies.append(proxy)
        threading.Thread(target=proxy.serve_forever, daemon=True).start()
        monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{proxy.server_address[1]}")

    yield start
    for proxy in proxies:
        proxy.shutdown()
        proxy.server_close()


@pytest.mark.server
def test_a_slow_server_only_takes_longer(slow: Slow, monkeypatch: pytest.MonkeyPatch) -> None:
    slow(1.0)
    client = make_model()
    begin = time.monotonic()
    with lock_model(client, "m") as ours:
        assert ours()
    assert time.monotonic() - begin < 40
    assert not claims(client)


@pytest.mark.server
def test_processes_on_a_slow_server_never_write_at_once(slow: Slow, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(REPOSITORY))
    slow(0.6)
    count_in_processes(make_model(), 3, 2)
