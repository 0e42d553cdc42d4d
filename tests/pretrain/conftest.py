"""Whole runs of the pretrain stage on a tiny store, each in a process that is forked with torch already imported."""

import csv
import json
import os
import runpy
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.distributed.checkpoint.format_utils import dcp_to_torch_save

from franca.params import Params, load_params
from franca.process import StopRequest
from franca.stages import pretrain as stage
from tests.conftest import MakeStore, MakeValues, set_value
from tests.forked import FORKSERVER

TRAINER = Path(__file__).with_name("trainer.py")
PATIENCE_SECONDS = 300
STEPS = 12


def wait_for(condition: Callable[[], Any]) -> None:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not condition():
        assert time.monotonic() < deadline, "waited too long"
        time.sleep(0.005)


class Run:
    """One process that pretrains in a project folder."""

    def __init__(self, project: "Project", settings: dict[str, Any]) -> None:
        self._project, self._log = project, Path(settings["log"])
        self._process = FORKSERVER.Process(target=runpy.run_path, args=(str(TRAINER), {"settings": settings}))
        self._process.start()

    @property
    def pid(self) -> int:
        assert self._process.pid is not None
        return self._process.pid

    @property
    def child_pid(self) -> int:
        path = self._log.with_name(f"{self._log.name}.pid")
        wait_for(lambda: path.is_file() and path.read_text())
        return int(path.read_text())

    @property
    def out(self) -> str:
        return self._log.with_name(f"{self._log.name}.out").read_text()

    @property
    def err(self) -> str:
        return self._log.with_name(f"{self._log.name}.err").read_text()

    def reach(self, step: int) -> None:
        """Wait until the run has logged `step`."""
        wait_for(lambda: self._project.steps()[-1:] >= [step] or self.ended)
        assert not self.ended, self.err

    def end(self) -> int:
        """Wait for the end; the exit code, negative for a signal."""
        self._process.join(PATIENCE_SECONDS)
        assert self._process.exitcode is not None
        return self._process.exitcode

    @property
    def ended(self) -> bool:
        return self._process.exitcode is not None

    def kill(self) -> None:
        if self._process.is_alive():
            self._process.kill()
            self._process.join()


