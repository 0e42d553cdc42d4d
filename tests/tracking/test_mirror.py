"""The mirror as the process that it is: beside a trainer, over a real database or server."""

import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path

import pytest

from franca.tracking.client import connect
from tests.tracking.conftest import REPOSITORY, write_lines

TRAINER = "import sys, time, pathlib; from franca.tracking import mirror; p = mirror.start(pathlib.Path(sys.argv[1]));"


@pytest.fixture
def folder(root: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("PYTHONPATH", str(REPOSITORY))
    folder = root / "runs/pretrain-abc"
    write_lines(folder, range(3))
    return folder


def trainer(folder: Path, code: str) -> "subprocess.Popen[str]":
    """A process that starts the mirror and then runs `code`."""
    command = [sys.executable, "-c", TRAINER + code, str(folder)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def wait_for(condition: Callable[[], bool], seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.1)


def all_sent(folder: Path) -> bool:
    memory, size = folder / "mirror.json", (folder / "metrics.jsonl").stat().st_size
    return memory.is_file() and f'"offset": {size},' in memory.read_text()


def alive(pid: int) -> bool:
    stat = Path(f"/proc/{pid}/stat")
    return stat.exists() and stat.read_text().rpartition(")")[2].split()[0] != "Z"


def statuses() -> list[str]:
    client = connect()
    experiment = client.get_experiment_by_name("franca")
    return [run.info.status for run in client.search_runs([experiment.experiment_id])]


def test_drains_and_ends_once_the_trainer_has_finished(folder: Path) -> None:
    parent = trainer(folder, "print(p.wait(), 'mlflow' in sys.modules, 'torch' in sys.modules)")
    wait_for(lambda: all_sent(folder))
    write_lines(folder, range(3, 6))
    (folder / "finished").touch()
    assert parent.communicate(timeout=60)[0].split() == ["0", "False", "False"]
    assert all_sent(folder)
    assert statuses() == ["FINISHED"]


def test_ends_with_a_trainer_that_is_killed(folder: Path) -> None:
    parent = trainer(folder, "print(p.pid, flush=True); time.sleep(600)")
    assert parent.stdout
    mirror = int(parent.stdout.readline())
    wait_for(lambda: all_sent(folder))
    parent.kill()
    parent.communicate()
    wait_for(lambda: not alive(mirror))
    assert statuses() == ["KILLED"]


def test_is_left_out_where_mlflow_is_not_installed(folder: Path) -> None:
    code = "sys.modules['mlflow'] = None; from franca.tracking import mirror; print(mirror.start(pathlib.Path('.')))"
    command = [sys.executable, "-c", f"import sys, pathlib; {code}"]
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout == "None\n"


class Server:
    """`mlflow server` on a free port, over a database in the current folder."""

    def __init__(self) -> None:
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port = free.getsockname()[1]
        self.uri = f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(self.port)]
        command += ["--workers", "1", "--backend-store-uri", "sqlite:///mlflow.db"]
        environment = os.environ | {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_TRACKING_URI": ""}
        quiet = subprocess.DEVNULL
        self._process = subprocess.Popen(command, env=environment, stdout=quiet, stderr=quiet, start_new_session=True)
        wait_for(self._answers)

    def kill(self) -> None:
        os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()

    def _answers(self) -> bool:
        try:
            with urllib.request.urlopen(f"{self.uri}/health", timeout=5):
                return True
        except OSError:
            return False


@pytest.mark.slow
def test_survives_a_server_that_is_killed_and_comes_back(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    server = Server()
    monkeypatch.setenv("MLFLOW_TRACKING_URI", server.uri)
    server.start()
    parent = trainer(folder, "print(p.wait())")
    try:
        wait_for(lambda: all_sent(folder))
        server.kill()
        write_lines(folder, range(3, 6))
        wait_for(lambda: "connection refused" in (folder / "mirror.log").read_text())
        assert not all_sent(folder)
        assert parent.poll() is None
        server.start()
        wait_for(lambda: all_sent(folder))
        (folder / "finished").touch()
        assert parent.communicate(timeout=60)[0] == "0\n"
        client = connect()
        (run,) = client.search_runs([client.get_experiment_by_name("franca").experiment_id])
        history = client.get_metric_history(run.info.run_id, "train/loss")
        assert sorted(metric.step for metric in history) == [0, 1, 2, 3, 4, 5]
        assert run.info.status == "FINISHED"
    finally:
        parent.kill()
        server.kill()
