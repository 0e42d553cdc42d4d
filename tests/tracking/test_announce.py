"""Commands that move the champion send an event to the Prefect server that is set."""

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from franca.params import Params
from franca.stages import register
from franca.tracking import review
from tests.tracking.conftest import Finish


@pytest.fixture
def events(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[dict[str, Any]]]:
    """Set a server that takes events; they are collected."""
    found: list[dict[str, Any]] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            assert self.path == "/api/events"
            found.extend(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(204)
            self.end_headers()

        def log_message(self, *arguments: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
    monkeypatch.setenv("PREFECT_API_URL", f"http://127.0.0.1:{server.server_port}/api")
    yield found
    server.shutdown()
    server.server_close()


def test_each_move_of_the_champion_is_an_event(
    params: Params, finish: Finish, events: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    run = "crimson-otter (01234567-89ab-cdef-0123-456789abcdef)"
    monkeypatch.setenv("FRANCA_FLOW_RUN", run)
    finish(1, knn=60.0)
    register.run(params)
    finish(2, knn=70.0)
    register.run(params)
    monkeypatch.delenv("FRANCA_FLOW_RUN")
    review.rollback(params, None, "it was slow")
    review.reject(params, "2", "moves nothing")
    moves = [(event["payload"]["before"], event["payload"]["after"]) for event in events]
    assert moves == [(None, "1"), ("1", "2"), ("2", "1")]
    assert {event["event"] for event in events} == {"franca.champion.moved"}
    assert events[-1]["payload"]["reason"] == "it was slow" and events[-1]["payload"]["text"].endswith(": it was slow")
    assert [bool(event["related"]) for event in events] == [True, True, False]
    assert events[0]["related"][0]["prefect.resource.id"] == f"prefect.flow-run.{run[-37:-1]}"


def test_a_dead_server_stops_nothing(
    params: Params, finish: Finish, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PREFECT_API_URL", "http://user:secret@127.0.0.1:1/api")
    finish(1)
    register.run(params)
    captured = capsys.readouterr()
    assert "Prefect was not told of the new champion (connection refused)" in captured.err
    assert "secret" not in captured.err + captured.out
