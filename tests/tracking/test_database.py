"""The SQLite database: first starts at the same time, killed creations, and files that MLflow cannot use."""

import os
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from franca.errors import FrancaError
from franca.tracking.client import connect, experiment_id, server_errors
from franca.tracking.database import prepare_database
from tests.tracking.conftest import REPOSITORY, line

LONG_AGO = (1, 1)
AS_OTHERS = ["setpriv", "--bounding-set=-dac_override,-dac_read_search"] if os.geteuid() == 0 else []
"""Remove the capability by which root ignores permissions."""

START = """
import os, signal, sys, time
from pathlib import Path
import mlflow.store.tracking.sqlalchemy_store
from franca.tracking.client import connect, experiment_id, server_errors
from franca.tracking.curves import open_uploader
from franca.tracking.runs import pipeline_run

def child(work):
    pid = os.fork()
    if pid == 0:
        try:
            work()
            os._exit(0)
        finally:
            os._exit(1)
    return pid
"""


def run(code: str, folder: Path, command: list[str] | None = None) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [*(command or []), sys.executable, "-c", START + code],
        cwd=folder,
        env=os.environ | {"DVC_ROOT": str(folder), "PYTHONPATH": str(REPOSITORY), "MLFLOW_TRACKING_URI": ""},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def edit(path: Path, *statements: str) -> None:
    with closing(sqlite3.connect(path)) as connection:
        for statement in statements:
            connection.execute(statement)
        connection.commit()
    os.utime(path, LONG_AGO)


HALF = ("UPDATE alembic_version SET version_num = '181f10493468'", "DROP TABLE registered_model_aliases")


def gone(path: Path) -> Path:
    path.unlink()
    return path


def scramble(path: Path) -> None:
    """Overwrite all pages except the first, and SQLite's change counter in the first."""
    content = path.read_bytes()
    path.write_bytes(content[:24] + b"\xa5" * 4 + content[28:4096] + b"\xa5" * (len(content) - 4096))


BROKEN: dict[str, tuple[Callable[[Path], object], str]] = {
    "text": (lambda path: path.write_text("epoch,loss\n"), "not an SQLite database; move it away and run `franca"),
    "cut": (lambda path: os.truncate(path, 50_000), "damaged; restore a backup"),
    "cut page": (lambda path: os.truncate(path, path.stat().st_size - 4096), "damaged; restore a backup"),
    "scrambled": (scramble, "damaged; restore a backup"),
    "newer": (
        lambda path: edit(path, "UPDATE alembic_version SET version_num = 'ffff'", "CREATE TABLE future (x)"),
        r"newer version than MLflow .* \(schema ffff\); install that version",
    ),
    "older": (
        lambda path: edit(path, HALF[0], "INSERT INTO experiments (experiment_id, name) VALUES (1, 'mine')"),
        "older version than MLflow .*; copy the file, then run `mlflow db upgrade ",
    ),
    "interrupted": (
        lambda path: edit(path, *HALF, "INSERT INTO experiments (experiment_id, name) VALUES (1, 'mine')"),
        "only partly upgraded; copy the file",
    ),
    "foreign": (
        lambda path: edit(gone(path), "CREATE TABLE songs (title)"),
        "of another program; move it away",
    ),
    "folder": (lambda path: gone(path).mkdir(), "a folder; set MLFLOW_TRACKING_URI to a file"),
}


@pytest.mark.parametrize("kind", BROKEN)
def test_unusable_file_is_a_one_line_error_and_stays(kind: str, root: Path) -> None:
    spoil, message = BROKEN[kind]
    path = root / "mlflow.db"
    spoil(path)
    before = path.read_bytes() if path.is_file() else None
    with pytest.raises(FrancaError, match=message) as caught:
        connect()
    assert "\n" not in str(caught.value)
    assert str(path) in str(caught.value)
    assert (path.read_bytes() if path.is_file() else None) == before


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["half", "zero", "journal alone", "link to nothing"])
def test_a_file_without_content_is_created_again(kind: str, root: Path) -> None:
    path = root / "mlflow.db"
    if kind == "half":
        edit(path, *HALF)
    else:
        path.unlink()
    if kind == "zero":
        path.touch()
    elif kind == "link to nothing":
        path.symlink_to("elsewhere.db")
    elif kind == "journal alone":
        Path(f"{path}-journal").write_bytes(b"\xa5" * 5000)
    client = connect()
    assert experiment_id(client, "one") == experiment_id(client, "one")
    assert path.is_symlink() == (kind == "link to nothing")
    assert not list(root.glob("*.new*")) and not list(root.glob("*-journal"))