class Project:
    """A project folder: params.yaml and a prepared store."""

    def __init__(self, folder: Path, prepared: Path, values: dict[str, Any]) -> None:
        self.folder = folder
        self._values = values
        self._runs: list[Run] = []
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "prepared").symlink_to(prepared)
        self.set({})

    def set(self, changes: dict[str, Any]) -> None:
        """Change params.yaml by dotted path."""
        for path, value in changes.items():
            set_value(self._values, path, value)
        (self.folder / "params.yaml").write_text(json.dumps(self._values))

    @property
    def params(self) -> Params:
        return load_params(self.folder / "params.yaml")

    @property
    def run_folder(self) -> Path:
        (folder,) = (self.folder / "runs").glob("pretrain-*")
        return folder

    def checkpoints(self) -> list[Path]:
        return sorted(path for path in (self.run_folder / "checkpoints").iterdir() if not path.name.startswith("."))

    def weights(self) -> dict[str, Tensor]:
        """Weights of the newest checkpoint, as `student.…` and `teacher.…`."""
        path = self.folder / "weights.pt"
        dcp_to_torch_save(self.checkpoints()[-1], path)
        state = torch.load(path, weights_only=True)
        return {f"{part}.{name}": value for part in ("student", "teacher") for name, value in state[part].items()}

    def metrics(self) -> list[dict[str, float]]:
        """The run's readings, in order."""
        lines = (self.run_folder / "metrics.jsonl").read_text().splitlines()
        return [json.loads(line)["metrics"] for line in lines]

    def steps(self) -> list[int]:
        """Steps that the run has logged so far."""
        paths = list((self.folder / "runs").glob("pretrain-*/metrics.jsonl"))
        lines = paths[0].read_text().split("\n")[:-1] if paths else []
        return [json.loads(line)["step"] for line in lines]

    def start(
        self, *, largest_file: int | None = None, between: bool = False, environment: dict[str, str] | None = None
    ) -> Run:
        """Start training; `largest_file` in bytes bounds what it can write, `between` puts a process before it."""
        log = self.folder / f"log{len(self._runs)}"
        settings = {
            "project": self.folder,
            "log": str(log),
            "largest_file": largest_file,
            "between": between,
            "environment": environment or {},
        }
        self._runs.append(Run(self, settings))
        return self._runs[-1]

    def together(self, processes: int, machines: int = 1, largest_files: Mapping[int, int] | None = None) -> list[Run]:
        """Start training in processes with the environment that torchrun gives them, as if on several machines.

        `largest_files` bounds what processes of these ranks can write, in bytes.
        """
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = str(free.getsockname()[1])
        common = {"WORLD_SIZE": str(processes), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
        local, limits = processes // machines, largest_files or {}
        common["LOCAL_WORLD_SIZE"] = str(local)
        return [
            self.start(
                environment=common | {"RANK": str(rank), "LOCAL_RANK": str(rank % local)},
                largest_file=limits.get(rank),
            )
            for rank in range(processes)
        ]

    def outs(self) -> dict[str, bytes]:
        """Contents of all that DVC keeps of the stage, by name."""
        files = [*self.folder.glob("models/**/*"), *self.folder.glob("results/**/*")]
        return {str(path.relative_to(self.folder)): path.read_bytes() for path in files if path.is_file()}

    def close(self) -> None:
        for run in self._runs:
            run.kill()


def rows(project: Project, curve: str) -> list[dict[str, str]]:
    """Rows of one of the stage's CSV files."""
    with (project.folder / f"results/pretrain/curves/{curve}.csv").open() as file:
        return list(csv.DictReader(file))


MakeProject = Callable[..., Project]


@pytest.fixture(scope="session")
def prepared(tmp_path_factory: pytest.TempPathFactory, make_store: MakeStore) -> Path:
    return make_store(tmp_path_factory.mktemp("store"), dense=True)


@pytest.fixture
def make_project(tmp_path: Path, prepared: Path, tiny_values: MakeValues) -> Iterator[MakeProject]:
    """Makes a project of `STEPS` steps, with changes of its parameters by dotted path."""
    projects: list[Project] = []

    def make(changes: dict[str, Any] | None = None, name: str = "project") -> Project:
        values = tiny_values({"pretrain.epochs": STEPS / 3, **(changes or {})})
        projects.append(Project(tmp_path / name, prepared, values))
        return projects[-1]

    yield make
    for project in projects:
        project.close()


@pytest.fixture(scope="session")
def reference(tmp_path_factory: pytest.TempPathFactory, prepared: Path, tiny_values: MakeValues) -> Project:
    """A finished run, never disturbed, made by the command that a user types, with no tracking server to be had."""
    project = Project(
        tmp_path_factory.mktemp("run") / "reference", prepared, tiny_values({"pretrain.epochs": STEPS / 3})
    )
    environment = os.environ | {"DVC_ROOT": str(project.folder), "MLFLOW_TRACKING_URI": "http://127.0.0.1:9"}
    command = [sys.executable, "-m", "franca", "pretrain"]
    subprocess.run(command, cwd=project.folder, env=environment, check=True, timeout=PATIENCE_SECONDS)
    return project


@pytest.fixture
def pretrain(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[Project], None]]:
    """Runs the stage in this process, which keeps its own signal handlers and torch settings."""
    threads, deterministic = torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()
    monkeypatch.setattr(stage, "listen_for_stop", StopRequest)

    def run(project: Project) -> None:
        monkeypatch.chdir(project.folder)
        monkeypatch.setenv("DVC_ROOT", str(project.folder))
        stage.run(project.params)

    yield run
    torch.set_num_threads(threads)
    torch.use_deterministic_algorithms(deterministic)
