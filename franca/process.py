"""What keeps a long command well-behaved: it hears SIGTERM, dies with its parent, and never runs twice in a folder."""

import ctypes
import fcntl
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

from franca.errors import FrancaError

_PR_SET_PDEATHSIG = 1


class StopRequest:
    """Becomes true once SIGTERM or SIGINT has come, or the parent has died; the loop asks and leaves tidily."""

    def __init__(self) -> None:
        self._asked = False

    def __bool__(self) -> bool:
        return self._asked

    def ask(self, signum: int, frame: FrameType | None) -> None:
        self._asked = True


def listen_for_stop() -> StopRequest:
    """Answer SIGTERM and SIGINT with a request instead of death."""
    request = StopRequest()
    signal.signal(signal.SIGTERM, request.ask)
    signal.signal(signal.SIGINT, request.ask)
    return request


def follow_parent() -> None:
    """Have SIGTERM sent to this process when its parent dies (prctl(2), Linux only).

    DVC does not take its stage along when it is killed, so a stage that DVC started follows it.
    """
    parent = os.getppid()
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
        if os.getppid() != parent:
            os.kill(os.getpid(), signal.SIGTERM)


@contextmanager
def sole_owner(folder: Path, wanted: bool = True) -> Iterator[None]:
    """Hold `folder` for this process alone; a second one is told who holds it. The lock dies with its process.

    Nothing is held where it is not `wanted`, as in processes whose first one holds it for all.
    """
    if not wanted:
        yield
        return
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            raise FrancaError(f"{folder}: process {file.read().strip()} works here; wait for it or stop it") from None
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
        yield
