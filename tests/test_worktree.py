"""Worktrees: isolated, sharing DVC's cache, deleted at the end or after their process has died."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from franca.errors import FrancaError
from franca.git import run_git
from franca.worktree import HOME, apply_patch, remove_dead, worktree

HOLD = """
import sys, time
from pathlib import Path
from franca.worktree import worktree
with worktree(Path.cwd()) as folder:
    print(folder, flush=True)
    time.sleep(600)
"""


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[1]))
    monkeypatch.chdir(tmp_path)
    run_git("init", "-q")
    (tmp_path / "file").write_text("one\n")
    subprocess.run([sys.executable, "-m", "dvc", "init", "-q"], check=True)
    run_git("add", ".")
    run_git("-c", "user.name=n", "-c", "user.email=e", "commit", "-qm", "first")
    return tmp_path


def test_a_worktree_has_the_commit_and_takes_a_patch(project: Path) -> None:
    (project / "file").write_text("two\n")
    with worktree(project) as folder:
        assert (folder / "file").read_text() == "one\n"
        apply_patch(folder, run_git("diff", "--binary", "HEAD", folder=project))
        assert (folder / "file").read_text() == "two\n"
        with pytest.raises(FrancaError, match="git apply"):
            apply_patch(folder, b"diff --git a/none b/none\n--- a/none\n+++ b/none\n@@ -1 +1 @@\n-a\n+b\n")
        cache = subprocess.run(
            [sys.executable, "-m", "dvc", "cache", "dir"], cwd=folder, check=True, capture_output=True, text=True
        )
        assert cache.stdout.strip() == str(project / ".dvc/cache")
    assert list((project / HOME).iterdir()) == []
    assert run_git("worktree", "list").count(b"\n") == 1


def test_only_worktrees_of_dead_processes_are_deleted(project: Path) -> None:
    holders = [
        subprocess.Popen([sys.executable, "-c", HOLD], stdout=subprocess.PIPE, text=True, cwd=project)
        for _ in range(2)
    ]
    try:
        killed, alive = (Path(holder.stdout.readline().strip()) for holder in holders if holder.stdout)
        assert remove_dead(project) == []
        os.kill(holders[0].pid, signal.SIGKILL)
        holders[0].wait()
        assert killed.is_dir()
        with worktree(project):
            assert not killed.exists() and alive.is_dir()
    finally:
        for holder in holders:
            holder.kill()
            holder.communicate()
    assert remove_dead(project) == [alive]
    assert run_git("worktree", "list").count(b"\n") == 1


def test_an_unknown_revision_leaves_nothing(project: Path) -> None:
    with pytest.raises(FrancaError, match=r"git worktree: .*nothing"), worktree(project, "nothing"):
        pass
    assert list((project / HOME).iterdir()) == []