def test_waits_for_another_process_that_creates_the_file(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole, path = root / "whole.db", root / "mlflow.db"
    path.rename(whole)
    path.touch()
    with subprocess.Popen(["sh", "-c", f"sleep 0.5; cp '{whole}' '{path}'"]):
        prepare_database(path)
    assert path.read_bytes() == whole.read_bytes()


@pytest.mark.parametrize("name", ["half%20way", "what?"])
def test_folder_name_that_a_database_url_cannot_have(name: str, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DVC_ROOT", str(root / name))
    with pytest.raises(FrancaError, match="rename the folder or set MLFLOW_TRACKING_URI"):
        connect()


def test_folder_name_with_spaces(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = root / "my files #1 (50% of it)"
    folder.mkdir()
    shutil.copy(root / "mlflow.db", folder)
    monkeypatch.setenv("DVC_ROOT", str(folder))
    client = connect()
    client.create_run(experiment_id(client, "one"))
    with closing(sqlite3.connect(folder / "mlflow.db")) as connection:
        assert connection.execute("SELECT count(*) FROM runs").fetchone() == (1,)


def test_database_that_another_process_keeps_locked(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("franca.tracking.database.BUSY_SECONDS", 0.2)
    with closing(sqlite3.connect(root / "mlflow.db")) as other:
        other.execute("BEGIN EXCLUSIVE")
        with pytest.raises(FrancaError, match="locked by another process for too long; wait"):
            connect()


def test_two_creators_of_one_experiment(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    client, other = connect(), connect()
    ask = client.get_experiment_by_name

    def late(name: str) -> object:
        found = ask(name)
        if found is None:
            other.create_experiment(name)
        return found

    monkeypatch.setattr(client, "get_experiment_by_name", late)
    assert experiment_id(client, "one") == experiment_id(other, "one")


@pytest.mark.slow
def test_first_starts_at_the_same_time_share_one_run(tmp_path: Path) -> None:
    folder = tmp_path / "runs/pretrain-abc"
    folder.mkdir(parents=True)
    (folder / "metrics.jsonl").write_text("".join(map(line, range(20))))
    code = """
def work(number):
    with server_errors():
        client = connect()
        if number % 2:
            open_uploader(client, Path("runs/pretrain-abc").resolve(), "franca").send()
        else:
            pipeline_run(client, experiment_id(client, "franca"), "abc", "whole")
pids = [child(lambda: work(number)) for number in range(6)]
print([os.waitpid(pid, 0)[1] for pid in pids])
client = connect()
(run,) = client.search_runs([experiment_id(client, "franca")])
print(len(client.get_metric_history(run.info.run_id, "train/loss")))
"""
    output, errors = run(code, tmp_path).communicate(timeout=300)
    assert output.splitlines() == ["[0, 0, 0, 0, 0, 0]", "20"], errors


@pytest.mark.slow
def test_killed_creation_does_not_block_the_next(tmp_path: Path) -> None:
    code = """
import random
path = Path("mlflow.db")
for delay in [0.05, 0.3, *(random.uniform(0, 2) for _ in range(4))]:
    pid = child(connect)
    time.sleep(delay)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    begun = path.with_name("mlflow.db.new").exists()
    succeeded = os.waitpid(child(connect), 0)[1] == 0
    print(succeeded, sorted(p.name for p in Path().iterdir()), f"killed after {delay:.2f} s, begun: {begun}")
    path.unlink()
"""
    output, errors = run(code, tmp_path).communicate(timeout=500)
    lines = output.splitlines()
    assert len(lines) == 6, errors
    assert all(said.startswith("True ['mlflow.db', 'mlflow.db.lock']") for said in lines), output + errors
    assert "begun: True" in output


CONNECT = """
import resource

def say(folder, size):
    os.chdir(folder)
    os.environ["DVC_ROOT"] = folder
    if size is not None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))
    try:
        with server_errors():
            client = connect()
            print("connected", flush=True)
            experiment_id(client, "one")
    except Exception as error:
        print(f"{type(error).__name__}: {error}", flush=True)

for folder, size in CASES:
    print(folder, flush=True)
    os.waitpid(child(lambda: say(folder, size)), 0)
"""


@pytest.mark.slow
def test_full_disk_is_a_one_line_error_and_leaves_no_file(tmp_path: Path) -> None:
    cases = [(tmp_path / str(size), size) for size in (0, 5000, 300_000)]
    for folder, _ in cases:
        folder.mkdir()
    code = f"CASES = {[(str(folder), size) for folder, size in cases]}" + CONNECT
    output, errors = run(code, tmp_path).communicate(timeout=300)
    reason = "reading or writing failed; check the disk and its free space, then run again"
    lines = [f"{folder}\nFrancaError: tracking database {folder}/mlflow.db: {reason}\n" for folder, _ in cases]
    assert output == "".join(lines), output + errors
    assert "Traceback" not in errors
    assert all([path.name for path in folder.iterdir()] == ["mlflow.db.lock"] for folder, _ in cases)


@pytest.mark.slow
def test_missing_permission_is_a_one_line_error(tmp_path: Path, empty_database: Path) -> None:
    denied = "tracking database {file}: cannot be read or created (Permission denied)"
    readonly = "tracking database {file}: cannot be written; change the permissions"
    cases = {
        "no folder to write": (0o555, None, [denied]),
        "no file to read": (0o755, 0o000, [denied]),
        "no file to write": (0o755, 0o444, ["connected", readonly]),
        "no journal to write": (0o555, 0o644, ["connected", readonly]),
        "nothing to write": (0o555, 0o444, ["connected", readonly]),
    }
    for name, (folder, file, _) in cases.items():
        (tmp_path / name).mkdir()
        if file is not None:
            shutil.copy(empty_database, tmp_path / name)
            (tmp_path / name / "mlflow.db").chmod(file)
        (tmp_path / name).chmod(folder)
    code = f"CASES = {[(str(tmp_path / name), None) for name in cases]}" + CONNECT
    try:
        output, errors = run(code, tmp_path, AS_OTHERS).communicate(timeout=300)
    finally:
        for name in cases:
            (tmp_path / name).chmod(0o755)
    lines = iter(output.splitlines())
    for name, (_, _, said) in cases.items():
        for text in [str(tmp_path / name), *said]:
            got = next(lines, "").removeprefix("FrancaError: ")
            assert got.startswith(text.format(file=tmp_path / name / "mlflow.db")), output + errors
    assert not list(lines)
    assert "Traceback" not in errors


def test_damage_found_later_is_a_one_line_error(root: Path) -> None:
    client = connect()
    scramble(root / "mlflow.db")
    with pytest.raises(FrancaError, match="damaged; restore a backup, or move it away"), server_errors():
        client.search_experiments()
