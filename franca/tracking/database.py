"""Create the SQLite file of the default tracking server atomically, and check it before MLflow opens it.

MLflow creates a database in about fifty committed steps. A process that opens the file in the meantime tries to create
it a second time and fails, and a file whose creation was killed cannot be opened any more.
"""

import os
import shlex
import sqlite3
import time
from contextlib import closing
from importlib import metadata
from pathlib import Path

from franca.errors import FrancaError
from franca.file_lock import lock_file

QUIET_SECONDS = 5.0
"""An incomplete file that was not written to for this long is no longer being created."""
BUSY_SECONDS = 20.0
"""How long SQLite waits for a lock of another process."""
_MAGIC = b"SQLite format 3\0"
_SUFFIXES = ("", "-journal", "-wal", "-shm")
"""A database, and the files next to it in which SQLite keeps what is not committed or not yet copied into it."""
_OR_OTHER_URI = "or set MLFLOW_TRACKING_URI to another one"
_OR_REFILL = f"move it away and run `franca register`, which fills a new one with the current run, {_OR_OTHER_URI}"
_LOCKED = "locked by another process for too long; wait for that process or stop it, then run again"
_REASONS = {
    "SQLITE_READONLY_DBMOVED": "moved or deleted while it was in use; run again",
    "SQLITE_READONLY": f"cannot be written; change the permissions of the file and its folder, {_OR_OTHER_URI}",
    "SQLITE_CANTOPEN": f"cannot be opened; change the permissions of the file and its folder, {_OR_OTHER_URI}",
    "SQLITE_FULL": "no space left on the disk; free space and run again",
    "SQLITE_IOERR": "reading or writing failed; check the disk and its free space, then run again",
    "SQLITE_BUSY": _LOCKED,
    "SQLITE_LOCKED": _LOCKED,
    "SQLITE_PROTOCOL": _LOCKED,
    "SQLITE_CORRUPT": f"damaged; restore a backup, or {_OR_REFILL}",
    "SQLITE_NOTADB": f"not an SQLite database; {_OR_REFILL}",
}
"""Explanation of SQLite's result codes, by prefix of their names; the first match counts."""
_VERSION = "alembic_version"
_DEFAULT_ROWS = {"experiments": "name <> 'Default'", "workspaces": "name <> 'default'", _VERSION: "false"}
"""SQL conditions that exclude the rows that every new database has."""


def prepare_database(path: Path) -> None:
    """Create the database at `path` if it is missing, or if it is incomplete and has no content.

    Any number of processes may call this at the same time: one creates the file, the others wait for it.

    Raises:
        FrancaError: The file is damaged, not MLflow's, or of another version of MLflow, or cannot be created.
    """
    path = path.resolve()  # so that the rename below replaces the target of a link, not the link
    try:
        if _usable(path):
            return
        path.parent.mkdir(parents=True, exist_ok=True)
        with lock_file(path.with_name(f"{path.name}.lock")):
            # A program that does not know this lock, such as `mlflow ui`, may be creating the file right now.
            while not (usable := _usable(path)) and _seconds_since_write(path) < QUIET_SECONDS:
                time.sleep(0.2)
            if not usable:
                _create(path)
    except OSError as error:
        raise _error(
            path, f"cannot be read or created ({error.strerror}); change permissions or free space, {_OR_OTHER_URI}"
        ) from None


def sqlite_reason(error: BaseException) -> str | None:
    """Return what the SQLite error behind `error` means and how to fix it; None if there is no known one."""
    link: BaseException | None = error
    while link is not None:
        for cause in (link, getattr(link, "orig", None)):  # SQLAlchemy keeps the driver's error in `orig`
            if isinstance(cause, sqlite3.Error):
                code = getattr(cause, "sqlite_errorname", "")
                return next((reason for name, reason in _REASONS.items() if code.startswith(name)), None)
        link = link.__cause__ or link.__context__
    return None


def _error(path: Path, reason: str) -> FrancaError:
    return FrancaError(f"tracking database {path}: {reason}")


