"""Checkpoints of a run: written whole or not at all, named by step and digest, the newest sound one loaded."""

import errno
import pickle
from pathlib import Path
from typing import Any

import torch

from franca.errors import FrancaError
from franca.files import atomic_path, sha256_file


def save_checkpoint(folder: Path, step: int, state: dict[str, Any], keep: int) -> None:
    """Write `step-NNNNNNNN-DIGEST.pt`, then remove all but the `keep` newest; a full disk leaves the old ones."""
    for torn in folder.glob(".*.tmp"):  # left by a process that was killed while it wrote
        torn.unlink(missing_ok=True)
    try:
        with atomic_path(folder / "unnamed.pt") as temporary:
            torch.save(state, temporary)
            digest = sha256_file(temporary)[:16]
        (folder / "unnamed.pt").replace(folder / f"step-{step:08d}-{digest}.pt")
    except (OSError, RuntimeError) as error:
        # torch's zip writer reports a failed write as a plain RuntimeError; a device's errors are subclasses of it.
        full = error.errno == errno.ENOSPC if isinstance(error, OSError) else type(error) is RuntimeError
        if not full:
            raise
        raise FrancaError(
            f"{folder}: checkpoint of step {step} not written, no space left on the device;"
            " older checkpoints are kept: free space and run again"
        ) from None
    for old in checkpoints(folder)[:-keep]:
        old.unlink(missing_ok=True)


def checkpoints(folder: Path) -> list[Path]:
    """Checkpoint files, oldest first."""
    return sorted(folder.glob("step-*.pt"))


def load_newest(folder: Path, warn: Any) -> tuple[int, dict[str, Any]] | None:
    """Step and state of the newest checkpoint whose content still has the digest in its name; None without any.

    Only a run's own folder is read, and nothing is unpickled beyond tensors and plain values.
    """
    for path in reversed(checkpoints(folder)):
        _, step, digest = path.stem.split("-")
        if sha256_file(path)[:16] != digest:
            warn(f"{path.name} is damaged; going on from an older checkpoint")
            continue
        try:
            return int(step), torch.load(path, map_location="cpu", weights_only=True)
        except (RuntimeError, pickle.UnpicklingError, EOFError) as error:
            warn(f"{path.name} cannot be read ({error.__class__.__name__}); going on from an older checkpoint")
    return None
