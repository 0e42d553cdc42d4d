"""Run the commands of a flow: log their output line by line, and leave no process behind when the flow ends."""

import os
import signal
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from prefect.runtime import flow_run

from franca.errors import FrancaError

Log = Callable[[str], None]

# Prefect's worker kills a cancelled flow run after 30 s; a stage saves its checkpoint before that.
GRACE_SECONDS = 20.0
# Wait before the next attempt if another command has locked the files.
BUSY_SECONDS = 10.0
KEPT_LINES = 100

# Messages of DVC's locks; and of a stage whose predecessor is still saving its checkpoint after DVC has exited.
_BUSY = ("is busy, it is being blocked by", "Unable to acquire lock", "in use by process")


def run(
    command: Sequence[str], folder: Path, log: Log, extra_env: Mapping[str, str] | None = None
) -> tuple[int, list[str]]:
    """Run a command; return its exit code and the last lines of its output (stdout and stderr together).

    Whatever interrupts the wait (a cancellation, SIGTERM, Ctrl-C) first ends the command and all of its children.

    Args:
        command: Program and arguments.
        folder: Where to run it.
        log: Called with each line that is not empty.
        extra_env: Environment variables besides those of this process.
    """
    # Stages call `python`; it must be the one of this environment.
    bin_folder = Path(sys.executable).parent
    process = subprocess.Popen(
        [sys.executable, str(Path(__file__).with_name("supervise.py")), str(os.getpid()), *command],
        cwd=folder,
        env={
            **os.environ,
            "PATH": f"{bin_folder}:{os.environ.get('PATH', os.defpath)}",
            "PYTHONUNBUFFERED": "1",
            **_flow_run(),
            **(extra_env or {}),
        },
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        encoding="utf-8",
        errors="replace",
        start_new_session=True,  # one process group, which _end_group signals
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


def _flow_run() -> dict[str, str]:
    """Return the variables by which a command knows its flow run, which MLflow's runs and the history name."""
    if not flow_run.id:
        return {}
    page = {"FRANCA_FLOW_RUN_URL": flow_run.ui_url} if flow_run.ui_url else {}
    return {"FRANCA_FLOW_RUN": f"{flow_run.name} ({flow_run.id})", **page}


def dvc(arguments: Sequence[str], folder: Path, log: Log, extra_env: Mapping[str, str] | None = None) -> list[str]:
    """Run a DVC command and return the last lines of its output; wait as long as another command uses the same files.

    Raises:
        FrancaError: The command failed; the message is the line that explains why.
    """
    while True:
        code, lines = run([sys.executable, "-m", "dvc", *arguments], folder, log, extra_env)
        if code == 0:
            return lines
        if not any(message in line for message in _BUSY for line in lines):
            raise FrancaError(reason(lines, code))
        log(f"another command uses these files; trying again in {BUSY_SECONDS:g} s")
        time.sleep(BUSY_SECONDS)


def reason(lines: Sequence[str], code: int) -> str:
    """Return the line that explains why a DVC command failed: the stage's last one, else DVC's, else its exit code."""
    for position, line in enumerate(lines):
        if line.startswith("ERROR: "):
            # DVC prints the stage's command after "> ", then the stage's output.
            before = lines[position - 1] if position else "> "
            of_stage = "failed to run:" in line and not before.startswith("> ")
            return before.removeprefix("franca: ") if of_stage else line.removeprefix("ERROR: ")
    ending = (
        f"was killed by signal {-code} ({signal.strsignal(-code)})" if code < 0 else f"ended with exit code {code}"
    )
    return f"dvc {ending}; its last line: {lines[-1] if lines else 'none'}"


def _end_group(process: subprocess.Popen[str]) -> None:
    """Send SIGTERM to the process group, wait for it to save and exit, then send SIGKILL to what is left."""
    signum: int
    for signum in (signal.SIGTERM, signal.SIGKILL):
        deadline = time.monotonic() + GRACE_SECONDS
        while time.monotonic() < deadline:
            process.poll()  # reaps the leader; as a zombie it would keep its group alive
            try:
                os.killpg(process.pid, signum)
            except ProcessLookupError:
                return
            signum = 0  # from now on only check whether the group exists
            time.sleep(0.1)
