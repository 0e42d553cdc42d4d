"""Checkpoints of a run: one folder per step, written completely or not at all.

checkpoints/step-00001200/{__0_0.distcp, …, .metadata}   tensors, sharded (torch.distributed.checkpoint)
checkpoints/step-00001200/rest.pt                        everything whose size does not depend on the networks
checkpoints/step-00001200/digests.json                   SHA-256 of the files above, written last
checkpoints/milestone-00010000/                          the same, never removed

A checkpoint of any number of processes can be loaded by any other number. Writing and loading end in the same way in
all processes: each exchanges its result or its error with the others, so none waits for one that has failed.
"""

import errno
import platform
import shutil
import warnings
from collections.abc import Callable
from concurrent import futures
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from threading import Thread
from typing import Any, Self, TypeVar

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch import Tensor
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.planner import SavePlan, SavePlanner
from torch.distributed.checkpoint.storage import WriteResult
from torch.distributed.tensor import DTensor
from torch.utils._pytree import tree_map_only

from franca.errors import FrancaError
from franca.files import read_json, sha256_file, write_json
from franca.pretrain.parallel import Ranks

# dcp warns at every save and load of a single process, which is a normal case here.
warnings.filterwarnings("ignore", message="torch.distributed is disabled, unavailable or uninitialized")

T = TypeVar("T")
State = dict[str, Any]
_FULL_DISK = "no space left on the device"
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_CLOSING_SECONDS = 30


class Checkpoints:
    """Writes checkpoints in a thread; a save waits for the copy of the state and for the previous save.

    As a context manager, it lets a started save finish if the block raises.
    """

    def __init__(
        self, folder: Path, keep: int, milestone_steps: int | None, ranks: Ranks, device: torch.device
    ) -> None:
        """Keep the newest `keep` checkpoints and, apart from those, every one whose step divides by `milestone_steps`.

        Args:
            folder: Where the checkpoints are, the same in all processes.
            keep: Number of checkpoints to keep.
            milestone_steps: Distance of checkpoints that are never removed; None for no such checkpoints.
            ranks: The processes that save together.
            device: Where the state is.
        """
        self.folder, self._keep, self._milestone_steps = folder, keep, milestone_steps
        self._ranks, self._device = ranks, device
        self._pending: futures.Future[None] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is not None and self._pending is not None:
            # With several processes the thread may wait for one that has died, or for one that waits for this
            # process to end: gloo notices neither before its timeout of half an hour.
            futures.wait([self._pending], timeout=None if self._ranks.count == 1 else _CLOSING_SECONDS)

    def save(self, step: int, tensors: State, rest: State) -> None:
        """Copy the state and start to write it.

        Args:
            step: Number of steps done.
            tensors: Nested dicts of tensors, whole (then equal in all processes) or DTensors.
            rest: Plain values and tensors; those of the first process are written.

        Raises:
            FrancaError: The previous checkpoint could not be written.
        """
        self.wait()
        # Not dcp's DefaultStager: on CUDA with torch 2.11 its second copy of the same state fails (KeyError).
        share = _copy(_share(tensors, self._ranks))
        copied = _copy(rest) if self._ranks.first else {}
        future: futures.Future[None] = futures.Future()
        self._pending = future
        # A daemon, because the interpreter waits for all other threads before it exits: see __exit__.
        Thread(target=_fulfill, args=(future, partial(self._write, step, share, copied)), daemon=True).start()

    def wait(self) -> None:
        """Wait until the last checkpoint is on disk.

        Raises:
            FrancaError: It could not be written, in some process; older checkpoints are still there.
        """
        pending, self._pending = self._pending, None
        if pending is None:
            return
        try:
            pending.result()
        except _Failed as error:
            kept = "older checkpoints are kept"
            if str(error) == _FULL_DISK:
                reason = f"{_FULL_DISK}; {kept}: free space and run again"
            else:
                reason = f"{error}; {kept}: run again to go on from the newest"
            raise FrancaError(f"{self.folder}: checkpoint not written, {reason}") from error

    def _write(self, step: int, tensors: State, rest: State) -> None:
        """Write one checkpoint; all processes do so together, each in its thread."""
        ranks, group = self._ranks, self._ranks.writer
        temporary = self.folder / f".step-{step:08d}.tmp"
        # A new thread's device is GPU 0, where dcp would create a CUDA context of some 500 MB for each process.
        with torch.cuda.device(self._device) if self._device.type == "cuda" else nullcontext():
            _together(ranks, group, lambda: self._make_folder(temporary) if ranks.first else None)
            try:
                dcp.save(tensors, storage_writer=_Writer(temporary), process_group=group, no_dist=ranks.count == 1)
            except CheckpointException as error:
                raise _Failed(_reason(error)) from error
            # Each process reads its own file, which is still in its machine's page cache.
            digests = _together(ranks, group, lambda: _digests(temporary, f"__{ranks.rank}_*"))
            merged = {name: digest for own in digests for name, digest in own.items()}
            _together(ranks, group, lambda: self._finish(step, temporary, rest, merged) if ranks.first else None)

    def _make_folder(self, path: Path) -> None:
        for torn in self.folder.glob(".step-*.tmp"):  # left by a process that was killed while it wrote
            shutil.rmtree(torn, ignore_errors=True)
        path.mkdir(parents=True)

    def _finish(self, step: int, temporary: Path, rest: State, digests: dict[str, str]) -> None:
        with (temporary / "rest.pt").open("wb") as file:  # torch.save(path) hides the errno of a failed write
            torch.save(rest, file)
        digests |= _digests(temporary, ".metadata") | _digests(temporary, "rest.pt")
        write_json(temporary / "digests.json", dict(sorted(digests.items())))
        milestone = self._milestone_steps and step % self._milestone_steps == 0
        final = self.folder / f"{'milestone' if milestone else 'step'}-{step:08d}"
        shutil.rmtree(final, ignore_errors=True)  # a damaged one of an earlier run
        temporary.replace(final)
        for old in _folders(self.folder, "step-*")[: -self._keep]:
            shutil.rmtree(old, ignore_errors=True)


