"""Names of checkpoint folders: `step-00001200`, `milestone-00010000`, and `.step-00001200.tmp` while it is written."""

from pathlib import Path


def checkpoint_folders(folder: Path, pattern: str = "*-*") -> list[Path]:
    """Return the complete checkpoints in `folder` whose names match `pattern`, oldest first."""
    return sorted((path for path in folder.glob(pattern) if not path.name.startswith(".")), key=step_of)


def step_of(path: Path) -> int:
    """Return the step of a checkpoint folder."""
    return int(path.name.rpartition("-")[2])


def newest_step(folder: Path) -> int:
    """Return the step of the newest checkpoint, without verifying it; 0 if there is none."""
    return max(map(step_of, checkpoint_folders(folder)), default=0)
