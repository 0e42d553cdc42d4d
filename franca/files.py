"""Atomic writes of files and folders, JSON files, and SHA-256 digests."""

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
_NOT_SUPPORTED = frozenset({errno.ENOSYS, errno.EINVAL, errno.ENOTSUP})


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Yield a temporary path next to `path`; on success flush the file to disk and rename it to `path`.

    On an exception the temporary file is deleted, and a file at `path` stays as it was.
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
    """Yield a new temporary folder next to `path`; on success flush it to disk and replace what is at `path`.

    On an exception the temporary folder is deleted, and what is at `path` stays as it was.
    """
    path = Path(os.path.realpath(path))  # unlike resolve(), does not raise on a loop of links
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
    """Flush the folder `new` to disk and move it to `path`; a folder or file that is there is deleted.

    At any time, also after a kill or a power failure, `path` is the complete old folder or the complete new one. This
    needs renameat2(2) with RENAME_EXCHANGE. On file systems without it, such as NFS, there is a moment with neither,
    in which the old folder is at `.path.old`; `recover_folder` moves it back.
    """
    for file in (*new.rglob("*"), new):
        _fsync(file)
    if not path.exists():
        new.rename(path)
        return _fsync(path.parent)
    try:
        _exchange(new, path)
    except OSError as error:
        if error.errno not in _NOT_SUPPORTED:
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
    _fsync(path.parent)
    return _remove(new)


def recover_folder(path: Path) -> None:
    """Undo a `replace_folder` that was killed between its two renames."""
    if not path.exists() and _old(path).exists():
        _old(path).rename(path)


def _exchange(one: Path, other: Path) -> None:
    """Exchange two paths atomically; raise OSError if the file system cannot."""
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


def _fsync(path: Path) -> None:
    """Flush a file's content, or the names in a folder, from the page cache to disk."""
    if path.is_file() or path.is_dir():
        number = os.open(path, os.O_RDONLY)
        try:
            os.fsync(number)
        finally:
            os.close(number)


def write_bytes(path: Path, content: bytes) -> None:
    """Write a file atomically."""
    with atomic_path(path) as temporary:
        temporary.write_bytes(content)


def write_json(path: Path, value: Any) -> None:
    """Write `value` atomically as indented JSON; keys keep their order."""
    write_bytes(path, (json.dumps(value, indent=2, ensure_ascii=False) + "\n").encode())


def read_json(path: Path) -> Any:
    """Return the content of a JSON file."""
    return json.loads(path.read_text(encoding="utf-8"))


def sha256_file(path: Path) -> str:
    """Return the SHA-256 of a file as hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sha256_tree(*roots: Path) -> str:
    """Return a SHA-256 over names, relative to each root, and contents of files and folders; bytecode is left out."""
    digest = hashlib.sha256()
    for root in roots:
        files = [root] if root.is_file() else sorted(p for p in root.rglob("*") if p.is_file())
        for path in files:
            if "__pycache__" not in path.parts:
                digest.update(f"{path.relative_to(root.parent).as_posix()}\0{sha256_file(path)}\n".encode())
    return digest.hexdigest()
