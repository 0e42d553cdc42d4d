"""`run_git`: output, standard input and errors."""

from pathlib import Path

import pytest

from franca.errors import FrancaError
from franca.git import run_git


def test_output_is_bytes(tmp_path: Path) -> None:
    run_git("init", "-q", folder=tmp_path)
    (tmp_path / "file").write_bytes(b"one\r\n\xff\n")
    (tmp_path / "empty").touch()
    patch = run_git("diff", "--no-index", "--", "empty", "file", folder=tmp_path, success_codes=(0, 1))
    assert b"+one\r\n" in patch and b"+\xff\n" in patch
    assert (
        run_git("hash-object", "--stdin", folder=tmp_path, stdin=b"") == b"e69de29bb2d1d6434b8b29ae775ad8c2e48c5391\n"
    )


def test_errors_are_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run_git("init", "-q", folder=tmp_path)
    with pytest.raises(FrancaError, match=r"^git cat-file: [^\n]*$"):
        run_git("cat-file", "-t", "nothing", folder=tmp_path)
    monkeypatch.setenv("PATH", "")
    with pytest.raises(FrancaError, match=r"git status: cannot run git .*; install it"):
        run_git("status", folder=tmp_path)
