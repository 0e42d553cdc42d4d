"""Free space, and whether the project can be written to."""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from franca.doctor.finding import Finding, ok, problem, warning

PROBLEM_BYTES = 1 << 30
WARNING_BYTES = 10 << 30
FREE_FILES = 10_000
SHARED_BYTES = 1 << 30
"""Docker gives a container 64 MB of shared memory, which is too little for the processes that load images."""


def check_disk(root: Path, cache: Path | None) -> Iterator[Finding]:
    """Yield findings about the disks of the project and of DVC's cache.

    Args:
        root: The project.
        cache: DVC's cache; None if there is none.
    """
    yield _space("disk", root, "`franca gc` lists what can be deleted")
    if cache is not None and cache.is_dir() and cache.stat().st_dev != root.stat().st_dev:
        yield _space("disk of DVC's cache", cache, "`dvc gc --workspace --all-commits` deletes what no commit needs")
    yield from _writable([root, *filter(Path.is_dir, (root / name for name in ("runs", "models", "results")))], cache)
    yield from _shared_memory(Path("/dev/shm"))


def _space(check: str, folder: Path, fix: str) -> Finding:
    free = shutil.disk_usage(folder).free
    text = f"{free / 1e9:,.1f} GB free"
    if free < PROBLEM_BYTES:
        return problem(check, text, fix)
    if free < WARNING_BYTES:
        return warning(check, text, fix)
    about = os.statvfs(folder)
    # Some file systems create inodes as needed and say that they have none.
    if about.f_files and about.f_favail < FREE_FILES:
        return problem(check, f"{text}, but for {about.f_favail:,} more files only", fix)
    return ok(check, text)


def _writable(folders: list[Path], cache: Path | None) -> Iterator[Finding]:
    for folder in [*folders, *([cache] if cache is not None and cache.is_dir() else [])]:
        if not os.access(folder, os.W_OK | os.X_OK):
            owner = folder.stat().st_uid
            fix = f"`sudo chown -R {os.getuid()} {folder}`, or run as user {owner} (FRANCA_UID in docker/.env)"
            yield problem("permissions", f"{folder}: belongs to user {owner}, and {os.getuid()} cannot write", fix)


def _shared_memory(folder: Path) -> Iterator[Finding]:
    if folder.is_dir() and (size := shutil.disk_usage(folder).total) < SHARED_BYTES:
        fix = "`docker run --shm-size 2g`, `shm_size` in compose, or runtime.workers: 0"
        yield warning("shared memory", f"{size / 1e6:,.0f} MB; processes that load images may die", fix)
