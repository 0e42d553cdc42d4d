"""A lock on a registered model, for tracking servers that have no compare-and-swap."""

import os
import platform
import random
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from franca.errors import FrancaError

if TYPE_CHECKING:
    from mlflow import MlflowClient

TAG = "franca.claim"
DELAY_SECONDS = 1.0
"""Wait between writing the tag and reading it back; must be longer than one write takes."""
STALE_SECONDS = 30.0
"""A tag that has not changed for this long belongs to a process that died."""
TIMEOUT_SECONDS = 300.0


@contextmanager
def lock_model(client: "MlflowClient", name: str) -> Iterator[Callable[[], bool]]:
    """Hold a lock on the registered model `name`, and yield a function that says whether it is still held.

    MLflow can set a tag but not compare and set one, so this is Fischer's algorithm: if the tag is absent, write an
    ID that is unique to this call, wait longer than a write takes, and enter only if the tag still has that ID.

    Call the yielded function right before each write: a holder that was suspended for more than `STALE_SECONDS` has
    lost the lock.

    Raises:
        FrancaError: Another process held the lock for more than `TIMEOUT_SECONDS`.
    """
    mine = f"{platform.node()} process {os.getpid()} {uuid.uuid4().hex}"

    def holder() -> str | None:
        return client.get_registered_model(name).tags.get(TAG)

    begin = since = time.monotonic()
    seen: str | None = None
    while True:
        asked = time.monotonic()
        other = holder()
        if other != seen:
            seen, since = other, asked
        if other in (None, mine) or asked - since > STALE_SECONDS:
            client.set_registered_model_tag(name, TAG, mine)
            written = time.monotonic()
            time.sleep(DELAY_SECONDS)
            # If read and write together took longer than the delay, the write may have replaced the tag of a process
            # that has entered meanwhile. Do not enter then; the loop tries again.
            if written - asked < DELAY_SECONDS and holder() == mine:
                break
        elif asked - begin > TIMEOUT_SECONDS:
            raise FrancaError(f"model '{name}': locked by {other.rpartition(' ')[0]}; run again when it has ended")
        # Random, so that two waiting processes do not stay in step.
        time.sleep(random.uniform(0.1, 0.5))
    try:
        yield lambda: holder() == mine
    finally:
        if holder() == mine:
            client.delete_registered_model_tag(name, TAG)
