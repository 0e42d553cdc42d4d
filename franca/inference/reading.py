"""Images of a folder, and of the tars in it, as one stream in the order of their names, decoded by threads."""

import stat
from collections import deque
from collections.abc import Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from franca.data.folders import hidden, list_files
from franca.data.images import MAX_BYTES, SUFFIXES, decode, refusal
from franca.data.sources import printable, suffix
from franca.data.tars import TOO_LARGE, member_name, member_problem, open_tar
from franca.data.transform import resize_and_crop
from franca.errors import FrancaError

Pixels = NDArray[np.uint8]


class Found(NamedTuple):
    """An image by its name and the file or the bytes that it is in, or why it cannot be had."""

    name: str
    content: Path | bytes = b""
    problem: str | None = None

    def open(self) -> Image.Image | str:
        """The image, upright 8-bit RGB, or in one line the reason why there is none."""
        if self.problem:
            return self.problem
        try:
            return decode(self.content if isinstance(self.content, bytes) else _read(self.content))
        except MemoryError:
            raise
        except Exception as error:  # bad bytes make Pillow raise nearly anything
            return refusal(error)


class ImageFolder:
    """Images under a folder, in files and in uncompressed tars, however they are nested or mixed.

    A tar that cannot be read is one `Found` with a problem. Raises FrancaError where there is no folder, or neither
    image nor tar in it.
    """

    def __init__(self, folder: Path, *, tars: bool = True) -> None:
        if not folder.is_dir():
            raise FrancaError(f"{folder}: {'not a folder' if folder.exists() else 'no such folder'}")
        suffixes = SUFFIXES | {".tar"} if tars else SUFFIXES
        self.folder = folder
        self.names = [name for name in list_files(folder, "the folder") if suffix(name) in suffixes]
        if not self.names:
            kinds = ", ".join(sorted(suffixes))
            raise FrancaError(f"{folder}: no image in it; files count by their suffix ({kinds})")
        self.total_bytes = sum(_size(folder / name) for name in self.names)
        self.bytes_read = 0

    def __iter__(self) -> Iterator[Found]:
        self.bytes_read = 0
        for name in self.names:
            path = self.folder / name
            before = self.bytes_read
            if suffix(name) == ".tar":
                yield from self._members(name)
            else:
                yield Found(printable(name), path)
            self.bytes_read = before + _size(path)

    def _members(self, tar_name: str) -> Iterator[Found]:
        path, before = self.folder / tar_name, self.bytes_read
        try:
            with path.open("rb") as file, open_tar(file, str(path)) as tar:
                for member in tar.members:
                    name = member_name(member)
                    if suffix(name) in SUFFIXES and not hidden(name):
                        problem = member_problem(member)
                        content = b"" if problem else tar.read(member)
                        yield Found(printable(f"{tar_name}/{name}"), content, problem)
                        self.bytes_read = before + member.offset_data + member.size
        except FrancaError as error:
            yield Found(printable(tar_name), problem=str(error).removeprefix(f"{path}: "))
        except OSError as error:
            yield Found(printable(tar_name), problem=refusal(error))


def load_squares(
    images: Iterable[Found], side: int, threads: int, ahead: int
) -> Generator[tuple[str, Pixels | str], None, None]:
    """Name and pixels (side, side, 3) of each image, or the reason why it has none, in the order of `images`.

    The short side is resized, the center cut out, as for evaluation. `threads` work on the next `ahead` images while
    the caller is busy.
    """
    waiting: deque[tuple[str, Future[Pixels | str]]] = deque()
    pool = ThreadPoolExecutor(threads)
    try:
        for image in images:
            waiting.append((image.name, pool.submit(_square, image, side)))
            if len(waiting) > ahead:
                name, pixels = waiting.popleft()
                yield name, pixels.result()
        for name, pixels in waiting:
            yield name, pixels.result()
    finally:
        pool.shutdown(cancel_futures=True)


def _square(found: Found, side: int) -> Pixels | str:
    image = found.open()
    return image if isinstance(image, str) else np.asarray(resize_and_crop(image, side))


def _read(path: Path) -> bytes:
    about = path.stat()
    if not stat.S_ISREG(about.st_mode):
        raise ValueError("not a regular file")
    if about.st_size > MAX_BYTES:
        raise ValueError(TOO_LARGE)
    return path.read_bytes()


def _size(path: Path) -> int:
    with suppress(OSError):
        return path.stat().st_size
    return 0
