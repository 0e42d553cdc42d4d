"""What the server accepts, and the error by which it refuses the rest."""

from typing import NamedTuple


class Limits(NamedTuple):
    """Limits of one request, and of all that are worked on at once.

    Together they bound the memory of the server: `requests` bodies and responses, and `decoders` images of `pixels`.
    """

    body_bytes: int
    """Length of a body."""
    pixels: int
    """Width times height of an image."""
    images: int
    """Images of a request."""
    requests: int = 16
    """Requests whose bodies and images are in memory; others are refused with status 503."""
    decoders: int = 2
    """Threads that decode images."""
    body_seconds: float = 20.0
    """Time in which a body must arrive."""
    numbers: int = 1 << 24
    """Numbers of a response."""
    json_numbers: int = 1 << 18
    """Numbers of a response in JSON; larger ones are sent as npy only."""


class Refused(Exception):
    """A request that is not answered.

    Attributes:
        status: HTTP status.
        message: The reason, in one line.
    """

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
