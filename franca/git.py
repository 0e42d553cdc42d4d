"""Run git."""

import subprocess
from collections.abc import Collection
from pathlib import Path

from franca.errors import FrancaError


def run_git(
    *arguments: str, folder: Path = Path(), stdin: bytes = b"", success_codes: Collection[int] = (0,)
) -> bytes:
    """Run a git command and return its stdout.

    Args:
        *arguments: The command without `git`, such as `"rev-parse", "HEAD"`.
        folder: Where to run it.
        stdin: What the command reads.
        success_codes: Exit codes that are no error; `git diff --no-index` returns 1 if files differ.

    Raises:
        FrancaError: git is not installed, or the command failed.
    """
    try:
        done = subprocess.run(["git", *arguments], cwd=folder, input=stdin, capture_output=True, check=False)
    except OSError as error:
        raise FrancaError(f"git {arguments[0]}: cannot run git ({error.strerror}); install it") from None
    if done.returncode not in success_codes:
        raise FrancaError(f"git {arguments[0]}: {done.stderr.decode(errors='replace').strip()}")
    return done.stdout
