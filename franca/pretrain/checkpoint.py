"""Checkpoints of a run: a folder a step, written whole or not at all, the newest sound one loaded.

checkpoints/step-00001200/{__0_0.distcp, …, .metadata}   tensors, sharded (torch.distributed.checkpoint)
checkpoints/step-00001200/rest.pt                        what is not of the networks' size
checkpoints/step-00001200/digests.json                   SHA-256 of the files above, written last
checkpoints/milestone-00010000/                          the same, never removed

A checkpoint of any number of processes can be loaded by any other number.
"""

import errno
import shutil
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch
import torch.distributed.checkpoint as dcp
from torch import Tensor
from torch.distributed.checkpoint.api import CheckpointException
from torch.utils._pytree import tree_map_only

from franca.errors import FrancaError
from franca.files import read_json, sha256_file, write_json
from franca.pretrain.parallel import Ranks

# A single process is what is meant, here and not in every line of a user's log.
warnings.filterwarnings("ignore", message="torch.distributed is disabled, unavailable or uninitialized")

State = dict[str, Any]
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class Checkpoints:
    """Writes beside the training: a step waits for a copy of its state, and for the one before to be on disk."""

    def __init__(self, folder: Path, keep: int, milestone_steps: int | None, ranks: Ranks) -> None:
        self.folder, self._keep, self._milestone_steps = folder, keep, milestone_steps
        self._ranks = ranks
        self._pool = ThreadPoolExecutor(1)
        self._pending: Future[None] | None = None

    def save(self, step: int, tensors: State, rest: State) -> None:
        """Start to write `tensors` (by name, whole or DTensors) and `rest` (plain values and tensors)."""
        self.wait()
        copied = tree_map_only(Tensor, lambda x: x.detach().to("cpu", copy=True), (tensors, rest))
        self._pending = self._pool.submit(self._write, step, *copied)

    def wait(self) -> None:
        """Until the last one is on disk; a full disk is a FrancaError, and older checkpoints stay."""
        pending, self._pending = self._pending, None
        if pending is None:
            return
        try:
            pending.result()
        except (Exception, CheckpointException) as error:
            if _is_full(error):
                raise FrancaError(
                    f"{self.folder}: checkpoint not written, no space left on the device; older checkpoints are"
                    " kept: free space and run again"
                ) from None
            raise

    def _write(self, step: int, tensors: State, rest: State) -> None:
        partial = self.folder / f".step-{step:08d}.tmp"
        if self._ranks.first:
            for torn in self.folder.glob(".step-*.tmp"):  # left by a process that was killed while it wrote
                shutil.rmtree(torn, ignore_errors=True)
            partial.mkdir(parents=True)
        self._ranks.wait_in_writer()
        alone = self._ranks.count == 1
        dcp.save(tensors, checkpoint_id=partial, process_group=self._ranks.writer, no_dist=alone)
        if not self._ranks.first:
            return
        torch.save(rest, partial / "rest.pt")
        write_json(partial / "digests.json", {path.name: sha256_file(path) for path in sorted(partial.iterdir())})
        milestone = self._milestone_steps and step % self._milestone_steps == 0
        final = self.folder / f"{'milestone' if milestone else 'step'}-{step:08d}"
        shutil.rmtree(final, ignore_errors=True)  # a damaged one of a run before
        partial.replace(final)
        for old in _folders(self.folder, "step-*")[: -self._keep]:
            shutil.rmtree(old, ignore_errors=True)


def load_newest(folder: Path, state: State, ranks: Ranks, warn: Callable[[str], Any]) -> tuple[int, State] | None:
    """Read the newest sound checkpoint into the tensors of `state`; its step and the rest, or None without any.

    Sound is what still has the digests written with it. Only a run's own folder is read.
    """
    for path in reversed(_folders(folder, "*-*")):
        if fault := _fault(path):
            if ranks.first:
                warn(f"{path.name} is damaged ({fault}); going on from an older checkpoint")
            continue
        dcp.load(state, checkpoint_id=path, process_group=ranks.control, no_dist=ranks.count == 1)
        return _step(path), torch.load(path / "rest.pt", map_location="cpu", weights_only=True)
    return None


def _folders(folder: Path, pattern: str) -> list[Path]:
    """Checkpoints, oldest first."""
    return sorted((path for path in folder.glob(pattern) if not path.name.startswith(".")), key=_step)


def _step(path: Path) -> int:
    return int(path.name.rpartition("-")[2])


def _fault(path: Path) -> str | None:
    """What is wrong with a checkpoint's files, or None."""
    try:
        for name, digest in read_json(path / "digests.json").items():
            if sha256_file(path / name) != digest:
                return f"{name} has changed"
    except (OSError, ValueError, AttributeError) as error:
        return " ".join(str(error).split())
    return None


def _is_full(error: BaseException) -> bool:
    """Whether a full disk is behind an error: torch wraps it, or its zip writer says a plain RuntimeError."""
    return any(
        cause.errno in _FULL if isinstance(cause, OSError) else type(cause) is RuntimeError for cause in _causes(error)
    )


def _causes(error: BaseException) -> Iterator[BaseException]:
    yield error
    failures = getattr(error, "failures", {})  # of torch.distributed.checkpoint's CheckpointException, by rank
    inner = [failure[0] for failure in failures.values()] + [error.__cause__, error.__context__]
    for cause in inner:
        if cause is not None:
            yield from _causes(cause)
