"""A folder of files where it lies: on a disk, or at a URL that fsspec understands (`s3://bucket/prefix`)."""

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO, cast

import fsspec
from fsspec.asyn import reset_lock
from fsspec.implementations.local import LocalFileSystem

from franca.data.images import one_line
from franca.errors import FrancaError

_BLOCK = 16 << 20
"""Bytes a request where a whole file is fetched."""


class Folder:
    """A folder at a URL. What is wrong with it is told as a FrancaError of one line.

    It may be forked or pickled: each process opens connections of its own, when it first needs one.
    """

    def __init__(self, url: str) -> None:
        self._url = url.rstrip("/")
        self._sizes: dict[str, int] = {}
        self._connections: dict[int, tuple[Any, str]] = {}

    def __str__(self) -> str:
        return self._url

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
        """Bytes of a file that `names` found."""
        return self._sizes[name]

    def read(self, name: str) -> bytes:
        """All of a file's bytes."""
        with _told(f"{self}/{name}"):
            files, root = self._connect()
            return bytes(files.cat_file(f"{root}/{name}"))

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
        with _told(f"{self}/{name}"):
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
    """A folder on a disk; OSError passes as it is."""

    def __init__(self, folder: Path) -> None:
        super().__init__(str(folder))
        self._folder = folder

    def names(self, key: str) -> list[str]:
        return list_files(self._folder, key)

    def size(self, name: str) -> int:
        return (self._folder / name).stat().st_size

    def read(self, name: str) -> bytes:
        return (self._folder / name).read_bytes()

    @contextmanager
    def fetch(self, name: str) -> Iterator[BinaryIO]:
        with (self._folder / name).open("rb") as file:
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
    """Relative paths of all files under `folder`, sorted, hidden ones left out; links to folders are followed once."""
    if not folder.is_dir():
        what = "not a folder" if folder.exists() else "no such folder"
        raise FrancaError(f"{folder}: {what}; run `dvc pull data.dvc` or change {key}")
    files: list[str] = []
    seen: set[str] = set()
    for root, folders, names in os.walk(folder, followlinks=True, onerror=_raise):
        real = os.path.realpath(root)
        if real in seen:
            folders.clear()
            continue
        seen.add(real)
        folders.sort()
        here = Path(root).relative_to(folder)
        files += [(here / name).as_posix() for name in names]
    return sorted(name for name in files if not hidden(name))


def hidden(name: str) -> bool:
    return any(part.startswith(".") or part == "__MACOSX" for part in PurePosixPath(name).parts if part != "..")


def _raise(error: OSError) -> None:
    raise error


@contextmanager
def _told(place: str) -> Iterator[None]:
    """Tell in one line what a remote file system raises, whose errors are of many kinds."""
    try:
        yield
    except FrancaError:
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