def load_newest(folder: Path, state: State, ranks: Ranks, warn: Callable[[str], Any]) -> tuple[int, State] | None:
    """Read the newest valid checkpoint into the tensors of `state`; all processes read the same one.

    A checkpoint is valid if its files still match digests.json. Each process hashes a share of the files, so that
    they are read once in total. An invalid or unreadable checkpoint is skipped with a warning of the first process.

    Args:
        folder: Where the checkpoints are.
        state: Nested dicts of tensors, filled in place.
        ranks: The processes that load together.
        warn: Called with one line for each checkpoint that is skipped.

    Returns:
        The step and the `rest` of the checkpoint, or None if there is no valid one.

    Raises:
        FrancaError: No checkpoint could be loaded, and one of them may be valid: starting over would lose it.
    """
    group = ranks.control
    unreadable = None
    try:
        # The first process decides which ones there are: a network file system may show the others an older state.
        names = _together(ranks, group, lambda: [path.name for path in _folders(folder, "*-*")])[0]
    except _Failed as error:
        names, unreadable = [], error
    for name in reversed(names):
        path = folder / name
        try:
            digests = _together(ranks, group, partial(_read_digests, path))[0]
            own = dict(sorted(digests.items())[ranks.rank :: ranks.count])
            _together(ranks, group, partial(_verify, path, own))
            rest = _together(ranks, group, partial(_load_rest, path))[ranks.rank]
            try:
                dcp.load(
                    state,
                    storage_reader=dcp.FileSystemReader(path),
                    process_group=group,
                    no_dist=ranks.count == 1,
                )
            except CheckpointException as error:
                raise _Failed(_reason(error)) from error
            return _step(path), rest
        except _Failed as error:
            if not error.damaged:
                unreadable = error
            if ranks.first:
                fault = "damaged" if error.damaged else "unreadable"
                warn(f"{name} is {fault} ({error}); trying an older checkpoint")
    if unreadable is not None:
        raise FrancaError(
            f"{folder}: no checkpoint can be loaded ({unreadable}); run again once it can be read, or remove the"
            " folder to start over"
        ) from unreadable
    return None


def newest_step(folder: Path) -> int:
    """Return the step of the newest checkpoint, not verified; 0 if there is none."""
    return max(map(_step, _folders(folder, "*-*")), default=0)


class _Failed(Exception):
    """Something failed in at least one process; raised in all of them, with the same one-line reason."""

    def __init__(self, reason: str, damaged: bool = False) -> None:
        """`damaged` means that files of a checkpoint are missing or have changed: trying again does not help."""
        super().__init__(reason)
        self.damaged = damaged


class _Damaged(Exception):
    """The files of a checkpoint are not those that were written."""


