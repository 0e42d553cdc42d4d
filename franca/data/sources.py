"""Where images come from: a folder of images, one tar a class, or webdataset tars, read as one stream.

The layout is found out by looking (docs/data.md has the rules). Order and names depend on nothing but the source.
"""

import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Literal

from franca.data.folders import hidden, open_folder
from franca.data.images import MAX_BYTES, SUFFIXES
from franca.data.index import SPLITS, Shard, SplitName
from franca.data.tars import TOO_LARGE, first_names, member_name, member_problem, open_tar
from franca.errors import FrancaError

Layout = Literal["images", "class tars", "webdataset tars"]

_SHARD_NAME = re.compile(r"(.*[-_.])?\d{4,}")
_SIDECARS = frozenset({"json", "cls"})
_PEEK = 16


@dataclass(frozen=True, slots=True)
class Sample:
    """One image as found, or why it cannot be read."""

    name: str
    """Path inside the source; for a member of a tar, the tar's path and the member's, joined by a slash."""
    content: bytes
    class_name: str | None = None
    split: SplitName | None = None
    """The split folder it lies in, or None where the source has none."""
    problem: str | None = None
    mask: bytes | None = None
    """Bytes of the segmentation mask, in a dense set."""
    scene: str | None = None
    """What must not be torn apart by a split, in a dense set."""
    shard: int = -1
    """Number of the tar that it lies in, as `Source.shards` counts them; -1 for a file of its own."""
    offset: int = 0
    """First of its bytes in that tar."""


class Source:
    """A folder, listed and its layout recognized; iterate to read it.

    Raises FrancaError where the folder is missing, holds no image, or mixes layouts.
    """

    def __init__(self, place: str | Path, key: str) -> None:
        """`place` is a path or a URL; `key` is the parameter that named it, for messages."""
        self.folder = folder = open_folder(place)
        self.ignored: Counter[str] = Counter()
        self.bytes_read = 0
        files = folder.names(key)
        self._tars = [name for name in files if suffix(name) == ".tar"]
        self._images = [name for name in files if suffix(name) in SUFFIXES]
        self._count_ignored(name for name in files if suffix(name) != ".tar" and suffix(name) not in SUFFIXES)
        if not self._tars and not self._images:
            found = ", ".join(f"{count} {name}" for name, count in self.ignored.most_common(3)) or "no file at all"
            raise FrancaError(f"{folder}: no image and no tar of images ({found}); put images there or change {key}")
        if self._tars and self._images:
            raise FrancaError(f"{folder}: both tars ({self._tars[0]}) and images ({self._images[0]}); keep one kind")
        used = self._tars or self._images
        self._has_splits = any(PurePosixPath(name).parts[0] in SPLITS for name in used if "/" in name)
        if self._has_splits:
            stray = [name for name in used if "/" not in name or PurePosixPath(name).parts[0] not in SPLITS]
            if stray:
                raise FrancaError(
                    f"{folder}: {stray[0]} lies beside the split folders; all images belong in train, val or test"
                )
        self.layout: Layout = "images" if self._images else self._tar_layout()
        self.shards = [Shard(name, folder.size(name)) for name in self._tars]
        self.total_bytes = sum(folder.size(name) for name in used)
        self._first: dict[bool, str] = {}
        for name in self._images:
            self._require_alike(name, self._folder_class(name))

    def __iter__(self) -> Iterator[Sample]:
        return self._samples_of_tars() if self._tars else self._samples_of_folder()

    def _samples_of_folder(self) -> Iterator[Sample]:
        for name in self._images:
            size = self.folder.size(name)
            problem = TOO_LARGE if size > MAX_BYTES else None
            content = b"" if problem else self.folder.read(name)
            yield Sample(printable(name), content, self._folder_class(name), self._split(name)[0], problem)
            self.bytes_read += size

    def _folder_class(self, name: str) -> str | None:
        """The name of the folder that the image lies in, below the split folder."""
        inner = self._split(name)[1]
        return printable(inner.parts[0]) if len(inner.parts) > 1 else None

    def _require_alike(self, name: str, class_name: str | None) -> None:
        """Either all images have a class or none: half a labelling would count as wrong answers later."""
        self._first.setdefault(class_name is not None, name)
        if len(self._first) == 2:
            raise FrancaError(
                f"{self.folder}: {self._first[True]} has a class and {self._first[False]} has none; "
                "give a class to all images or to none"
            )

    def _samples_of_tars(self) -> Iterator[Sample]:
        before = 0
        for shard, (tar_name, size) in enumerate(self.shards):
            split, inner = self._split(tar_name)
            with self.folder.fetch(tar_name) as file, open_tar(file, f"{self.folder}/{tar_name}") as tar:
                names = [member_name(member) for member in tar.members]
                labels = {
                    _key(name): member
                    for name, member in zip(names, tar.members, strict=True)
                    if self.layout == "webdataset tars" and suffix(name) == ".cls" and not member_problem(member)
                }
                self._count_ignored(
                    name for name in names if suffix(name) not in SUFFIXES and _key(name) not in labels
                )
                for name, member in zip(names, tar.members, strict=True):
                    if suffix(name) not in SUFFIXES or hidden(name):
                        continue
                    class_name = inner.stem if self.layout == "class tars" else None
                    if _key(name) in labels:
                        class_name = tar.read(labels[_key(name)]).decode("utf-8", "replace").strip()
                    class_name = class_name and printable(class_name)
                    where = printable(f"{tar_name}/{name}")
                    self._require_alike(where, class_name)
                    problem = member_problem(member)
                    yield Sample(
                        where,
                        b"" if problem else tar.read(member),
                        class_name,
                        split,
                        problem,
                        shard=shard,
                        offset=member.offset_data,
                    )
                    self.bytes_read = before + member.offset_data + member.size
            before += size
            self.bytes_read = before

    def _tar_layout(self) -> Layout:
        if all(_SHARD_NAME.fullmatch(PurePosixPath(name).stem) for name in self._tars):
            return "webdataset tars"
        with self.folder.fetch(self._tars[0]) as file:
            names = first_names(file, _PEEK, f"{self.folder}/{self._tars[0]}")
        keys = {_key(name) for name in names if suffix(name) in SUFFIXES}
        sidecars = {_key(name) for name in names if name.rpartition(".")[2].lower() in _SIDECARS}
        return "webdataset tars" if keys & sidecars else "class tars"

    def _split(self, name: str) -> tuple[SplitName | None, PurePosixPath]:
        """The split folder that `name` lies in and its path from there."""
        path = PurePosixPath(name)
        for split in SPLITS:
            if self._has_splits and path.parts[0] == split:
                return split, path.relative_to(split)
        return None, path

    def _count_ignored(self, names: Iterator[str]) -> None:
        self.ignored.update(suffix(name) or "without suffix" for name in names if not hidden(name))


def suffix(name: str) -> str:
    return PurePosixPath(name).suffix.lower()


def printable(name: str) -> str:
    """The name with every byte and character that cannot stand in a line of UTF-8 text escaped."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in name)


def _key(name: str) -> str:
    """What the files of one webdataset sample share: the path up to the first dot of the last part."""
    head, slash, last = name.rpartition("/")
    return head + slash + last.partition(".")[0]
