"""Process control for long commands: stop on SIGTERM, end with the parent, one process per folder."""

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

_PR_SET_PDEATHSIG = 1  # <linux/prctl.h>


class StopRequest:
    """True after SIGTERM or SIGINT; a loop checks it at points where its state can be saved."""

    def __init__(self) -> None:
        self._asked = False

    def __bool__(self) -> bool:
        return self._asked

    def ask(self, signum: int, frame: FrameType | None) -> None:
        """Request the stop; has the signature of a signal handler."""
        self._asked = True


def listen_for_stop() -> StopRequest:
    """Install handlers for SIGTERM and SIGINT that set the returned request instead of ending the process."""
    request = StopRequest()
    signal.signal(signal.SIGTERM, request.ask)
    signal.signal(signal.SIGINT, request.ask)
    return request


def terminate_with_parent() -> None:
    """Have the kernel send SIGTERM to this process when its parent dies (prctl(2), Linux only).

    DVC does not end its stage when it is killed. The stage would go on and block the next `dvc repro`.
    """
    parent = os.getppid()
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
        # The parent may have died before prctl was called.
        if os.getppid() != parent:
            os.kill(os.getpid(), signal.SIGTERM)


def is_locked(folder: Path) -> bool:
    """Return whether a process has locked `folder` by `lock_folder`."""
    if not (folder / "lock").exists():
        return False
    with (folder / "lock").open("rb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


@contextmanager
def lock_folder(folder: Path, wanted: bool = True) -> Iterator[None]:
    """Hold a lock on `folder`, which is created if it is missing; the kernel releases it when the process ends.

    Args:
        folder: The folder.
        wanted: False does nothing: of several training processes only the first one locks their folder.

    Raises:
        FrancaError: Another process has locked the folder; the message has its ID.
    """
    if not wanted:
        yield
        return
    folder.mkdir(parents=True, exist_ok=True)
    # "a+" creates the file and, unlike "w+", does not truncate what the holder has written.
    with (folder / "lock").open("a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            raise FrancaError(f"{folder}: in use by process {file.read().strip()}; wait for it or stop it") from None
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
        yield
