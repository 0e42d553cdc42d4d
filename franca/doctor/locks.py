"""Which processes hold locks in the project."""

import json
import os
from collections.abc import Iterator
from pathlib import Path

from franca.doctor.finding import Finding, ok, warning
from franca.paths import requeue_path
from franca.process import is_locked

CHECK = "locks"


def check_locks(root: Path) -> Iterator[Finding]:
    """Yield findings about trainers and DVC commands that work here, and a stage that waits to be resumed."""
    training = [folder for folder in sorted((root / "runs").glob("*/")) if is_locked(folder)]
    for folder in training:
        yield ok(CHECK, f"process {(folder / 'lock').read_text().strip()} works in runs/{folder.name}")
    pids = _dvc_processes(root / ".dvc/tmp/rwlock")
    if pids:
        yield ok(CHECK, f"DVC works here (process {', '.join(map(str, pids))}); others on the same files wait")
    if not training and not pids:
        yield ok(CHECK, "nothing works in this project")
    if requeue_path().exists() and not training:
        text = "a stage was stopped and has not been resumed (runs/requeue.json)"
        yield warning(CHECK, text, "`dvc repro`, which resumes from its checkpoint")


def _dvc_processes(path: Path) -> list[int]:
    """Return the live processes that DVC's lock file names; it ignores those of dead ones itself."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        holders = [
            *content.get("write", {}).values(),
            *(one for many in content.get("read", {}).values() for one in many),
        ]
        pids = {int(holder["pid"]) for holder in holders}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return []
    return sorted(pid for pid in pids if _lives(pid))


def _lives(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass  # of another user
    return True
