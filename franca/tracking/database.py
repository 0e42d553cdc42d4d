"""The SQLite file of the default tracking server: created whole, once, and checked before MLflow opens it.

MLflow creates a database in some fifty committed steps. A process that opens the file meanwhile starts to create it a
second time and fails, and a file whose creation was killed can never be opened again.
"""

import os
import shlex
import sqlite3
import time
from contextlib import closing
from importlib import metadata
from pathlib import Path

from franca.errors import FrancaError
from franca.tracking.lock import locked

QUIET_SECONDS = 5.0
BUSY_SECONDS = 20.0
_MAGIC = b"SQLite format 3\0"
_BESIDE = ("", "-journal", "-wal", "-shm")
"""A database and the files in which SQLite keeps what is not committed or not yet copied into it."""
_ELSEWHERE = "or set MLFLOW_TRACKING_URI to another one"
_REFILL = f"move it away and run `franca register`, which fills a new one with the present run, {_ELSEWHERE}"
_LOCKED = "locked by another process for too long; wait for that process or stop it, then run again"
_REASONS = {
    "SQLITE_READONLY_DBMOVED": "moved or deleted while it was in use; run again",
    "SQLITE_READONLY": f"cannot be written; change the permissions of the file and its folder, {_ELSEWHERE}",
    "SQLITE_CANTOPEN": f"cannot be opened; change the permissions of the file and its folder, {_ELSEWHERE}",
    "SQLITE_FULL": "no space left on the disk; free space and run again",
    "SQLITE_IOERR": "reading or writing failed; check the disk and its free space, then run again",
    "SQLITE_BUSY": _LOCKED,
    "SQLITE_LOCKED": _LOCKED,
    "SQLITE_PROTOCOL": _LOCKED,
    "SQLITE_CORRUPT": f"damaged; restore a backup, or {_REFILL}",
    "SQLITE_NOTADB": f"not an SQLite database; {_REFILL}",
}
"""Meaning of SQLite's result codes, by how their names begin; the first that fits counts."""
_VERSION = "alembic_version"
_DEFAULT_ROWS = {"experiments": "name <> 'Default'", "workspaces": "name <> 'default'", _VERSION: "false"}
"""Conditions that leave out the rows that every new database has."""


def prepare_database(path: Path) -> None:
    """Create the database at `path` if it is missing, or if it is incomplete and holds nothing.

    Any number of processes may call this at the same time: one creates the file, the others wait for it.

    Raises:
        FrancaError: The file is damaged, not MLflow's, or of another version of MLflow, or cannot be created.
    """
    path = path.resolve()  # a link stays a link, to the new file
    try:
        if _usable(path):
            return
        path.parent.mkdir(parents=True, exist_ok=True)
        with locked(path.with_name(f"{path.name}.lock")):
            # A program that does not know this lock, such as `mlflow ui`, may be creating the file right now.
            while not (usable := _usable(path)) and _seconds_since_write(path) < QUIET_SECONDS:
                time.sleep(0.2)
            if not usable:
                _create(path)
    except OSError as error:
        raise _fault(
            path, f"cannot be read or created ({error.strerror}); change permissions or free space, {_ELSEWHERE}"
        ) from None


def sqlite_reason(error: BaseException) -> str | None:
    """Explain the SQLite error that led to `error` and how to fix it; None if there is none that is known."""
    link: BaseException | None = error
    while link is not None:
        for cause in (link, getattr(link, "orig", None)):  # SQLAlchemy keeps the driver's error in `orig`
            if isinstance(cause, sqlite3.Error):
                code = getattr(cause, "sqlite_errorname", "")
                return next((reason for name, reason in _REASONS.items() if code.startswith(name)), None)
        link = link.__cause__ or link.__context__
    return None


def _fault(path: Path, reason: str) -> FrancaError:
    return FrancaError(f"tracking database {path}: {reason}")


