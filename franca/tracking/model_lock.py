"""A lock on a registered model, for tracking servers that have no compare-and-swap."""

import os
import platform
import random
import re
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, NamedTuple

from franca.errors import FrancaError

if TYPE_CHECKING:
    from mlflow import MlflowClient

PREFIX = "franca.claim."
STALE_SECONDS = 30.0
"""A claim that has not changed for this long belongs to a process that died."""
SLOW_REQUESTS = 40
"""If so many requests take longer than `STALE_SECONDS`, the claim says that it is stale only after that time."""
TIMEOUT_SECONDS = 300.0
_CLAIM = re.compile(r"(\d+) (\d+) (\d+\.\d+) (.*)", re.DOTALL)


class _Claim(NamedTuple):
    """The value of a claim's tag.

    Attributes:
        ticket: Position in the queue; 0 while the process chooses one.
        beat: Grows while the process waits.
        stale: Seconds without a change after which the process must be dead.
        owner: Machine and process, for messages.
    """

    ticket: int
    beat: int
    stale: float
    owner: str

    @classmethod
    def parse(cls, text: str) -> "_Claim":
        found = _CLAIM.fullmatch(text)
        return cls(int(found[1]), int(found[2]), float(found[3]), found[4]) if found else cls(0, 0, 0.0, text)

    def __str__(self) -> str:
        return f"{self.ticket} {self.beat} {self.stale:.1f} {self.owner}"


class _Claims:
    """The claims on a model as one process sees them, which also measures how long its requests take."""

    def __init__(self, client: "MlflowClient", name: str) -> None:
        self._client = client
        self._name = name
        self._slowest = 0.0
        self._asked = 0.0
        self._since: dict[tuple[str, _Claim], float] = {}

    def own(self) -> _Claim:
        """Return a first claim of this process, without a ticket."""
        stale = round(max(STALE_SECONDS, SLOW_REQUESTS * self._slowest), 1)
        return _Claim(0, 0, stale, f"{platform.node()} process {os.getpid()}")

    def read(self) -> dict[str, _Claim]:
        self._asked = time.monotonic()
        tags = self._client.get_registered_model(self._name).tags
        now = self._note_duration(self._asked)
        claims = {key: _Claim.parse(value) for key, value in tags.items() if key.startswith(PREFIX)}
        self._since = {claim: self._since.get(claim, now) for claim in claims.items()}
        return claims

    def write(self, key: str, claim: _Claim) -> None:
        begin = time.monotonic()
        self._client.set_registered_model_tag(self._name, key, str(claim))
        self._note_duration(begin)

    def delete(self, key: str) -> None:
        self._client.delete_registered_model_tag(self._name, key)

    def is_stale(self, key: str, claim: _Claim) -> bool:
        """Return whether a claim of the last read has not changed for as long as it says."""
        return self._asked - self._since[key, claim] > max(STALE_SECONDS, claim.stale)

    def _note_duration(self, begin: float) -> float:
        now = time.monotonic()
        self._slowest = max(self._slowest, now - begin)
        return now


@contextmanager
def lock_model(client: "MlflowClient", name: str) -> Iterator[Callable[[], bool]]:
    """Hold a lock on the registered model `name`, and yield a function that says whether it is still held.

    MLflow can set a tag but not compare and set one, so this is Lamport's bakery algorithm: each process has a tag of
    its own, takes a ticket above all that it sees, and waits for those before it. The algorithm is correct however
    long a request takes. If nobody else wants the lock, it takes five requests.

    Call the yielded function right before each write: a holder that was suspended for more than `STALE_SECONDS` may
    have lost the lock.

    Raises:
        FrancaError: Other processes held the lock for more than `TIMEOUT_SECONDS`.
    """
    key = PREFIX + uuid.uuid4().hex[:12]
    claims = _Claims(client, name)
    claims.read()  # measures how long a request takes
    begin = time.monotonic()
    try:
        while not _wait_for_turn(claims, key, name, begin):
            pass
        yield lambda: key in claims.read()
    finally:
        claims.delete(key)


def _wait_for_turn(claims: _Claims, key: str, name: str, begin: float) -> bool:
    """Take a ticket and wait; return False if other processes may have taken this one for dead in the meantime."""
    changed = time.monotonic()
    own = claims.own()
    # As long as the ticket is 0 the others wait, because they cannot know yet whether it will be below theirs.
    claims.write(key, own)
    own = own._replace(ticket=1 + max((claim.ticket for claim in claims.read().values()), default=0))
    while True:
        claims.write(key, own)
        # A write that comes late brings back a claim that another process may have deleted before it went on.
        if time.monotonic() - changed > own.stale / 2:
            return False
        changed = time.monotonic()
        while time.monotonic() - changed < own.stale / 10:
            found = claims.read()
            if key not in found:
                return False
            ahead = {
                other: claim
                for other, claim in found.items()
                if other != key and (claim.ticket == 0 or (claim.ticket, other) < (own.ticket, key))
            }
            if not ahead:
                return True
            for other, claim in ahead.items():
                if claims.is_stale(other, claim):
                    claims.delete(other)
            if time.monotonic() - begin > max(TIMEOUT_SECONDS, 2 * own.stale):
                holder = min(ahead.values()).owner
                raise FrancaError(f"model '{name}': locked by {holder}; run again when it has ended")
            # Random, so that waiting processes do not ask in step.
            time.sleep(random.uniform(0.1, 0.5))
        own = own._replace(beat=own.beat + 1)
