import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from flows import commands
from franca.errors import FrancaError


def wait_until(true: Callable[[], bool], seconds: float = 20) -> bool:
    deadline = time.monotonic() + seconds
    while not true() and time.monotonic() < deadline:
        time.sleep(0.05)
    return true()


def python(code: str) -> list[str]:
    return [sys.executable, "-c", code]


def gone(pid: int) -> bool:
    return not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE


def test_lines_are_logged_while_the_command_runs(tmp_path: Path) -> None:
    """The command waits for a file that is created when its first line is logged."""
    code = "import os, time\nprint('first')\nwhile not os.path.exists('seen'): time.sleep(0.01)\nprint('last')"
    seen = []

    def log(line: str) -> None:
        seen.append(line)
        (tmp_path / "seen").touch()

    assert commands.run(python(code), tmp_path, log) == (0, ["first", "last"])
    assert seen == ["first", "last"]


def test_both_streams_the_exit_code_and_invalid_utf8(tmp_path: Path) -> None:
    code = "import sys; sys.stderr.write('to stderr\\n'); sys.stdout.buffer.write(b'\\xff\\rbar\\n\\n'); sys.exit(3)"
    assert commands.run(python(code), tmp_path, lambda line: None) == (3, ["to stderr", "\ufffd", "bar"])


PARENT = """
import subprocess, sys, time
child = subprocess.Popen([sys.executable, "-c", '''
import signal, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
print("ready", flush=True)
time.sleep(600)
'''])
print(child.pid, flush=True)
child.wait()
"""


@pytest.mark.parametrize("interruption", [KeyboardInterrupt, SystemExit])
def test_an_interrupted_wait_ends_every_process(
    interruption: type[BaseException], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The command has a child that ignores SIGTERM."""
    monkeypatch.setattr(commands, "GRACE_SECONDS", 0.5)
    pids = []

    def log(line: str) -> None:
        if line == "ready":
            raise interruption
        pids.append(int(line))

    with pytest.raises(interruption):
        commands.run(python(PARENT), tmp_path, log)
    assert wait_until(lambda: gone(pids[0]))


def test_a_command_has_time_to_save_after_sigterm(tmp_path: Path) -> None:
    code = """
import signal, sys, time
def save(*_):
    time.sleep(0.5)
    open("saved", "w").close()
    sys.exit()
signal.signal(signal.SIGTERM, save)
print("ready")
time.sleep(600)
"""

    def log(line: str) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        commands.run(python(code), tmp_path, log)
    assert (tmp_path / "saved").exists()


def test_a_killed_flow_ends_its_command(tmp_path: Path) -> None:
    """A flow killed by SIGKILL cannot end its command itself."""
    code = f"""
from pathlib import Path
from flows.commands import run
command = "import os, time; print(os.getpid()); time.sleep(600)"
run([{sys.executable!r}, "-c", command], Path(), lambda line: print(line, flush=True))
"""
    flow = subprocess.Popen(python(code), cwd=tmp_path, stdout=subprocess.PIPE, text=True)
    assert flow.stdout is not None
    pid = int(flow.stdout.readline())
    flow.send_signal(signal.SIGKILL)
    flow.wait()
    assert wait_until(lambda: gone(pid))


def test_dvc_waits_for_another_dvc(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The other command holds the lock until this one has logged that it waits."""
    monkeypatch.setattr(commands, "BUSY_SECONDS", 0.2)
    (project / "stage.py").write_text(
        "import os, time, pathlib\n"
        "pathlib.Path('started').touch()\n"
        "while not os.path.exists('go'): time.sleep(0.05)\n"
        "pathlib.Path('prepared').touch()\n"
    )
    command = [sys.executable, "-m", "dvc", "repro", "prepare"]
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    other = subprocess.Popen(command, cwd=project, env=environment, stdout=subprocess.DEVNULL)
    assert wait_until((project / "started").exists)
    said = []

    def log(line: str) -> None:
        said.append(line)
        if line.startswith("another command"):
            (project / "go").touch()

    lines = commands.dvc(["repro", "prepare"], project, log)
    assert other.wait() == 0
    assert any(line.startswith("another command") for line in said)
    assert "Stage 'prepare' didn't change, skipping" in lines


def test_a_failed_dvc_command_raises_its_error_line(project: Path) -> None:
    with pytest.raises(FrancaError, match=r"nothing\.dvc"):
        commands.dvc(["pull", "nothing.dvc"], project, lambda line: None)


@pytest.mark.parametrize(
    ("lines", "code", "expected"),
    [
        (["> x", "step 1", "no such folder", "ERROR: failed to run: x, exited with 2"], 255, "no such folder"),
        (["> x", "ERROR: failed to run: x, exited with -9"], 255, "failed to run: x, exited with -9"),
        (["Updating", "ERROR: missing data 'source': data"], 255, "missing data 'source': data"),
        (["half"], -9, "dvc was killed by signal 9 (Killed); its last line: half"),
        ([], 3, "dvc ended with exit code 3; its last line: none"),
    ],
)
def test_reason(lines: list[str], code: int, expected: str) -> None:
    assert commands.reason(lines, code) == expected
