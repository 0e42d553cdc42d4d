"""Finding, verifying and loading the newest valid checkpoint."""

import platform
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.distributed.checkpoint as dcp
from torch.distributed.checkpoint.api import CheckpointException

from franca.errors import FrancaError
from franca.files import read_json, sha256_file
from franca.pretrain.checkpoint.agreement import Damaged, Failed, State, reason_of, together
from franca.pretrain.checkpoint.layout import checkpoint_folders, step_of
from franca.pretrain.parallel import Ranks


def load_newest(folder: Path, state: State, ranks: Ranks, warn: Callable[[str], Any]) -> tuple[int, State] | None:
    """Read the newest valid checkpoint into the tensors of `state`; all ranks read the same one.

    A checkpoint is valid if its files still match digests.json. An invalid or unreadable checkpoint is skipped, and
    the first rank warns about it.

    Args:
        folder: The folder that holds the checkpoints.
        state: Nested dicts of tensors, filled in place.
        ranks: The ranks that load together.
        warn: Called with one line for each checkpoint that is skipped.

    Returns:
        The step and the `rest` of the checkpoint, or None if there is no valid one.

    Raises:
        FrancaError: No checkpoint could be loaded, but one of them may be valid: starting over would lose it.
    """
    group = ranks.control
    unreadable = None
    try:
        # The first rank decides which checkpoints there are: a network file system may show the others an older state.
        names = together(ranks, group, lambda: [path.name for path in checkpoint_folders(folder)])[0]
    except Failed as error:
        names, unreadable = [], error
    # Newest first. Every outcome below is the same on all ranks, so they stay at the same checkpoint.
    for name in reversed(names):
        path = folder / name
        try:
            rest = _load(path, state, ranks)
            return step_of(path), rest
        except Failed as error:
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


def _load(path: Path, state: State, ranks: Ranks) -> State:
    """Verify a checkpoint, fill `state` and return the `rest`; raise Failed on all ranks if one of them cannot."""
    group = ranks.control
    digests = together(ranks, group, partial(_read_digests, path))[0]
    # Each rank hashes a share of the files. If every rank hashed all of them, 64 ranks would read a ViT-g checkpoint
    # 64 times: 1.4 TB at each resume.
    own = dict(sorted(digests.items())[ranks.rank :: ranks.count])
    together(ranks, group, partial(_verify, path, own))
    rest = together(ranks, group, partial(_load_rest, path))[ranks.rank]
    try:
        reader = dcp.FileSystemReader(path)
        dcp.load(state, storage_reader=reader, process_group=group, no_dist=ranks.count == 1)
    except CheckpointException as error:
        raise Failed(reason_of(error)) from error
    return rest


def _read_digests(path: Path) -> dict[str, str]:
    if not path.is_dir():  # The first rank sees it, so it is not damaged: this machine does not share the folder.
        raise OSError(f"{path} is missing on {platform.node()}")
    try:
        return dict(read_json(path / "digests.json"))
    except (ValueError, TypeError) as error:
        raise Damaged(f"digests.json: {error}") from None


def _verify(path: Path, digests: dict[str, str]) -> None:
    for name, digest in digests.items():
        if sha256_file(path / name) != digest:
            raise Damaged(f"{name} has changed")


def _load_rest(path: Path) -> State:
    # weights_only: unpickling the file cannot run code.
    return torch.load(path / "rest.pt", map_location="cpu", weights_only=True)
