"""A file lock between processes of one machine; the kernel releases it when its process ends."""

import fcntl
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from franca.errors import FrancaError

TIMEOUT_SECONDS = 300.0


@contextmanager
def lock_file(path: Path) -> Iterator[None]:
    """Wait for an exclusive lock on `path` and hold it; the file is created if it is missing, and never deleted.

    Raises:
        FrancaError: Another process held the lock for more than `TIMEOUT_SECONDS`.
    """
    with path.open("a") as file:
        deadline = time.monotonic() + TIMEOUT_SECONDS
        # Polls, because a blocking flock has no timeout.
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > deadline:
                    raise FrancaError(
                        f"{path}: held by another process for {TIMEOUT_SECONDS:g} s; "
                        f"stop that process (`fuser {path}` shows it) and run again"
                    ) from None
                time.sleep(0.1)
        yield
