"""HTTP connections that must send the head of a request in time; uvicorn waits for it without end."""

import asyncio

from uvicorn.protocols.http.h11_impl import H11Protocol

SECONDS = 10.0


class Protocol(H11Protocol):
    """Close a connection whose request line and headers are not complete after `SECONDS`."""

    _expiry: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Start the time of the first request."""
        super().connection_made(transport)
        self._expiry = self.loop.call_later(SECONDS, self._close)

    def data_received(self, data: bytes) -> None:
        """Start the time of a later request with its first bytes, and stop it with its last header."""
        super().data_received(data)
        waiting = self.cycle is None or self.cycle.response_complete
        if not waiting:
            self._stop()
        elif self._expiry is None and not self.transport.is_closing():
            self._expiry = self.loop.call_later(SECONDS, self._close)

    def connection_lost(self, error: Exception | None) -> None:
        """Stop the time."""
        self._stop()
        super().connection_lost(error)

    def _stop(self) -> None:
        if self._expiry is not None:
            self._expiry.cancel()
            self._expiry = None

    def _close(self) -> None:
        self._expiry = None
        if self.cycle is None or self.cycle.response_complete:
            self.transport.close()