class _Writer(dcp.FileSystemWriter):
    """Raises the OSError behind a failed write.

    torch's zip writer reports a failed write as RuntimeError("unexpected pos 704 vs 598"), whatever the fault. The
    OSError is in its context, which is lost when dcp sends the error to the other processes.
    """

    def write_data(self, plan: SavePlan, planner: SavePlanner) -> torch.futures.Future[list[WriteResult]]:
        try:
            return super().write_data(plan, planner)
        except RuntimeError as error:
            raise _os_error(error) or error from None


def _fulfill(future: futures.Future[T], action: Callable[[], T]) -> None:
    try:
        future.set_result(action())
    except BaseException as error:  # also dcp's CheckpointException, which is no Exception
        future.set_exception(error)


def _together(ranks: Ranks, group: Any, action: Callable[[], T]) -> list[T]:
    """Run `action`, which must not communicate, in every process and return the results of all.

    Raises:
        _Failed: In every process, if it failed in any.
    """
    result, failure = None, None
    try:
        result = action()
    except Exception as error:
        failure = (_reason(error), isinstance(error, FileNotFoundError | _Damaged))
    outcomes: list[Any] = [(result, failure)]
    if ranks.count > 1:
        outcomes = [None] * ranks.count
        dist.all_gather_object(outcomes, (result, failure), group=group)
    failures = [failure for _, failure in outcomes if failure]
    if failures:
        # An I/O error may pass: a checkpoint counts as damaged only if no process reports one.
        raise _Failed(*min(failures, key=lambda failure: failure[1]))
    return [result for result, _ in outcomes]


def _copy(state: State) -> State:
    """Return a copy on the CPU of all tensors; DTensors keep their placement."""
    copied: State = tree_map_only(Tensor, lambda x: x.detach().to("cpu", copy=True), state)
    return copied


def _share(tensors: State, ranks: Ranks) -> State:
    """Return what this process has to write of nested dicts of tensors.

    These are all DTensors, of which it writes its shards, and a share of the whole tensors, which are equal in all
    processes: each goes to the process with the fewest bytes so far. So the state of DDP is copied to the CPU once
    in total and not once per process. dcp merges the names that the processes pass; without this function it would
    deal out whole tensors in the same way, but after the copy.
    """
    loads = [0] * ranks.count

    def choose(state: State) -> State:
        chosen: State = {}
        for name, value in state.items():
            if isinstance(value, dict):
                if part := choose(value):
                    chosen[name] = part
            elif isinstance(value, DTensor):
                chosen[name] = value
            else:
                owner = loads.index(min(loads))
                loads[owner] += value.nbytes
                if owner == ranks.rank:
                    chosen[name] = value
        return chosen

    return choose(tensors)


def _digests(folder: Path, pattern: str) -> dict[str, str]:
    return {path.name: sha256_file(path) for path in folder.glob(pattern)}


def _read_digests(path: Path) -> dict[str, str]:
    if not path.is_dir():  # although the first process sees it: no damage, but a folder that is not shared
        raise OSError(f"{path} is missing on {platform.node()}")
    try:
        return dict(read_json(path / "digests.json"))
    except (ValueError, TypeError) as error:
        raise _Damaged(f"digests.json: {error}") from None


def _verify(path: Path, digests: dict[str, str]) -> None:
    for name, digest in digests.items():
        if sha256_file(path / name) != digest:
            raise _Damaged(f"{name} has changed")


def _load_rest(path: Path) -> State:
    return torch.load(path / "rest.pt", map_location="cpu", weights_only=True)


def _folders(folder: Path, pattern: str) -> list[Path]:
    """Return the checkpoints, oldest first."""
    return sorted((path for path in folder.glob(pattern) if not path.name.startswith(".")), key=_step)


def _step(path: Path) -> int:
    return int(path.name.rpartition("-")[2])


def _reason(error: BaseException) -> str:
    """Return in one line what went wrong."""
    if isinstance(error, CheckpointException):
        error = next(failure[0] for failure in error.failures.values())
    error = _os_error(error) or error
    if isinstance(error, OSError) and error.errno in _FULL:
        return _FULL_DISK
    text = " ".join(str(error).split())
    return text if isinstance(error, OSError | _Damaged) else f"{type(error).__name__}: {text}"


def _os_error(error: BaseException) -> OSError | None:
    """Return the OSError that `error` was raised from or while handling, if there is one."""
    cause: BaseException | None = error
    while cause is not None and not isinstance(cause, OSError):
        cause = cause.__cause__ or cause.__context__
    return cause
