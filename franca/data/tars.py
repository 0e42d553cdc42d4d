"""Reading uncompressed tars that may come from anywhere: never unpacked, no link followed, no cut-off end missed."""

import tarfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path, PurePosixPath
from typing import BinaryIO

from franca.data.images import MAX_BYTES
from franca.errors import FrancaError

TOO_LARGE = f"longer than {MAX_BYTES >> 30} GiB"
_CHUNK = 1 << 20


class Tar:
    """An open tar: the files in it, in the archive's order."""

    def __init__(self, path: Path, file: BinaryIO, archive: tarfile.TarFile) -> None:
        try:
            members = archive.getmembers()
        except (tarfile.TarError, ValueError) as error:
            raise FrancaError(f"{path}: damaged tar ({error}); fetch or pack it again") from None
        _check_end(path, file, archive.offset)
        self._archive = archive
        self.members = [member for member in members if not member.isdir()]

    def read(self, member: tarfile.TarInfo) -> bytes:
        file = self._archive.extractfile(member)
        assert file is not None, "only asked of members without a problem"
        return file.read()


@contextmanager
def open_tar(path: Path) -> Iterator[Tar]:
    """Open `path`; FrancaError where it is no tar, compressed, cut short or damaged."""
    with path.open("rb") as file, ExitStack() as stack:
        try:
            archive = stack.enter_context(tarfile.open(fileobj=file, mode="r:"))
        except tarfile.TarError as error:
            raise FrancaError(f"{path}: not an uncompressed tar ({error}); fetch or pack it again") from None
        yield Tar(path, file, archive)


def member_name(member: tarfile.TarInfo) -> str:
    """The member's path inside the archive, without leading `./`."""
    return PurePosixPath(member.name).as_posix()


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


def _check_end(path: Path, file: BinaryIO, offset: int) -> None:
    """`tarfile` stops silently at a damaged header and at a cut between two members; a whole tar ends in zeros."""
    file.seek(offset)
    block = file.read(tarfile.BLOCKSIZE)
    if len(block) < tarfile.BLOCKSIZE:
        raise FrancaError(f"{path}: cut short after {offset} bytes (no end mark); fetch or pack it again")
    while block:
        if block.strip(b"\0"):
            raise FrancaError(f"{path}: damaged or more data after byte {offset}; fetch or pack it again")
        block = file.read(_CHUNK)
