"""Writing checkpoints in a thread while training continues."""

import shutil
from collections.abc import Callable
from concurrent import futures
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from threading import Thread
from typing import Self, TypeVar

import torch
import torch.distributed.checkpoint as dcp
from torch import Tensor
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.planner import SavePlan, SavePlanner
from torch.distributed.checkpoint.storage import WriteResult
from torch.distributed.tensor import DTensor
from torch.utils._pytree import tree_map_only

from franca.errors import FrancaError
from franca.files import sha256_file, write_json
from franca.pretrain.checkpoint.agreement import (
    FILE_TOO_LARGE,
    FULL_DISK,
    Failed,
    State,
    os_error,
    reason_of,
    together,
)
from franca.pretrain.checkpoint.layout import checkpoint_folders
from franca.pretrain.parallel import Ranks

T = TypeVar("T")
_FIXES = {FULL_DISK: "free space and run again", FILE_TOO_LARGE: "raise the limit (ulimit -f) and run again"}
_CLOSING_SECONDS = 30


class Checkpoints:
    """A writer of checkpoints whose save blocks only for the copy of the state and for the previous save.

    As a context manager, it lets a save that has started finish if the block raises.
    """

    def __init__(
        self, folder: Path, keep: int, milestone_steps: int | None, ranks: Ranks, device: torch.device
    ) -> None:
        """Keep the newest `keep` checkpoints and, in addition, every milestone.

        Args:
            folder: The folder for the checkpoints, the same on all ranks.
            keep: Number of checkpoints to keep.
            milestone_steps: Number of steps between milestones, which are never removed; None for no milestones.
            ranks: The ranks that save together.
            device: The device of the state.
        """
        self.folder, self._keep, self._milestone_steps = folder, keep, milestone_steps
        self._ranks, self._device = ranks, device
        self._pending: futures.Future[None] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is not None and self._pending is not None:
            # With several ranks the thread may wait for one that has died, or for one that waits for this process to
            # end: gloo notices neither before its timeout of half an hour.
            futures.wait([self._pending], timeout=None if self._ranks.count == 1 else _CLOSING_SECONDS)

    def save(self, step: int, tensors: State, rest: State) -> None:
        """Copy the state and start to write it.

        Args:
            step: Number of steps done.
            tensors: Nested dicts of tensors: DTensors, or whole tensors that are equal on all ranks.
            rest: Plain values and tensors; the first rank's are written.

        Raises:
            FrancaError: The previous checkpoint could not be written.
        """
        self.wait()
        # Not dcp's DefaultStager: on CUDA with torch 2.11 its second copy of the same state fails (KeyError).
        own_tensors = _copy(_select_own(tensors, self._ranks))
        own_rest = _copy(rest) if self._ranks.first else {}
        future: futures.Future[None] = futures.Future()
        self._pending = future
        # A daemon thread, because the interpreter waits for all other threads before it exits: see __exit__.
        action = partial(self._write, step, own_tensors, own_rest)
        Thread(target=_fulfill, args=(future, action), daemon=True).start()

    def wait(self) -> None:
        """Wait until the last checkpoint is on disk.

        Raises:
            FrancaError: Some rank could not write it; older checkpoints are still there.
        """
        pending, self._pending = self._pending, None
        if pending is None:
            return
        try:
            pending.result()
        except Failed as error:
            fix = _FIXES.get(str(error), "run again to resume from the newest")
            raise FrancaError(
                f"{self.folder}: checkpoint not written, {error}; older checkpoints are kept: {fix}"
            ) from error

    def _write(self, step: int, tensors: State, rest: State) -> None:
        """Write one checkpoint; all ranks do so together, each in its thread."""
        ranks, group = self._ranks, self._ranks.writer
        temporary = self.folder / f".step-{step:08d}.tmp"
        # A new thread's device is GPU 0, on which dcp would create a CUDA context of some 500 MB for each process.
        with torch.cuda.device(self._device) if self._device.type == "cuda" else nullcontext():
            together(ranks, group, lambda: self._make_folder(temporary) if ranks.first else None)
            try:
                dcp.save(tensors, storage_writer=_Writer(temporary), process_group=group, no_dist=ranks.count == 1)
            except CheckpointException as error:
                raise Failed(reason_of(error)) from error
            # Each rank reads its own file, which is still in its machine's page cache.
            digests = together(ranks, group, lambda: _digests(temporary, f"__{ranks.rank}_*"))
            merged = {name: digest for own in digests for name, digest in own.items()}
            together(ranks, group, lambda: self._finish(step, temporary, rest, merged) if ranks.first else None)

    def _make_folder(self, path: Path) -> None:
        for incomplete in self.folder.glob(".step-*.tmp"):  # left by a process that was killed while it wrote
            shutil.rmtree(incomplete, ignore_errors=True)
        path.mkdir(parents=True)

    def _finish(self, step: int, temporary: Path, rest: State, digests: dict[str, str]) -> None:
        with (temporary / "rest.pt").open("wb") as file:  # torch.save(path) hides the errno of a failed write
            torch.save(rest, file)
        # .metadata is written by the first rank, after the files of all ranks.
        digests |= _digests(temporary, ".metadata") | _digests(temporary, "rest.pt")
        write_json(temporary / "digests.json", dict(sorted(digests.items())))
        milestone = self._milestone_steps and step % self._milestone_steps == 0
        final = self.folder / f"{'milestone' if milestone else 'step'}-{step:08d}"
        shutil.rmtree(final, ignore_errors=True)  # a damaged one of an earlier run
        # The rename makes the checkpoint visible: a folder without a leading dot is always complete.
        temporary.replace(final)
        for old in checkpoint_folders(self.folder, "step-*")[: -self._keep]:
            shutil.rmtree(old, ignore_errors=True)


