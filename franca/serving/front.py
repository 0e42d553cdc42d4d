"""The outermost layer of the application: it limits how many requests are worked on at once, and counts all."""

import asyncio
import time

from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from franca.serving.metrics import Metrics

SECONDS = 120.0
"""Time from the head of a request to the last byte of its response; a client that reads too slowly is cut off."""


class Front:
    """Keep at most `requests` POST requests in memory, from their first byte to the last one of the response."""

    def __init__(self, app: ASGIApp, metrics: Metrics, requests: int, seconds: float = SECONDS) -> None:
        self._app, self._metrics, self._requests, self._seconds = app, metrics, requests, seconds
        self._active = 0
        metrics.active.set_function(lambda: self._active)

    @property
    def busy(self) -> bool:
        """Whether a further request would be refused."""
        return self._active >= self._requests

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request."""
        if scope["type"] != "http":
            return await self._app(scope, receive, send)
        start, status = time.perf_counter(), 0

        async def note(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self._answer(scope, receive, note)
        except TimeoutError:
            if status:  # the client reads too slowly: the server closes the connection
                raise
            await _refuse(f"not answered within {self._seconds:g} s; try again later")(scope, receive, note)
        finally:
            status = status or 500
            # An unknown path would be a label of a stranger's choice.
            path = getattr(scope.get("route"), "path", "other")
            self._metrics.requests.labels(path, str(status)).inc()
            if status < 400:
                self._metrics.seconds.labels(path).observe(time.perf_counter() - start)

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["method"] != "POST":
            return await self._app(scope, receive, send)
        if self.busy:
            detail = f"busy: {self._requests} requests are worked on; try again later"
            return await _refuse(detail)(scope, receive, send)
        self._active += 1
        try:
            async with asyncio.timeout(self._seconds):
                await self._app(scope, receive, send)
        finally:
            self._active -= 1


def _refuse(detail: str) -> JSONResponse:
    return JSONResponse({"detail": detail}, 503, {"Connection": "close", "Retry-After": "1"})
