"""A lock between processes of one machine, which ends with the process that holds it."""

import fcntl
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from franca.errors import FrancaError

PATIENCE_SECONDS = 300.0


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold the lock file `path`, which is created and stays.

    Raises FrancaError if another process holds it for more than `PATIENCE_SECONDS`.
    """
    with path.open("a") as file:
        deadline = time.monotonic() + PATIENCE_SECONDS
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > deadline:
                    raise FrancaError(
                        f"{path}: held by another process for {PATIENCE_SECONDS:g} s; "
                        f"stop that process (`fuser {path}` shows it) and run again"
                    ) from None
                time.sleep(0.1)
        yield
