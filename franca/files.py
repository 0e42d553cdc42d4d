"""Files that are either wholly there or not there, and digests of what is in them."""

import ctypes
import errno
import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

# From <fcntl.h> and <linux/fs.h>.
_AT_FDCWD = -100
_RENAME_EXCHANGE = 2
_NO_EXCHANGE = frozenset({errno.ENOSYS, errno.EINVAL, errno.ENOTSUP})


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`; on success flush it to disk and rename it to `path`.

    On any exception the temporary file is removed and whatever stood at `path` is untouched.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        yield temporary
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def atomic_folder(path: Path) -> Iterator[Path]:
    """Yield a new temporary folder beside `path`; on success flush it and put it in the place of what is at `path`.

    On any exception the temporary folder is removed and whatever stood at `path` is untouched.
    """
    path = Path(os.path.realpath(path))  # unlike resolve(), no error if links lead in a circle
    recover_folder(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    try:
        yield temporary
        replace_folder(temporary, path)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def replace_folder(new: Path, path: Path) -> None:
    """Flush the folder `new` to disk and move it to `path`; what is there is deleted.

    At any time, also after a kill or a power cut, `path` is the whole old folder or the whole new one. File systems
    that cannot exchange two folders (NFS, for one) have neither for a moment, in which the old folder is `.path.old`;
    `recover_folder` moves it back.
    """
    for file in (*new.rglob("*"), new):
        _flush(file)
    if not path.exists():
        new.rename(path)
        return _flush(path.parent)
    try:
        _exchange(new, path)
    except OSError as error:
        if error.errno not in _NO_EXCHANGE:
            raise
        old = _old(path)
        _remove(old)
        path.rename(old)
        try:
            new.rename(path)
        except BaseException:
            old.rename(path)
            raise
        new = old
    _flush(path.parent)
    return _remove(new)


def recover_folder(path: Path) -> None:
    """Undo a `replace_folder` that was killed between its two steps."""
    if not path.exists() and _old(path).exists():
        _old(path).rename(path)


def _exchange(one: Path, other: Path) -> None:
    """Exchange two paths in one step; raises OSError."""
    try:
        renameat2 = ctypes.CDLL(None, use_errno=True).renameat2
    except AttributeError:  # macOS, and C libraries other than glibc
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS)) from None
    if renameat2(_AT_FDCWD, os.fsencode(one), _AT_FDCWD, os.fsencode(other), _RENAME_EXCHANGE):
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), str(one), None, str(other))


def _old(path: Path) -> Path:
    return path.with_name(f".{path.name}.old")


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def _flush(path: Path) -> None:
    """Write to disk what the system still holds of a file or of the names in a folder."""
    if path.is_file() or path.is_dir():
        number = os.open(path, os.O_RDONLY)
        try:
            os.fsync(number)
        finally:
            os.close(number)


def write_bytes(path: Path, content: bytes) -> None:
    with atomic_path(path) as temporary:
        temporary.write_bytes(content)


def write_json(path: Path, value: Any) -> None:
    """Write `value` as indented JSON, keys in the order given, newline at the end."""
    write_bytes(path, (json.dumps(value, indent=2, ensure_ascii=False) + "\n").encode())


def read_json(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def sha256_file(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sha256_tree(*roots: Path) -> str:
    """Digest of files and folders: names relative to each root and contents, bytecode left out."""
    digest = hashlib.sha256()
    for root in roots:
        files = [root] if root.is_file() else sorted(p for p in root.rglob("*") if p.is_file())
        for path in files:
            if "__pycache__" not in path.parts:
                digest.update(f"{path.relative_to(root.parent).as_posix()}\0{sha256_file(path)}\n".encode())
    return digest.hexdigest()
