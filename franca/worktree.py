"""Git worktrees for runs beside the project's own files: each is deleted at its end, or later if its process died."""

import fcntl
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from franca.dvc import run_dvc
from franca.errors import FrancaError
from franca.git import run_git

HOME = Path(".dvc/tmp/flows")
"""Folder of the worktrees in a project: usually on the file system of DVC's cache, so that files can be linked."""


@contextmanager
def worktree(root: Path, revision: str = "HEAD") -> Iterator[Path]:
    """Yield a checkout of a revision in a folder of its own, which shares DVC's cache with the project.

    A lock file next to the folder shows that it is in use. The kernel releases the lock when the process ends, however
    it ends, and the next worktree deletes what dead processes have left.

    Args:
        root: The project.
        revision: Commit, branch or tag.

    Raises:
        FrancaError: `root` is no git repository, or it has no such revision.
    """
    home = root / HOME
    home.mkdir(parents=True, exist_ok=True)
    remove_dead(root)
    folder = home / uuid.uuid4().hex[:12]
    with folder.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        try:
            run_git("worktree", "add", "--quiet", "--detach", str(folder), revision, folder=root)
            _share_cache(root, folder)
            yield folder
        finally:
            _remove(root, folder)


def apply_patch(folder: Path, patch: bytes) -> None:
    """Apply the output of `git diff --binary` to a worktree; raises FrancaError if it does not fit."""
    run_git("apply", "--allow-empty", "--whitespace=nowarn", folder=folder, stdin=patch)


def remove_dead(root: Path) -> list[Path]:
    """Delete the worktrees of processes that have ended, and return their folders; those in use stay."""
    return [folder for folder in find_dead(root) if remove_worktree(root, folder)]


def find_dead(root: Path) -> list[Path]:
    """Return the worktrees of processes that have ended."""
    home = root / HOME
    names = {path.stem if path.suffix == ".lock" else path.name for path in home.iterdir()} if home.is_dir() else set()
    dead = []
    for name in sorted(names):
        with _try_lock(home / name) as free:
            if free:
                dead.append(home / name)
    return dead


def remove_worktree(root: Path, folder: Path) -> bool:
    """Delete a worktree and return True, or return False if a process uses it."""
    with _try_lock(folder) as free:
        if free:
            _remove(root, folder)
        return free


@contextmanager
def _try_lock(folder: Path) -> Iterator[bool]:
    """Yield whether no other process uses a worktree, which none can begin to do meanwhile."""
    with folder.with_suffix(".lock").open("a") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
        else:
            yield True


def _remove(root: Path, folder: Path) -> None:
    with suppress(FrancaError):
        run_git("worktree", "remove", "--force", str(folder), folder=root)
    shutil.rmtree(folder, ignore_errors=True)
    with suppress(FrancaError):
        run_git("worktree", "prune", folder=root)
    folder.with_suffix(".lock").unlink(missing_ok=True)


def _share_cache(root: Path, folder: Path) -> None:
    """Have DVC in the worktree use the cache and the local settings of the project."""
    if (root / ".dvc/config.local").exists():
        shutil.copy(root / ".dvc/config.local", folder / ".dvc")
    run_dvc("cache", "dir", "--local", run_dvc("cache", "dir", folder=root).strip(), folder=folder)