def _usable(path: Path) -> bool:
    """Return whether MLflow can open the file; False if it is missing, or incomplete without content.

    Raises:
        FrancaError: The file is anything else.
    """
    if not path.exists():
        return False
    if path.is_dir():
        raise _error(path, "a folder; set MLFLOW_TRACKING_URI to a file")
    with path.open("rb") as file:
        head = file.read(len(_MAGIC))
    if not head:
        return False
    if head != _MAGIC:
        raise _error(path, _REASONS["SQLITE_NOTADB"])
    try:
        # Opened for writing if permitted, so that SQLite can roll back what a killed process did not commit.
        with closing(sqlite3.connect(f"{path.as_uri()}?mode=rw", uri=True, timeout=BUSY_SECONDS)) as connection:
            return _complete(path, connection)
    except sqlite3.Error as error:
        raise _error(path, sqlite_reason(error) or str(error)) from None


def _complete(path: Path, connection: sqlite3.Connection) -> bool:
    """Return whether tables and schema version are those of the installed MLflow.

    False if tables are missing and nothing is lost by creating the file again; FrancaError otherwise.
    """
    import mlflow.store.db.utils  # noqa: F401  (defines the tables of Base.metadata)
    from alembic.script import ScriptDirectory
    from mlflow.store import db_migrations
    from mlflow.store.db.base_sql_model import Base

    connection.execute("BEGIN")  # one snapshot for all queries below
    tables = {name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
    expected = set(Base.metadata.tables)
    revisions = [row[0] for row in connection.execute("SELECT * FROM alembic_version")] if _VERSION in tables else []
    scripts = ScriptDirectory(str(Path(str(db_migrations.__file__)).parent))
    if revisions == [scripts.get_current_head()] and expected <= tables:
        return True
    if tables and not expected & tables:
        raise _error(path, f"an SQLite database of another program; {_OR_REFILL}")
    known = {script.revision for script in scripts.walk_revisions()}
    installed = f"MLflow {metadata.version('mlflow')}, which is installed here"
    if not known.issuperset(revisions):
        newer = ", ".join(map(str, revisions))
        raise _error(
            path, f"of a newer version than {installed} (schema {newer}); install that version, or {_OR_REFILL}"
        )
    if any(_has_rows(connection, table) for table in tables):
        upgrade = shlex.join(["mlflow", "db", "upgrade", f"sqlite:///{path}"])
        raise _error(
            path,
            f"of an older version than {installed}, or only partly upgraded; copy the file, then run `{upgrade}`; "
            f"if that fails, {_OR_REFILL}",
        )
    return False


def _has_rows(connection: sqlite3.Connection, table: str) -> bool:
    condition = _DEFAULT_ROWS.get(table, "true")
    return bool(connection.execute(f'SELECT EXISTS (SELECT 1 FROM "{table}" WHERE {condition})').fetchone()[0])


def _seconds_since_write(path: Path) -> float:
    return abs(time.time() - path.stat().st_mtime) if path.exists() else QUIET_SECONDS


def _create(path: Path) -> None:
    """Create the database under another name and rename it, so that no process sees an incomplete file."""
    import sqlalchemy.exc
    from mlflow.exceptions import MlflowException
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

    new = path.with_name(f"{path.name}.new")
    _remove(new)
    new.touch()  # fails at once if the folder is read-only; MLflow would retry for minutes
    try:
        SqlAlchemyStore(f"sqlite:///{new}", (path.parent / "mlartifacts").as_uri()).engine.dispose()
    except (MlflowException, sqlalchemy.exc.SQLAlchemyError) as error:
        _remove(new)
        raise _error(path, sqlite_reason(error) or f"cannot be created ({error})") from error
    with new.open("rb") as file:
        os.fsync(file.fileno())
    # SQLite would apply a journal left by the old file to the new one.
    _remove(path, _SUFFIXES[1:])
    new.replace(path)


def _remove(path: Path, suffixes: tuple[str, ...] = _SUFFIXES) -> None:
    for suffix in suffixes:
        path.with_name(f"{path.name}{suffix}").unlink(missing_ok=True)
