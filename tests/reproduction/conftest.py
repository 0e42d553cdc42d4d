"""A git and DVC project that goes through the real pipeline in seconds."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from franca.params.render import dump
from tests.conftest import MakeValues
from tests.test_learns_nothing import NOTHING, write_photos

ROOT = Path(__file__).parents[2]
TRACKED = ("franca", "dvc.yaml", "pyproject.toml", "requirements.lock", ".gitignore", ".dvcignore")


def run(folder: Path, *command: str, code: int = 0) -> str:
    """Return what a command prints: stdout, and stderr as well if it is to fail with `code`."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("DVC_ROOT")}
    environment |= {"MLFLOW_TRACKING_URI": "", "PYTHONPATH": str(folder), "DVC_NO_ANALYTICS": "1"}
    environment["PATH"] = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == code, done.stdout[-3000:] + done.stderr[-3000:]
    return done.stdout if code == 0 else done.stdout + done.stderr


def franca(folder: Path, *arguments: str, code: int = 0) -> str:
    return run(folder, sys.executable, "-m", "franca", *arguments, code=code)


def dvc(folder: Path, *arguments: str) -> str:
    return run(folder, sys.executable, "-m", "dvc", *arguments)


@pytest.fixture
def project(tmp_path: Path, tiny_values: MakeValues) -> Path:
    """A git and DVC project with this code, sixty small photos, and parameters of a training of seconds."""
    folder = tmp_path / "project"
    folder.mkdir()
    for name in TRACKED:
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(source, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
        elif source.exists():
            shutil.copy(source, folder / name)
    (folder / "results/datasets").mkdir(parents=True)
    (folder / "results/datasets/.gitkeep").touch()
    write_photos(folder / "data/photos", 3)
    values = tiny_values(NOTHING | {"prepare.source": "data/photos", "pretrain.optimizer.base_lr": 0.001})
    (folder / "params.yaml").write_text(dump(values))
    run(folder, "git", "init", "--quiet")
    for key in ("user.name", "user.email"):
        run(folder, "git", "config", key, "tests")
    dvc(folder, "init", "--quiet")
    dvc(folder, "config", "core.autostage", "false")
    (folder / ".gitignore").write_text((folder / ".gitignore").read_text().replace("/data\n", ""))
    dvc(folder, "add", "--quiet", "data")
    run(folder, "git", "add", "--all")
    run(folder, "git", "commit", "--quiet", "--message", "start")
    return folder
