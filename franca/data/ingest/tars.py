"""Reading uncompressed tars that may come from anywhere: never unpacked, no link followed, no cut-off end missed."""

import tarfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import islice
from pathlib import PurePosixPath
from typing import BinaryIO

from franca.data.store.files.folders import TOO_LARGE
from franca.data.store.images.decode import MAX_BYTES
from franca.errors import FrancaError

_CHUNK = 1 << 20


class Tar:
    """An open tar: the files in it, in the archive's order."""

    def __init__(self, file: BinaryIO, archive: tarfile.TarFile, where: str) -> None:
        with _damage_told(where):
            members = archive.getmembers()
        _check_end(file, archive.offset, where)
        self._archive = archive
        self._where = where
        self.members = [member for member in members if not member.isdir()]

    def read(self, member: tarfile.TarInfo, count: int = -1) -> bytes:
        """Return the bytes of a member without a problem, only the first `count` if that is not negative."""
        with _damage_told(self._where):
            file = self._archive.extractfile(member)
            assert file is not None, "a member with a problem has no bytes"
            return file.read(count)


@contextmanager
def open_tar(file: BinaryIO, where: str) -> Iterator[Tar]:
    """The tar in `file`, which `where` names; FrancaError if it is no tar, compressed, cut short or damaged."""
    with _archive(file, where) as archive:
        yield Tar(file, archive, where)


def first_names(file: BinaryIO, count: int, where: str) -> list[str]:
    """Names of the first files, at most `count`, read without looking at the rest."""
    with _archive(file, where) as archive, _damage_told(where):
        return [member_name(member) for member in islice((m for m in archive if not m.isdir()), count)]


def _archive(file: BinaryIO, where: str) -> tarfile.TarFile:
    try:
        return tarfile.open(fileobj=file, mode="r:", encoding="utf-8", errors="surrogateescape")
    except tarfile.TarError as error:
        raise FrancaError(f"{where}: not an uncompressed tar ({error}); fetch or pack it again") from None


@contextmanager
def _damage_told(where: str) -> Iterator[None]:
    try:
        yield
    except (tarfile.TarError, ValueError) as error:
        raise FrancaError(f"{where}: damaged tar ({error}); fetch or pack it again") from None
    except OSError as error:
        raise OSError(error.errno, error.strerror or str(error), where) from None


def member_name(member: tarfile.TarInfo) -> str:
    """The member's path inside the archive, without leading `./`."""
    return PurePosixPath(member.name).as_posix()


def replaced(names: Sequence[str]) -> set[int]:
    """Return the positions of members that a later one of the same name replaces when the tar is unpacked."""
    last = {name: position for position, name in enumerate(names)}
    return {position for position, name in enumerate(names) if last[name] != position}


def member_problem(member: tarfile.TarInfo) -> str | None:
    """Why a member cannot be used whatever is in it, or None."""
    path = PurePosixPath(member.name)
    if path.is_absolute() or ".." in path.parts:
        return "its name leads out of the archive"
    if not member.isreg() or member.issparse():
        return "a link or special file"
    if member.size > MAX_BYTES:
        return TOO_LARGE
    return None


def _check_end(file: BinaryIO, offset: int, where: str) -> None:
    """`tarfile` stops silently at a damaged header and at a cut between two members; a whole tar ends in zeros."""
    file.seek(offset)
    block = file.read(tarfile.BLOCKSIZE)
    if len(block) < tarfile.BLOCKSIZE:
        raise FrancaError(f"{where}: cut short after {offset} bytes (no end mark); fetch or pack it again")
    while block:
        if block.strip(b"\0"):
            raise FrancaError(f"{where}: damaged or more data after byte {offset}; fetch or pack it again")
        block = file.read(_CHUNK)
