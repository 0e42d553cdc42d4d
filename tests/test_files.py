"""Replacing a folder is atomic: at whatever system call the process is killed, the old or the new folder exists."""

import errno
import os
import signal
import sys
from pathlib import Path
from typing import Any

import pytest

from franca import files


def replace_and_die(place: Path, turn: int, can_exchange: bool) -> bool:
    """Replace `here` by `new` in another process, killed before its `turn`-th call; return whether it finished."""
    child = os.fork()
    if not child:
        left, exchange = [turn], files._exchange

        def count(event: str, arguments: Any) -> None:
            if event.partition(".")[0] in ("os", "shutil", "open") and event != "os.kill":
                left[0] -= 1
                if left[0] < 0:
                    os.kill(os.getpid(), signal.SIGKILL)

        def announce(one: Path, other: Path) -> None:
            if not can_exchange:
                raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
            sys.audit("os.exchange")
            exchange(one, other)

        files._exchange = announce
        sys.addaudithook(count)
        try:
            files.replace_folder(place / "new", place / "here")
        except BaseException:
            os._exit(1)
        os._exit(0)
    status = os.waitpid(child, 0)[1]
    assert status == 0 or os.WTERMSIG(status) == signal.SIGKILL
    return status == 0


def build(folder: Path, text: str) -> Path:
    for name in ("a", "deep/b"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    return folder


def content(folder: Path) -> set[str]:
    return {(folder / name).read_text() for name in ("a", "deep/b")}


@pytest.mark.parametrize("can_exchange", [True, False])
def test_killed_at_any_call(tmp_path: Path, can_exchange: bool) -> None:
    seen, done, turn = set(), False, 0
    while not done:
        place = tmp_path / str(turn)
        build(place / "new", "new")
        build(place / "here", "old")
        done = replace_and_die(place, turn, can_exchange)
        if not can_exchange:
            files.recover_folder(place / "here")
        (found,) = content(place / "here")
        seen.add(found)
        turn += 1
    assert seen == {"old", "new"}
    assert turn > 10
    assert [path.name for path in place.iterdir()] == ["here"]


def test_a_failed_exchange_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    new, here = build(tmp_path / "new", "new"), build(tmp_path / "here", "old")

    def denied(one: Path, other: Path) -> None:
        raise PermissionError(errno.EACCES, "Permission denied", str(one))

    monkeypatch.setattr(files, "_exchange", denied)
    with pytest.raises(PermissionError):
        files.replace_folder(new, here)
    assert (content(here), content(new)) == ({"old"}, {"new"})


def test_a_folder_where_there_is_none(tmp_path: Path) -> None:
    files.replace_folder(build(tmp_path / "new", "new"), tmp_path / "here")
    assert content(tmp_path / "here") == {"new"}
    with files.atomic_folder(tmp_path / "here") as folder:
        build(folder, "newer")
    assert content(tmp_path / "here") == {"newer"}
    assert [path.name for path in tmp_path.iterdir()] == ["here"]


def test_a_failed_second_rename_leaves_the_old_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    new, here = build(tmp_path / "new", "new"), build(tmp_path / "here", "old")

    def lose_new(one: Path, other: Path) -> None:
        one.rename(tmp_path / "elsewhere")
        raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))

    monkeypatch.setattr(files, "_exchange", lose_new)
    with pytest.raises(FileNotFoundError):
        files.replace_folder(new, here)
    assert content(here) == {"old"}


def test_a_new_folder_recovers_the_old_one_first(tmp_path: Path) -> None:
    build(tmp_path / ".here.old", "old")
    with pytest.raises(ValueError, match="stop"), files.atomic_folder(tmp_path / "here"):
        raise ValueError("stop")
    assert content(tmp_path / "here") == {"old"}
