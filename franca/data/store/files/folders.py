"""A folder of files where it lies: on a disk, or at a URL that fsspec understands (`s3://bucket/prefix`)."""

import errno
import os
import stat
import tempfile
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO, cast

import fsspec
from fsspec.asyn import reset_lock
from fsspec.implementations.local import LocalFileSystem

from franca.data.store.files.names import hidden, printable
from franca.data.store.images.decode import MAX_BYTES, one_line
from franca.errors import FrancaError

_BLOCK = 16 << 20
"""Bytes a request where a whole file is fetched."""
TOO_LARGE = f"longer than {MAX_BYTES >> 30} GiB"
_HEAD = 64
"""Bytes that tell the format of an image."""
_HEADS_AT_ONCE = 1024
FAULTS_OF_FILES = frozenset({errno.ENOENT, errno.ENOTDIR, errno.EACCES, errno.EPERM, errno.ELOOP})
"""Errors of one file. Any other, such as EIO or ESTALE, is one of the storage or the process and stops the stage."""


class Unreadable(Exception):
    """A file cannot be read, though others may be; the message is the reason."""


class Folder:
    """A folder at a URL. Raises a FrancaError of one line if something is wrong with it.

    It may be forked or pickled: each process opens connections of its own, when it first needs one.
    """

    def __init__(self, url: str) -> None:
        self.url = self._url = url.rstrip("/")
        self._sizes: dict[str, int] = {}
        self._connections: dict[int, tuple[Any, str]] = {}

    def __str__(self) -> str:
        return printable(self._url)

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_connections": {}}

    def names(self, key: str) -> list[str]:
        """Relative paths of all files, sorted, hidden ones left out; `key` is the parameter that named the folder."""
        with _told(f"{key}: {self}"):
            files, root = self._connect()
            found = files.find(root, detail=True)
        self._sizes = {
            path.removeprefix(root).lstrip("/"): int(about["size"])
            for path, about in found.items()
            if about["type"] == "file" and path != root and not path.endswith("/")
        }
        return sorted(name for name in self._sizes if not hidden(name))

    def size(self, name: str) -> int:
        """Return the length in bytes of a file that `names` found, 0 if it cannot be read."""
        return self._sizes[name]

    def read(self, name: str) -> bytes:
        """Return all bytes of a file that `names` found.

        Raises:
            Unreadable: The file is gone, may not be read, or has more than `MAX_BYTES`.
            FrancaError: The storage does not answer.
        """
        if self._sizes[name] > MAX_BYTES:
            raise Unreadable(TOO_LARGE)
        with _told(self.where(name)):
            files, root = self._connect()
            try:
                return bytes(files.cat_file(f"{root}/{name}"))
            except FileNotFoundError:
                raise Unreadable(os.strerror(errno.ENOENT)) from None
            except PermissionError:
                raise Unreadable(os.strerror(errno.EACCES)) from None

    def heads(self, names: list[str]) -> list[bytes | None]:
        """Return the first bytes of each file: b"" for a file that is gone, None for one that may not be read."""
        found: list[bytes | None] = []
        for start in range(0, len(names), _HEADS_AT_ONCE):
            part = names[start : start + _HEADS_AT_ONCE]
            answers = self.ranges(part, [0] * len(part), [min(_HEAD, self._sizes[name]) for name in part])
            for name, answer in zip(part, answers, strict=True):
                match answer:
                    case FileNotFoundError():
                        found.append(b"")
                    case PermissionError():
                        found.append(None)
                    case Exception():
                        raise FrancaError(remote_fault(self.where(name), answer))
                    case _:
                        found.append(answer)
        return found

    def where(self, name: str) -> str:
        """Return the address of a file for a message."""
        return f"{self}/{printable(name)}"

    @contextmanager
    def fetch(self, name: str) -> Iterator[BinaryIO]:
        """Open a file that is read back and forth: a copy of it without a name, in the folder for such (TMPDIR)."""
        with tempfile.TemporaryFile() as copy:
            for block in self._blocks(name):
                try:
                    copy.write(block)
                except OSError as error:
                    raise OSError(error.errno, error.strerror, tempfile.gettempdir()) from None
            copy.seek(0)
            yield cast(BinaryIO, copy)

    def _blocks(self, name: str) -> Iterator[bytes]:
        with _told(self.where(name)):
            files, root = self._connect()
            with files.open(f"{root}/{name}", "rb", block_size=_BLOCK) as file:
                while block := file.read(_BLOCK):
                    yield block

    def ranges(self, names: list[str], starts: list[int], stops: list[int]) -> list[bytes | Exception]:
        """Bytes `starts[i]` … `stops[i]` - 1 of each file, fewer where it ends before, or why there are none."""
        files, root = self._connect()
        found = files.cat_ranges([f"{root}/{name}" for name in names], starts, stops, on_error="return")
        return cast("list[bytes | Exception]", found)

    def current_size(self, name: str) -> int:
        """Bytes of a file now; raises what the file system raises."""
        files, root = self._connect()
        return int(files.size(f"{root}/{name}"))

    def _connect(self) -> tuple[Any, str]:
        """This process's file system and the folder's path in it.

        The ones of a parent stay in the dictionary: to let go of them would close what the parent still reads from.
        """
        process = os.getpid()
        if process not in self._connections:
            if self._connections:
                reset_lock()
            self._connections[process] = self._file_system()
        return self._connections[process]

    def _file_system(self) -> tuple[Any, str]:
        # Never a shared instance: event loop and sockets belong to the process and the object that made them.
        with _told(self._url):
            files, root = fsspec.url_to_fs(self._url, skip_instance_cache=True, use_listings_cache=False)
        return files, root.rstrip("/")