class _Writer(dcp.FileSystemWriter):
    """A writer that raises the OSError of a failed write.

    The OSError is in the context of the zip writer's RuntimeError. dcp sends the error to the other ranks, and its
    context is lost on the way.
    """

    def write_data(self, plan: SavePlan, planner: SavePlanner) -> torch.futures.Future[list[WriteResult]]:
        try:
            return super().write_data(plan, planner)
        except RuntimeError as error:
            raise os_error(error) or error from None


def _fulfill(future: futures.Future[T], action: Callable[[], T]) -> None:
    try:
        future.set_result(action())
    except BaseException as error:  # dcp's CheckpointException is not a subclass of Exception
        future.set_exception(error)


def _copy(state: State) -> State:
    """Return a copy of the state with all tensors on the CPU; DTensors keep their placement."""
    copied: State = tree_map_only(Tensor, lambda x: x.detach().to("cpu", copy=True), state)
    return copied


def _select_own(tensors: State, ranks: Ranks) -> State:
    """Return the part of nested dicts of tensors that this rank has to write.

    A rank writes its shards of all DTensors, and a share of the whole tensors, which are equal on all ranks: each goes
    to the rank with the fewest bytes so far. The state of DDP is thus copied to the CPU once in total, not once per
    rank. dcp merges the names that the ranks pass; without this function it would distribute whole tensors in the same
    way, but only after each rank has copied all of them.
    """
    loads = [0] * ranks.count

    def select(state: State) -> State:
        selected: State = {}
        for name, value in state.items():
            if isinstance(value, dict):
                if part := select(value):
                    selected[name] = part
            elif isinstance(value, DTensor):
                selected[name] = value
            else:
                owner = loads.index(min(loads))
                loads[owner] += value.nbytes
                if owner == ranks.rank:
                    selected[name] = value
        return selected

    return select(tensors)


def _digests(folder: Path, pattern: str) -> dict[str, str]:
    return {path.name: sha256_file(path) for path in folder.glob(pattern)}
