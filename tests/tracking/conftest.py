"""A small project folder with results, and a SQLite tracking database that is created once and then copied."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from franca.evaluation.outcomes import Outcome, write_outcomes
from franca.files import sha256_file, write_json
from franca.models import random_model, save_model
from franca.params import Params, ResolvedBase, parse_params, read_yaml
from franca.tracking.client import connect

REPOSITORY = Path(__file__).parents[2]
FINGERPRINT = "0123456789ab"
MODELS = ("franca", "random_init")


@pytest.fixture(scope="session")
def empty_database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Path of an empty database to copy: the migrations of a new one take a second."""
    folder = tmp_path_factory.mktemp("database")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DVC_ROOT", str(folder))
        patch.setenv("MLFLOW_TRACKING_URI", "")
        connect()
    return folder / "mlflow.db"


@pytest.fixture
def root(tmp_path: Path, empty_database: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty project folder with its own database; the current folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DVC_ROOT", str(tmp_path))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "")
    monkeypatch.setenv("PREFECT_API_URL", "")
    for name in ("DVC_EXP_NAME", "DVC_EXP_BASELINE_REV"):
        monkeypatch.delenv(name, raising=False)
    shutil.copy(empty_database, tmp_path / "mlflow.db")
    shutil.copy(REPOSITORY / "params.yaml", tmp_path / "params.yaml")
    return tmp_path


@pytest.fixture
def params() -> Params:
    values = read_yaml(REPOSITORY / "params.yaml")
    values["base"] = values["base"] | {
        "seed": 0,
        "image_size": 16,
        "backbone": values["base"]["backbone"] | {"embed_dim": 16, "depth": 1, "num_heads": 1},
    }
    return parse_params(values, "params.yaml")


Finish = Callable[..., dict[str, Any]]


@pytest.fixture
def finish(root: Path, params: Params) -> Finish:
    """Write the outputs of the stages before `register`: a random model of `seed`, with scores `knn` and `linear`."""

    def write(
        seed: int = 0,
        knn: float = 70.0,
        linear: float = 80.0,
        suite: Params = params,
        data_digest: str = "d" * 64,
        baseline: float = 40.0,
    ) -> dict[str, Any]:
        base = ResolvedBase.model_validate(params.base.model_dump() | {"seed": seed})
        save_model(random_model(base), root / "models/franca")
        return write_results(suite, seed, knn, linear, data_digest, baseline)

    return write


def write_results(
    params: Params, seed: int, knn: float, linear: float, data_digest: str, baseline: float
) -> dict[str, Any]:
    rows = [
        row("franca", "knn", "val", knn),
        row("franca", "knn", "test", knn - 1),
        row("franca", "linear", "val", linear),
        row("random_init", "knn", "val", baseline),
        row("raw_pixels", "knn", "val", 44.0),
    ]
    results = {
        "data_digest": data_digest,
        "model_digest": sha256_file(Path("models/franca/model.safetensors")),
        "suite": params.evaluate.comparable,
        "rows": rows,
    }
    fingerprint = f"{FINGERPRINT[:-1]}{seed:x}"
    write_json(Path("results/evaluate/results.json"), results)
    outcomes = {(model, "knn", "val", "top1"): hits(knn if model == "franca" else baseline) for model in MODELS}
    write_outcomes(Path("results/evaluate/outcomes.npz"), outcomes, str(results["model_digest"]))
    write_json(
        Path("results/evaluate/metrics.json"), {"knn": {"val": {"top1": knn}}, "linear": {"val": {"top1": linear}}}
    )
    write_json(Path("results/pretrain/metrics.json"), {"steps": 40, "loss": 3.5, "fingerprint": fingerprint})
    write_json(Path("results/disentangle/metrics.json"), {"r2": {"before": 0.9, "after": 0.1}})
    counts = {split: {"images": count} for split, count in (("train", 80), ("val", 10), ("test", 10))}
    manifest = {"source": {"path": "data/small", "sha256": "e" * 64}, "counts": counts, "dense": None}
    write_json(Path("prepared/manifest.json"), manifest)
    folder = Path(f"runs/pretrain-{fingerprint}")
    write_json(
        folder / "run.json", {"fingerprint": fingerprint, "host": "here", "threads": 1, "versions": {"torch": "2"}}
    )
    write_lines(folder, range(0, 50, 10))
    return results


def hits(percent: float) -> Outcome:
    """Return outcomes of 1000 images, of which the first `percent` are correct."""
    return Outcome("hits", np.arange(1000) < 10 * percent, "same", 1000)


def row(model: str, benchmark: str, split: str, value: float, half: float = 1.0) -> dict[str, Any]:
    return {
        "model": model,
        "benchmark": benchmark,
        "split": split,
        "metric": "top1",
        "value": value,
        "low": value - half,
        "high": value + half,
        "n": 1000,
    }


def line(step: int, time: float | None = None) -> str:
    metrics = {"train/loss": 10.0 - step / 100, "train/lr": 0.1}
    return json.dumps({"step": step, "time": 1000.5 + step if time is None else time, "metrics": metrics}) + "\n"


def write_lines(folder: Path, steps: Iterator[int] | range, time: float | None = None) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "metrics.jsonl").open("a") as file:
        file.writelines(line(step, time) for step in steps)


def wait_for(condition: Callable[[], bool], seconds: float = 300) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "timeout"
        time.sleep(0.1)


class Server:
    """`mlflow server` on a free port, with a database in the current folder."""

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
        if self._process.poll() is None:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()

    def _answers(self) -> bool:
        try:
            with urllib.request.urlopen(f"{self.uri}/health", timeout=5):
                return True
        except OSError:
            return False


@pytest.fixture
def server(root: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    """A running server; MLFLOW_TRACKING_URI names it."""
    running = Server()
    monkeypatch.setenv("MLFLOW_TRACKING_URI", running.uri)
    running.start()
    yield running
    running.kill()
