"""Ask a server over HTTP by the standard library, with a short timeout and the server's clock."""

import json
import time
from collections.abc import Mapping
from email.utils import parsedate_to_datetime
from http.client import HTTPException
from typing import Any, NamedTuple
from urllib.error import HTTPError, URLError
from urllib.request import Request, urlopen

SECONDS = 2.5
"""Timeout of a request."""
MAX_BYTES = 8 << 20
"""Size of an answer, at most; a server of another kind may send anything."""


class Answer(NamedTuple):
    """What a server has answered.

    Attributes:
        status: HTTP status.
        content: The JSON value; the text if it is not JSON.
        ahead: Seconds by which the server's clock is ahead of this machine's; None if it does not say its time.
    """

    status: int
    content: Any
    ahead: float | None


class NoAnswer(Exception):
    """Nothing answers at an address; the text says why."""


def ask(url: str, headers: Mapping[str, str], body: Any = None) -> Answer:
    """Send a GET request, or a POST request if there is a JSON `body`.

    Raises:
        NoAnswer: There is no HTTP server, or it did not answer in time.
    """
    content = None if body is None else json.dumps(body).encode()
    begin = time.time()
    try:
        request = Request(url, content, {**headers, "Content-Type": "application/json"})
        with urlopen(request, timeout=SECONDS) as answer:
            status, head, received = answer.status, answer.headers, answer.read(MAX_BYTES)
    except HTTPError as error:
        with error:
            status, head, received = error.code, error.headers, b""
    except (URLError, HTTPException, OSError, ValueError) as error:
        raise NoAnswer(_reason(error)) from None
    # The header has whole seconds, so half a second is added on average.
    middle = (begin + time.time()) / 2
    sent = head.get("Date")
    ahead = None
    if sent is not None:
        try:
            ahead = parsedate_to_datetime(sent).timestamp() + 0.5 - middle
        except ValueError:
            ahead = None
    text = received.decode(errors="replace")
    try:
        return Answer(status, json.loads(text), ahead)
    except ValueError:
        return Answer(status, text, ahead)


def _reason(error: Exception) -> str:
    cause = error.reason if isinstance(error, URLError) else error
    if isinstance(cause, TimeoutError):
        return f"no answer within {SECONDS:g} s"
    if isinstance(cause, OSError) and cause.strerror:
        return cause.strerror.lower()
    return " ".join(str(cause).split()) or type(cause).__name__
