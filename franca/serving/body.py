"""Read the body of a request, no further than its limits."""

import asyncio

from starlette.requests import ClientDisconnect, Request

from franca.serving.limits import Limits, Refused


async def read_body(request: Request, limits: Limits) -> bytes:
    """Return the body.

    A body that is announced as too long is refused before any of it is read, any other one at the limit.

    Raises:
        Refused: The body is too long or too slow, or the client has gone.
    """
    announced = request.headers.get("content-length", "0")
    if announced.isdecimal() and int(announced) > limits.body_bytes:
        raise _too_long(limits)
    body = bytearray()
    try:
        async with asyncio.timeout(limits.body_seconds):
            async for part in request.stream():
                body += part
                if len(body) > limits.body_bytes:
                    raise _too_long(limits)
    except TimeoutError:
        raise Refused(408, f"body: not complete after {limits.body_seconds:g} s; send it faster") from None
    except ClientDisconnect:
        raise Refused(400, "body: the connection was closed before its end") from None
    if not body:
        raise Refused(400, "body: empty; send an image, a tar of images or an array")
    return bytes(body)


def _too_long(limits: Limits) -> Refused:
    return Refused(413, f"body: longer than {limits.body_bytes:,} bytes; send fewer or smaller images")
