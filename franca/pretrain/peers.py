"""The error of a training process when another one dies."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch.distributed as dist

from franca.errors import FrancaError
from franca.pretrain.checkpoint import newest_step
from franca.pretrain.parallel import Ranks

# gloo raises plain RuntimeErrors: "[…/gloo/transport/tcp/pair.cc:561] Connection closed by peer [127.0.0.1]:43166".
_SIGNS = ("gloo/transport/", "ncclRemoteError", "remote process exited")


@contextmanager
def peers_watched(checkpoints: Path, ranks: Ranks) -> Iterator[None]:
    """Turn the error of a collective whose peer has died into one line.

    Args:
        checkpoints: The folder of the run's checkpoints.
        ranks: The processes.

    Raises:
        FrancaError: Another process has ended.
    """
    try:
        yield
    except RuntimeError as error:
        if ranks.count == 1 or not _lost(error):
            raise
        raise FrancaError(
            f"process {ranks.rank} of {ranks.count}: another training process has ended, see its own message if it"
            f" left one; run again to resume from step {newest_step(checkpoints)}"
        ) from error


def _lost(error: BaseException | None) -> bool:
    """Return whether `error`, its cause or its context says that a process cannot be reached."""
    if error is None:
        return False
    if isinstance(error, dist.DistNetworkError | dist.DistStoreError):  # the process that hosts the store has died
        return True
    return any(sign in str(error) for sign in _SIGNS) or _lost(error.__cause__ or error.__context__)
