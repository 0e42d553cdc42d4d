"""Run DVC."""

import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from franca.errors import FrancaError


def run_dvc(*arguments: str, folder: Path, env: Mapping[str, str] | None = None, shown: bool = False) -> str:
    """Run a DVC command and return its stdout.

    Args:
        *arguments: The command without `dvc`, such as `"cache", "dir"`.
        folder: Where to run it.
        env: Its environment variables; those of this process if None.
        shown: Let its output go to this process's own, for long commands; "" is returned.

    Raises:
        FrancaError: The command failed.
    """
    done = subprocess.run(
        [sys.executable, "-m", "dvc", *arguments],
        cwd=folder,
        env=env,
        capture_output=not shown,
        text=True,
        check=False,
    )
    if done.returncode and shown:
        raise FrancaError(f"`dvc {' '.join(arguments)}` ended with exit code {done.returncode}; its output says why")
    if done.returncode:
        reason = (done.stderr.strip().splitlines() or ["no output"])[0].removeprefix("ERROR: ")
        raise FrancaError(f"dvc {' '.join(arguments)}: {reason}")
    return done.stdout or ""
