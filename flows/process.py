"""Commands of a flow: each line is logged as it comes, and no process outlives the flow that started it."""

import os
import signal
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from franca.errors import FrancaError

Log = Callable[[str], None]

# Prefect's worker kills a cancelled flow run after 30 s; a stage saves its checkpoint before that.
GRACE_SECONDS = 20.0
BUSY_SECONDS = 10.0
KEPT_LINES = 100

# What DVC says, and a stage that was told to stop and still saves where DVC is gone already.
_BUSY = ("is busy, it is being blocked by", "Unable to acquire lock", "works here; wait for it or stop it")


def run(
    command: Sequence[str], folder: Path, log: Log, extra_env: Mapping[str, str] | None = None
) -> tuple[int, list[str]]:
    """Run `command` in `folder`; return its exit code and the last lines of its output (stdout and stderr together).

    Whatever ends the wait early (a cancellation, SIGTERM, Ctrl-C) first ends the command and all of its children.
    """
    here = Path(sys.executable).parent
    process = subprocess.Popen(
        [sys.executable, str(Path(__file__).with_name("supervise.py")), str(os.getpid()), *command],
        cwd=folder,
        env={
            **os.environ,
            "PATH": f"{here}:{os.environ.get('PATH', os.defpath)}",
            "PYTHONUNBUFFERED": "1",
            **(extra_env or {}),
        },
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        encoding="utf-8",
        errors="replace",
        start_new_session=True,
    )
    lines: deque[str] = deque(maxlen=KEPT_LINES)
    try:
        assert process.stdout is not None
        for line in map(str.rstrip, process.stdout):
            if line:
                log(line)
                lines.append(line)
        return process.wait(), list(lines)
    except BaseException:
        _end_group(process)
        raise


def dvc(arguments: Sequence[str], folder: Path, log: Log, extra_env: Mapping[str, str] | None = None) -> list[str]:
    """Run a DVC command, waiting for as long as another one holds the same files; return its last lines.

    Raises FrancaError with the one line that says what was wrong.
    """
    while True:
        code, lines = run([sys.executable, "-m", "dvc", *arguments], folder, log, extra_env)
        if code == 0:
            return lines
        if not any(sign in line for sign in _BUSY for line in lines):
            raise FrancaError(reason(lines, code))
        log(f"another command holds these files; trying again in {BUSY_SECONDS:g} s")
        time.sleep(BUSY_SECONDS)


def reason(lines: Sequence[str], code: int) -> str:
    """The line that explains a failed DVC command: the stage's own last one, else DVC's, else how it ended."""
    for position, line in enumerate(lines):
        if line.startswith("ERROR: "):
            said = lines[position - 1] if position else "> "
            of_stage = "failed to run:" in line and not said.startswith("> ")
            return said.removeprefix("franca: ") if of_stage else line.removeprefix("ERROR: ")
    ending = (
        f"was killed by signal {-code} ({signal.strsignal(-code)})" if code < 0 else f"ended with exit code {code}"
    )
    return f"dvc {ending}; its last words: {lines[-1] if lines else 'none'}"


def _end_group(process: subprocess.Popen[str]) -> None:
    """SIGTERM to the whole group, time to save, SIGKILL to whoever is left."""
    signum: int
    for signum in (signal.SIGTERM, signal.SIGKILL):
        deadline = time.monotonic() + GRACE_SECONDS
        while time.monotonic() < deadline:
            process.poll()  # a leader that is not reaped would keep its group alive
            try:
                os.killpg(process.pid, signum)
            except ProcessLookupError:
                return
            signum = 0  # from here on only look whether anyone is left
            time.sleep(0.1)
