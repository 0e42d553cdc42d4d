"""The lineage of a run is enough to restore its code."""

import subprocess
from pathlib import Path

import pytest

from franca.tracking import lineage


def git(*arguments: str, place: Path = Path(".")) -> str:
    identity = ["-c", "user.name=n", "-c", "user.email=e"]
    done = subprocess.run(["git", "-C", str(place), *identity, *arguments], capture_output=True, text=True, check=True)
    return done.stdout.strip()


@pytest.fixture
def repository(root: Path) -> Path:
    git("init", "-q")
    (root / "franca").mkdir()
    (root / "franca/old.py").write_text("one = 1\n")
    git("add", "franca", "params.yaml")
    git("commit", "-qm", "first")
    return root


def test_clean_checkout(repository: Path) -> None:
    (repository / "notes.md").write_text("not code\n")
    assert lineage.tags({})["mlflow.source.git.commit"] == git("rev-parse", "HEAD")
    assert lineage.tags({})["franca.git.dirty"] == "false"
    assert lineage.code_diff() == ""


def test_diff_restores_changed_and_new_code(repository: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    (repository / "franca/old.py").write_text("one = 2\n")
    (repository / "franca/new.py").write_text("two = 'é'\n")
    tags = lineage.tags({"host": "here", "versions": {"torch": "2"}})
    assert tags["franca.git.dirty"] == "true"
    assert tags["franca.git.dirty_paths"] == "franca/new.py, franca/old.py"
    assert tags["franca.run.host"] == "here"
    other = tmp_path_factory.mktemp("clone")
    git("clone", "-q", str(repository), str(other))
    (other / "code.diff").write_text(lineage.code_diff())
    git("apply", "code.diff", place=other)
    for name in ("old.py", "new.py"):
        assert (other / "franca" / name).read_text() == (repository / "franca" / name).read_text()


def test_folder_without_git_has_no_commit(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(root.parent))
    assert "mlflow.source.git.commit" not in lineage.tags({})
    assert lineage.code_diff() == ""


def test_raw_data_hash_comes_from_dvc_lock(root: Path) -> None:
    assert lineage.raw_data_hash() is None
    (root / "dvc.lock").write_text(
        "schema: '2.0'\nstages:\n  prepare:\n    deps:\n    - path: data\n      hash: md5\n      md5: abc.dir\n"
    )
    assert lineage.raw_data_hash() == "abc.dir"


@pytest.mark.parametrize(
    ("remote", "expected"),
    [
        ("https://example.org/franca.git", "franca @ git+https://example.org/franca.git@{commit}"),
        ("https://token@example.org/franca.git", None),
        ("/somewhere/on/this/machine", None),
    ],
)
def test_package_is_required_from_a_public_remote_only(repository: Path, remote: str, expected: str | None) -> None:
    git("remote", "add", "origin", remote)
    commit = git("rev-parse", "HEAD")
    assert lineage.source_requirement() == (expected.format(commit=commit) if expected else None)


def test_stage_seconds_are_of_the_last_successful_run(root: Path) -> None:
    path = root / "stages.jsonl"
    assert lineage.stage_seconds(path) == {}
    path.write_text(
        '{"stage": "pretrain", "started": 1, "seconds": 5, "status": "done"}\n'
        '{"stage": "pretrain", "started": 9, "seconds": 7, "status": "done"}\n'
        '{"stage": "pretrain", "started": 20, "seconds": 1, "status": "failed"}\n'
        '{"stage": "pretr\n'
    )
    assert lineage.stage_seconds(path) == {"pretrain": 7.0}


def test_a_checkout_of_another_user_is_no_silent_loss(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    subprocess.run(["git", "init", "--quiet", str(tmp_path)], check=True)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GIT_TEST_ASSUME_DIFFERENT_OWNER", "1")
    for _ in range(2):
        assert "mlflow.source.git.commit" not in lineage.tags({})
    assert capsys.readouterr().err == (
        f"{tmp_path}: git refuses it since it belongs to another user, so the run is recorded without its commit; run"
        f" `git config --global --add safe.directory {tmp_path}`\n"
    )
