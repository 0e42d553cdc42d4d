"""A short training is registered, then reproduced from its run ID in a worktree: the same bytes."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from franca.files import read_json
from franca.params.render import dump
from franca.yaml_file import read_yaml
from tests.conftest import MakeValues
from tests.test_learns_nothing import NOTHING, write_photos

ROOT = Path(__file__).parents[2]
TRACKED = ("franca", "dvc.yaml", "pyproject.toml", "requirements.lock", ".gitignore", ".dvcignore")


def run(folder: Path, *command: str, code: int = 0) -> str:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("DVC_ROOT")}
    environment |= {"MLFLOW_TRACKING_URI": "", "PYTHONPATH": str(folder), "DVC_NO_ANALYTICS": "1"}
    environment["PATH"] = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == code, done.stdout[-3000:] + done.stderr[-3000:]
    return done.stdout


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
    run(folder, sys.executable, "-m", "dvc", "init", "--quiet")
    run(folder, sys.executable, "-m", "dvc", "config", "core.autostage", "false")
    (folder / ".gitignore").write_text((folder / ".gitignore").read_text().replace("/data\n", ""))
    run(folder, sys.executable, "-m", "dvc", "add", "--quiet", "data")
    run(folder, "git", "add", "--all")
    run(folder, "git", "commit", "--quiet", "--message", "start")
    return folder


@pytest.mark.slow
@pytest.mark.timeout(3000)
def test_a_registered_run_is_reproduced_from_its_id(project: Path) -> None:
    # Not committed: the run has to record it.
    with (project / "franca/stages/pretrain.py").open("a") as file:
        file.write("# a change that is not committed\n")
    run(project, sys.executable, "-m", "dvc", "repro")
    receipt = read_json(project / "results/register/receipt.json")
    before = run(project, "git", "status", "--porcelain")
    lock = (project / "dvc.lock").read_bytes()

    said = run(project, sys.executable, "-m", "franca", "reproduce", receipt["run_id"], "--output", "verdict.json")
    verdict = read_json(project / "verdict.json")
    assert verdict["equal"] and verdict["weights"] and verdict["scores"] and all(verdict["pictures"].values())
    assert "reproduced" in said
    (project / "verdict.json").unlink()
    assert run(project, "git", "status", "--porcelain") == before
    assert run(project, "git", "worktree", "list").count("\n") == 1

    # The results in another clone: nothing runs but register, and dvc.lock stays as it is.
    run(project, "git", "add", "--all")
    run(project, "git", "commit", "--quiet", "--message", "results")
    clone = project.parent / "clone"
    run(project, "git", "clone", "--quiet", str(project), str(clone))
    cache = str(project / ".dvc/cache")
    run(clone, sys.executable, "-m", "dvc", "cache", "dir", "--local", cache)
    run(clone, sys.executable, "-m", "dvc", "checkout", "--quiet")
    said = run(clone, sys.executable, "-m", "dvc", "repro")
    assert "Running stage 'pretrain'" not in said and "Running stage 'register'" in said
    assert (clone / "dvc.lock").read_bytes() == lock
    assert run(clone, "git", "status", "--porcelain") == ""
    assert yaml_outs(clone, "register") == []


def yaml_outs(folder: Path, stage: str) -> list[object]:
    return list(read_yaml(folder / "dvc.lock")["stages"][stage].get("outs", []))