def _usable(path: Path) -> bool:
    """Return whether MLflow can open the file; False if it is missing, or incomplete and holds nothing.

    Raises FrancaError for any other file.
    """
    if not path.exists():
        return False
    if path.is_dir():
        raise _fault(path, "a folder; set MLFLOW_TRACKING_URI to a file")
    with path.open("rb") as file:
        head = file.read(len(_MAGIC))
    if not head:
        return False
    if head != _MAGIC:
        raise _fault(path, _REASONS["SQLITE_NOTADB"])
    try:
        # Opened for writing where that is allowed: SQLite then undoes what a killed process has not committed.
        with closing(sqlite3.connect(f"{path.as_uri()}?mode=rw", uri=True, timeout=BUSY_SECONDS)) as connection:
            return _complete(path, connection)
    except sqlite3.Error as error:
        raise _fault(path, sqlite_reason(error) or str(error)) from None


def _complete(path: Path, connection: sqlite3.Connection) -> bool:
    """Compare tables and schema with those of the installed MLflow."""
    import mlflow.store.db.utils  # noqa: F401  (it fills Base.metadata)
    from alembic.script import ScriptDirectory
    from mlflow.store import db_migrations
    from mlflow.store.db.base_sql_model import Base

    connection.execute("BEGIN")  # all that follows sees one state of the file, which nobody writes meanwhile
    tables = {name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
    wanted = set(Base.metadata.tables)
    revisions = [row[0] for row in connection.execute("SELECT * FROM alembic_version")] if _VERSION in tables else []
    scripts = ScriptDirectory(str(Path(str(db_migrations.__file__)).parent))
    if revisions == [scripts.get_current_head()] and wanted <= tables:
        return True
    if tables and not wanted & tables:
        raise _fault(path, f"an SQLite database of another program; {_REFILL}")
    known = {script.revision for script in scripts.walk_revisions()}
    installed = f"MLflow {metadata.version('mlflow')}, which is installed here"
    if not known.issuperset(revisions):
        newer = ", ".join(map(str, revisions))
        raise _fault(path, f"of a newer version than {installed} (schema {newer}); install that version, or {_REFILL}")
    if any(_has_rows(connection, table) for table in tables):
        upgrade = shlex.join(["mlflow", "db", "upgrade", f"sqlite:///{path}"])
        raise _fault(
            path,
            f"of an older version than {installed}, or not upgraded to the end; copy the file, then run `{upgrade}`; "
            f"if that fails, {_REFILL}",
        )
    return False


def _has_rows(connection: sqlite3.Connection, table: str) -> bool:
    condition = _DEFAULT_ROWS.get(table, "true")
    return bool(connection.execute(f'SELECT EXISTS (SELECT 1 FROM "{table}" WHERE {condition})').fetchone()[0])


def _seconds_since_write(path: Path) -> float:
    return abs(time.time() - path.stat().st_mtime) if path.exists() else QUIET_SECONDS


def _create(path: Path) -> None:
    """Create the database under another name and rename it, so that no process ever sees a part of it."""
    import sqlalchemy.exc
    from mlflow.exceptions import MlflowException
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

    new = path.with_name(f"{path.name}.new")
    _remove(new)
    new.touch()  # MLflow would try for minutes to open a file that it may not create
    try:
        SqlAlchemyStore(f"sqlite:///{new}", (path.parent / "mlartifacts").as_uri()).engine.dispose()
    except (MlflowException, sqlalchemy.exc.SQLAlchemyError) as error:
        _remove(new)
        raise _fault(path, sqlite_reason(error) or f"cannot be created ({error})") from error
    with new.open("rb") as file:
        os.fsync(file.fileno())
    # SQLite would play the journal of the old file into the new one.
    _remove(path, _BESIDE[1:])
    new.replace(path)


def _remove(path: Path, endings: tuple[str, ...] = _BESIDE) -> None:
    for ending in endings:
        path.with_name(f"{path.name}{ending}").unlink(missing_ok=True)
