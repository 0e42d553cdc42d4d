"""Checkpoints in `runs/` that no run will resume from."""

import shutil
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from franca.process import is_locked, lock_folder
from franca.retention.item import Item, size_of

_PARTS = ("checkpoints", "nonfinite")


def old_checkpoints(runs: Path, keep: int) -> Iterator[Item]:
    """Yield the checkpoints of pretraining runs beyond the `keep` newest; those in use stay.

    Readings, facts and logs of every run stay: they are small, and `franca summary` and MLflow's mirror read them.

    Args:
        runs: The folder of the runs.
        keep: How many of the runs, by their last reading or checkpoint, keep all they have.
    """
    folders = sorted(runs.glob("pretrain-*"), key=_last_use, reverse=True)
    for folder in folders[keep:]:
        parts = [folder / part for part in _PARTS if (folder / part).is_dir() and any((folder / part).iterdir())]
        if not parts or is_locked(folder):
            continue
        finished = (folder / "finished").exists()
        reason = "finished" if finished else "not finished, and newer runs have replaced it"
        yield Item("checkpoints", folder.name, reason, sum(map(size_of, parts)), partial(_remove, folder))


def _last_use(folder: Path) -> float:
    # Not the folder itself, which a lock file changes.
    marks = [folder / "metrics.jsonl", folder / "checkpoints"]
    return max((mark.stat().st_mtime for mark in marks if mark.exists()), default=0.0)


def _remove(folder: Path) -> None:
    # Raises FrancaError if a run has started since it was listed.
    with lock_folder(folder):
        for part in _PARTS:
            shutil.rmtree(folder / part, ignore_errors=True)
