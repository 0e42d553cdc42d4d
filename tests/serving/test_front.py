"""Requests that take too long give their place back, whether the server or the client is slow."""

import asyncio

import pytest
from starlette.types import Message, Receive, Scope, Send

from franca.serving.front import Front
from franca.serving.metrics import Metrics


def ask(front: Front) -> list[Message]:
    """Send a request and return the messages of the response."""
    sent: list[Message] = []

    async def receive() -> Message:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: Message) -> None:
        sent.append(message)

    scope = {"type": "http", "method": "POST", "path": "/embed", "headers": []}
    asyncio.run(front(scope, receive, send))
    return sent


def test_a_slow_server_answers_503() -> None:
    async def endless(scope: Scope, receive: Receive, send: Send) -> None:
        await asyncio.sleep(60)

    front = Front(endless, Metrics(), 1, seconds=0.05)
    start, body = ask(front)
    assert start["status"] == 503 and b"not answered within 0.05 s" in body["body"]
    assert not front.busy


def test_a_client_that_reads_too_slowly_is_cut_off() -> None:
    async def endless(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await asyncio.sleep(60)

    metrics = Metrics()
    front = Front(endless, metrics, 1, seconds=0.05)
    with pytest.raises(TimeoutError):
        ask(front)
    assert not front.busy and b"franca_active_requests 0.0" in metrics.text()