class LocalFolder(Folder):
    """A folder on a disk."""

    def __init__(self, folder: Path) -> None:
        super().__init__(str(folder))
        self._folder = folder

    def names(self, key: str) -> list[str]:
        return list_files(self._folder, key)

    def size(self, name: str) -> int:
        return file_size(self._folder / name)

    def read(self, name: str) -> bytes:
        return read_file(self._folder / name)

    def heads(self, names: list[str]) -> list[bytes | None]:
        return [read_head(self._folder / name) for name in names]

    @contextmanager
    def fetch(self, name: str) -> Iterator[BinaryIO]:
        with require_file(self._folder / name) as file:
            yield file

    def _file_system(self) -> tuple[Any, str]:
        return LocalFileSystem(skip_instance_cache=True), str(self._folder.absolute())


def open_folder(place: str | Path) -> Folder:
    """The folder at a path or URL; nothing is looked up yet."""
    url = str(place)
    if not is_url(url):
        return LocalFolder(Path(place))
    if url.startswith(("file://", "local://")):
        return LocalFolder(Path(fsspec.url_to_fs(url)[1]))
    return Folder(url)


def is_url(place: str) -> bool:
    return "://" in place


def list_files(folder: Path, key: str) -> list[str]:
    """Return the relative paths of all files under `folder`, sorted, without hidden ones and system folders.

    Links to folders are followed once. Nothing is opened: a path may be a dangling link or a named pipe.
    """
    if not folder.is_dir():
        what = "not a folder" if folder.exists() else "no such folder"
        raise FrancaError(f"{printable(folder)}: {what}; run `dvc pull data.dvc` or change {key}")
    files: list[str] = []
    seen: set[str] = set()
    waiting = deque([str(folder)])
    while waiting:
        # Real folders first: os.walk does not enter links, so that no link takes the place of its target.
        for root, folders, names in os.walk(waiting.popleft(), onerror=_raise_unless_gone):
            real = os.path.realpath(root)
            if real in seen:
                folders.clear()
                continue
            seen.add(real)
            # Not even entered: a visible link to what a hidden folder holds would count as seen.
            folders[:] = sorted(name for name in folders if not hidden(name))
            waiting += [path for name in folders if os.path.islink(path := os.path.join(root, name))]
            here = Path(root).relative_to(folder)
            files += [(here / name).as_posix() for name in names if not hidden(name)]
    return sorted(files)


def file_size(path: Path) -> int:
    """Return the length of a file in bytes, 0 if it cannot be read."""
    with suppress(OSError):
        return path.stat().st_size
    return 0


def open_file(path: Path) -> BinaryIO:
    """Open a file for reading; raises OSError, or Unreadable if it is not a regular file.

    Anything else is not opened at all: a pipe blocks until somebody writes, and a device may act.
    """
    _require_regular(path.stat())
    # A pipe may have taken the place of the file since. O_NONBLOCK changes nothing for regular files.
    file = os.fdopen(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb")
    try:
        _require_regular(os.fstat(file.fileno()))
    except BaseException:
        file.close()
        raise
    return file


def require_file(path: Path) -> BinaryIO:
    """Open a file that nothing works without; raises FrancaError if that is impossible."""
    try:
        return open_file(path)
    except (OSError, Unreadable) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise FrancaError(f"{printable(path)}: {reason}; put the file back, or make it readable") from None


def read_file(path: Path) -> bytes:
    """Return all bytes of a regular file.

    Raises:
        Unreadable: There is no such file, it may not be read, it is not a regular file, or has more than `MAX_BYTES`.
        OSError: The storage fails, or this process has too many open files or too little memory.
    """
    try:
        with open_file(path) as file:
            if os.fstat(file.fileno()).st_size > MAX_BYTES:
                raise Unreadable(TOO_LARGE)
            return file.read()
    except OSError as error:
        if error.errno in FAULTS_OF_FILES:
            raise Unreadable(error.strerror or str(error)) from None
        # read() does not name the file.
        raise OSError(error.errno, error.strerror, str(path)) from None


def read_head(path: Path) -> bytes | None:
    """Return the first bytes of a file: b"" if it is gone or no regular file, None if it may not be read.

    Raises:
        OSError: As `read_file` does.
    """
    try:
        with open_file(path) as file:
            return file.read(_HEAD)
    except Unreadable:
        return b""
    except PermissionError:
        return None
    except OSError as error:
        if error.errno in FAULTS_OF_FILES:
            return b""
        raise OSError(error.errno, error.strerror, str(path)) from None


def _require_regular(about: os.stat_result) -> None:
    if not stat.S_ISREG(about.st_mode):
        raise Unreadable("not a regular file")


def _raise_unless_gone(error: OSError) -> None:
    """Raise what keeps a folder from being listed; one that was deleted meanwhile has no files."""
    if error.errno not in (errno.ENOENT, errno.ENOTDIR):
        raise error


@contextmanager
def _told(place: str) -> Iterator[None]:
    """Tell in one line what a remote file system raises, whose errors are of many kinds."""
    try:
        yield
    except (FrancaError, Unreadable):
        raise
    except Exception as error:
        raise FrancaError(remote_fault(place, error)) from None


def remote_fault(place: str, error: Exception) -> str:
    """One line for what a remote file system raised."""
    reason = one_line(error)
    match error:
        case FileNotFoundError():
            return f"{place}: not found ({reason}); check the address"
        case PermissionError():
            return f"{place}: access denied ({reason}); check the keys (for S3 AWS_ACCESS_KEY_ID and its kin)"
        case ImportError():
            return f"{place}: {reason} (for S3 `pip install s3fs`)"
        case _:
            return f"{place}: {reason}; check the address, the network and the keys (for S3 the AWS_* variables)"
