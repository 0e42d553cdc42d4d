"""Images of a folder, and of the tars in it, as one stream in the order of their names, decoded by threads."""

from collections import Counter, deque
from collections.abc import Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from franca.data.ingest.members import all_images
from franca.data.ingest.tars import member_name, open_tar
from franca.data.store.files.folders import (
    FAULTS_OF_FILES,
    Unreadable,
    file_size,
    list_files,
    open_file,
    read_file,
    read_head,
)
from franca.data.store.files.names import as_text, hidden, kind, printable, suffix
from franca.data.store.images.decode import SUFFIXES, decode, looks_like_image, refusal
from franca.data.store.transform import resize_and_crop
from franca.errors import FrancaError

Pixels = NDArray[np.uint8]


class Found(NamedTuple):
    """An image: its path as `as_text` writes it, and the file or the bytes that it is in, or why it cannot be read."""

    name: str
    content: Path | bytes = b""
    problem: str | None = None

    def open(self) -> Image.Image | str:
        """The image, upright 8-bit RGB, or in one line the reason why there is none."""
        if self.problem:
            return self.problem
        try:
            content = self.content if isinstance(self.content, bytes) else read_file(self.content)
        except Unreadable as error:
            return str(error)
        try:
            return decode(content)
        except MemoryError:
            raise
        except Exception as error:  # bad bytes make Pillow raise nearly anything
            return refusal(error)


class ImageFolder:
    """Images under a folder, in files and in uncompressed tars, however they are nested or mixed.

    Files count as images by their suffix, or by their first bytes if they have none; `ignored` counts the others by
    kind, those inside tars once they have been iterated over. A tar that cannot be read is one `Found` with a problem.
    Raises FrancaError if there is no folder, or neither image nor tar in it.
    """

    def __init__(self, folder: Path, *, tars: bool = True) -> None:
        if not folder.is_dir():
            raise FrancaError(f"{printable(folder)}: {'not a folder' if folder.exists() else 'no such folder'}")
        suffixes = SUFFIXES | {".tar"} if tars else SUFFIXES
        self.folder = folder
        files = list_files(folder, "the folder")
        self.names = [name for name in files if suffix(name) in suffixes or _begins_as_image(folder / name)]
        if not self.names:
            kinds = ", ".join(sorted(suffixes))
            raise FrancaError(f"{printable(folder)}: no image in it; files count by their suffix ({kinds})")
        self.total_bytes = sum(file_size(folder / name) for name in self.names)
        self.bytes_read = 0
        taken = set(self.names)
        self._left = Counter(kind(name) for name in files if name not in taken)
        self.ignored = self._left.copy()

    def __iter__(self) -> Iterator[Found]:
        self.bytes_read = 0
        self.ignored = self._left.copy()
        for name in self.names:
            path = self.folder / name
            before = self.bytes_read
            if suffix(name) == ".tar":
                yield from self._members(name)
            else:
                yield Found(as_text(name), path)
            self.bytes_read = before + file_size(path)

    def _members(self, tar_name: str) -> Iterator[Found]:
        path, before = self.folder / tar_name, self.bytes_read
        where = printable(path)
        try:
            with open_file(path) as file, open_tar(file, where) as tar:
                images = all_images(tar)
                for i, member in enumerate(tar.members):
                    name = member_name(member)
                    if i in images:
                        problem = images[i].problem
                        content = b"" if problem else tar.read(member)
                        yield Found(as_text(f"{tar_name}/{name}"), content, problem)
                        self.bytes_read = before + member.offset_data + member.size
                    elif not hidden(name):
                        self.ignored[kind(name)] += 1
        except FrancaError as error:
            yield Found(as_text(tar_name), problem=str(error).removeprefix(f"{where}: "))
        except (OSError, Unreadable) as error:
            if isinstance(error, OSError) and error.errno not in FAULTS_OF_FILES:
                raise
            yield Found(as_text(tar_name), problem=refusal(error))


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


def _begins_as_image(path: Path) -> bool:
    if suffix(path.name):
        return False
    head = read_head(path)
    return head is None or looks_like_image(head)
