"""One writer at a time in a registered model, on servers that have no compare-and-swap."""

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
SETTLE_SECONDS = 1.0
STALE_SECONDS = 30.0
PATIENCE_SECONDS = 300.0


@contextmanager
def claim(client: "MlflowClient", name: str) -> Iterator[Callable[[], bool]]:
    """Hold the registered model `name`; the value given says whether it is still ours, to ask just before a write.

    Fischer's algorithm: where no claim stands, write one, wait longer than a write takes, and go on only if it is
    still there. A claim that stands unchanged for `STALE_SECONDS` was left by a process that died.
    """
    mine = f"{platform.node()} process {os.getpid()} {uuid.uuid4().hex}"

    def standing() -> str | None:
        return client.get_registered_model(name).tags.get(TAG)

    begin = since = time.monotonic()
    seen: str | None = None
    while True:
        asked = time.monotonic()
        other = standing()
        if other != seen:
            seen, since = other, asked
        if other in (None, mine) or asked - since > STALE_SECONDS:
            client.set_registered_model_tag(name, TAG, mine)
            written = time.monotonic()
            time.sleep(SETTLE_SECONDS)
            # A write that came late may have run over a claim that had settled, so it does not count.
            if written - asked < SETTLE_SECONDS and standing() == mine:
                break
        elif asked - begin > PATIENCE_SECONDS:
            raise FrancaError(f"model '{name}': {other.rpartition(' ')[0]} writes to it; try again once it is done")
        time.sleep(random.uniform(0.1, 0.5))
    try:
        yield lambda: standing() == mine
    finally:
        if standing() == mine:
            client.delete_registered_model_tag(name, TAG)
