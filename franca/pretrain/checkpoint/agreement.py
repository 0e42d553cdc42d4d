"""Agreement between ranks: an action that fails on one rank fails on all, for the same one-line reason."""

import errno
import warnings
from collections.abc import Callable
from typing import Any, TypeVar

import torch.distributed as dist
from torch.distributed.checkpoint.api import CheckpointException

from franca.pretrain.parallel import Ranks

# dcp warns at every save and load of a single process, which is a normal case here.
warnings.filterwarnings("ignore", message="torch.distributed is disabled, unavailable or uninitialized")

T = TypeVar("T")
State = dict[str, Any]
"""Nested dicts of tensors and plain values."""

FULL_DISK = "no space left on the device"
FILE_TOO_LARGE = "a file exceeds the size limit of the process or the file system"
_REASONS = {errno.ENOSPC: FULL_DISK, errno.EDQUOT: FULL_DISK, errno.EFBIG: FILE_TOO_LARGE}
_ZIP_WRITER = "inline_container.cc"
"""Source file that torch's zip writer names in its errors."""


class Failed(Exception):
    """An action failed on at least one rank; raised on all of them, with the same one-line reason."""

    def __init__(self, reason: str, damaged: bool = False) -> None:
        """Store whether the checkpoint is `damaged`: its files are missing or changed, so a retry cannot succeed."""
        super().__init__(reason)
        self.damaged = damaged


class Damaged(Exception):
    """The files of a checkpoint are not the ones that were written."""


def together(ranks: Ranks, group: Any, action: Callable[[], T]) -> list[T]:
    """Run `action` on every rank and return the results of all ranks.

    Args:
        ranks: The ranks, all of which call this.
        group: The process group for the exchange.
        action: Called once on each rank; it must not communicate.

    Raises:
        Failed: On every rank, if the action failed on any of them.
    """
    result, failure = None, None
    try:
        result = action()
    except Exception as error:
        failure = (reason_of(error), isinstance(error, FileNotFoundError | Damaged))
    # Results and errors use the same collective: a rank that skipped it after an error would leave the others waiting.
    outcomes: list[Any] = [(result, failure)]
    if ranks.count > 1:
        outcomes = [None] * ranks.count
        dist.all_gather_object(outcomes, (result, failure), group=group)
    failures = [failure for _, failure in outcomes if failure]
    if failures:
        # An I/O error may be temporary: a checkpoint counts as damaged only if no rank reports one.
        raise Failed(*min(failures, key=lambda failure: failure[1]))
    return [result for result, _ in outcomes]


def reason_of(error: BaseException) -> str:
    """Return in one line what went wrong."""
    if isinstance(error, CheckpointException):  # holds the error of each rank that failed, with its traceback
        error = next(failure[0] for failure in error.failures.values())
    error = os_error(error) or error
    if isinstance(error, OSError) and error.errno in _REASONS:
        return _REASONS[error.errno]
    text = " ".join(str(error).split())
    return text if isinstance(error, OSError | Damaged) else f"{type(error).__name__}: {text}"


def os_error(error: BaseException) -> OSError | None:
    """Return the OSError that caused `error`, or None.

    A cause is `error` itself, what it was raised from, or, for torch's zip writer, what it was raised while handling:
    the writer reports every failed write as RuntimeError("unexpected pos 704 vs 598"). The context of any other error
    may be unrelated and is not searched.
    """
    cause: BaseException | None = error
    while cause is not None and not isinstance(cause, OSError):
        in_zip_writer = isinstance(cause, RuntimeError) and _ZIP_WRITER in str(cause)
        cause = cause.__cause__ or (cause.__context__ if in_zip_writer else None)
    return cause
