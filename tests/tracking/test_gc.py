"""What `franca gc` deletes, and what it never does."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from franca.errors import FrancaError
from franca.git import run_git
from franca.params import Params
from franca.process import lock_folder
from franca.retention import gc
from franca.tracking.client import connect
from franca.worktree import HOME
from tests.tracking.conftest import Finish


@pytest.fixture
def make_run(root: Path) -> Callable[..., Path]:
    def make(name: str, age: int, finished: bool = True) -> Path:
        folder = root / f"runs/pretrain-{name}"
        (folder / "checkpoints/step-00000004").mkdir(parents=True)
        (folder / "checkpoints/step-00000004/shard").write_bytes(b"x" * 100_000)
        (folder / "metrics.jsonl").write_text("{}\n")
        if finished:
            (folder / "finished").touch()
        for path in (folder / "metrics.jsonl", folder / "checkpoints", folder):
            os.utime(path, (10_000 - age, 10_000 - age))
        return folder

    return make


def shards(root: Path) -> list[str]:
    return sorted(path.parts[-4] for path in root.glob("runs/*/checkpoints/*/shard"))


def test_only_older_runs_that_nobody_uses_lose_their_checkpoints(
    root: Path, params: Params, make_run: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    for age, name in enumerate(("newest", "second", "used", "old", "half")):
        make_run(name, age, finished=name != "half")
    with lock_folder(root / "runs/pretrain-used"):
        gc.run(params, keep=2, apply=False, as_json=False)
        listed = capsys.readouterr().out
        assert len(shards(root)) == 5 and "would be deleted" in listed
        assert "checkpoints pretrain-old: finished" in listed and "pretrain-half: not finished" in listed
        gc.run(params, keep=2, apply=True, as_json=False)
    assert shards(root) == ["pretrain-newest", "pretrain-second", "pretrain-used"]
    assert (root / "runs/pretrain-old/metrics.jsonl").exists()
    assert "2 items, 0.00 GB deleted" in capsys.readouterr().out
    gc.run(params, keep=0, apply=True, as_json=True)
    rows = json.loads(capsys.readouterr().out)
    assert {row["name"] for row in rows if row["deleted"]} == {
        f"pretrain-{name}" for name in ("newest", "second", "used")
    }
    assert all(row["size"] >= 100_000 for row in rows)


def test_a_run_that_starts_in_the_meantime_keeps_its_checkpoints(
    root: Path, params: Params, make_run: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, other = make_run("started", 1), make_run("old", 2)
    monkeypatch.setattr("franca.retention.run_folders.is_locked", lambda folder: False)
    with lock_folder(folder), pytest.raises(FrancaError, match=r"pretrain-started: .*in use by process"):
        gc.run(params, keep=0, apply=True, as_json=False)
    assert shards(root) == ["pretrain-started"] and other.exists()


def test_runs_of_registered_versions_stay_in_mlflow(root: Path, params: Params, finish: Finish) -> None:
    from franca.stages import register

    for seed, knn in ((0, 60.0), (1, 70.0), (2, 50.0)):
        finish(seed, knn=knn)
        register.run(params)
    client = connect()
    experiment = client.get_experiment_by_name(params.register_.experiment)
    assert experiment is not None
    registered = {version.run_id for version in client.search_model_versions("")}
    extra = [client.create_run(experiment.experiment_id).info.run_id for _ in range(3)]
    for run_id in extra[:2]:
        client.set_terminated(run_id, "KILLED")
    gc.run(params, keep=0, apply=True, as_json=False)
    left = {run.info.run_id for run in client.search_runs([experiment.experiment_id])}
    assert registered <= left and left & set(extra) == {extra[2]}, "the third is running"


def test_worktrees_of_dead_processes_and_old_experiments_go(
    root: Path, params: Params, capsys: pytest.CaptureFixture[str]
) -> None:
    identity = ("-c", "user.name=n", "-c", "user.email=e")
    run_git("init", "-q", folder=root)
    subprocess.run([sys.executable, "-m", "dvc", "init", "-q"], check=True)
    run_git("add", "params.yaml", ".dvc", folder=root)
    run_git(*identity, "commit", "-qm", "first", folder=root)
    head = run_git("rev-parse", "HEAD", folder=root).decode().strip()
    for number, name in enumerate(("old-cat", "new-dog")):
        date = f"2026-01-0{number + 1}T00:00:00"
        commit = subprocess.run(
            ["git", *identity, "commit-tree", f"{head}^{{tree}}", "-p", head, "-m", name],
            env=os.environ | {"GIT_COMMITTER_DATE": date},
            check=True,
            capture_output=True,
            text=True,
        ).stdout.strip()
        run_git("update-ref", f"refs/exps/{head[:2]}/{head[2:]}/{name}", commit, folder=root)
    dead = root / HOME / "0123456789ab"
    dead.mkdir(parents=True)
    (dead / "file").write_bytes(b"x" * 10_000)
    gc.run(params, keep=1, apply=True, as_json=False)
    out = capsys.readouterr().out
    assert "worktree 0123456789ab: its process has ended" in out and "DVC experiment old-cat: older" in out
    assert not dead.exists()
    left = run_git("for-each-ref", "--format=%(refname)", "refs/exps", folder=root).decode()
    assert "new-dog" in left and "old-cat" not in left


def test_a_negative_number_is_refused(params: Params) -> None:
    with pytest.raises(FrancaError, match="--keep -1: must be 0 or more"):
        gc.run(params, keep=-1, apply=True, as_json=False)
