"""Where images come from: a folder of images, one tar a class, or webdataset tars, read as one stream.

The layout is found out by looking (docs/data.md has the rules). Order and names depend on nothing but the source.
"""

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path, PurePosixPath
from typing import Literal

from franca.data.ingest.layout import Folders, Place, read_layout, split_of, split_of_shard, split_shards
from franca.data.ingest.members import all_images, images_of_samples, read_label
from franca.data.ingest.tars import Tar, first_names, member_name, open_tar
from franca.data.ingest.webdataset import Entry, first_label, has_sidecars, without_masks
from franca.data.store.files.folders import Unreadable, open_folder
from franca.data.store.files.names import as_text, hidden, kind, printable, suffix
from franca.data.store.images.decode import SUFFIXES, looks_like_image
from franca.data.store.index import Shard, SplitName
from franca.errors import FrancaError

Layout = Literal["images", "class tars", "webdataset tars"]

_SHARD_NAME = re.compile(r"(.*[-_.])?\d{4,}")
_PART_NAME = re.compile(r"(?:part|shard|batch|chunk|data|images?)?[-_ .]*\d*", re.I)
"""The name of one of several tars of a class: `part1`, `images-02`, `07`."""
_PEEK = 16
_TARS_OF_SAMPLE = 10


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
        self.place, self.title = folder.url, str(folder)
        self.ignored: Counter[str] = Counter()
        self.bytes_read = 0
        files = folder.names(key)
        self._tars = [name for name in files if suffix(name) == ".tar"]
        self._images = self._find_images(files)
        taken = {*self._tars, *self._images}
        self.ignored.update(kind(name) for name in files if name not in taken)
        if not self._tars and not self._images:
            found = list_ignored(self.ignored, 3) or "no file at all"
            raise FrancaError(f"{folder}: no image and no tar of images ({found}); put them there or change {key}")
        if self._tars and self._images:
            tar, image = printable(self._tars[0]), printable(self._images[0])
            raise FrancaError(f"{folder}: both tars ({tar}) and images ({image}); keep one kind")
        self.layout: Layout = "images" if self._images else self._tar_layout()
        self.shards = [Shard(name, folder.size(name)) for name in self._tars]
        self.total_bytes = sum(folder.size(name) for name in self._tars or self._images)
        self._first: dict[bool, str] = {}
        self._first_split: dict[bool, str] = {}
        self._stems = {PurePosixPath(name).stem for name in self._tars}
        self._named_by_split = split_shards(self._stems) or (
            self.layout == "webdataset tars" and "train" in map(split_of_shard, self._stems)
        )
        self._places = self._read_layout(self._tars or self._images)
        self._classes_by_folder = self.layout == "class tars" and self._are_parts_of_classes()
        self._inside: dict[Folders, Place] | None = None
        if self.layout == "class tars" and all(place.class_name is None for place in self._places.values()):
            self._inside = self._read_inside()
        known = self._inside if self._inside is not None else self._places
        self.has_splits = any(place.split for place in known.values())
        if known and all(place.split not in (None, "train") for place in known.values()):
            example = printable((self._tars or self._images)[0])
            raise FrancaError(f"{folder}: {example} and all others are for val or test, none for train; change {key}")
        for name in self._images:
            self._require_alike(name, self._places[_parents(name)].class_name)

    def __iter__(self) -> Iterator[Sample]:
        return self._samples_of_tars(range(len(self._tars))) if self._tars else self._samples_of_folder(self._images)

    @property
    def image_count(self) -> int | None:
        """Number of image files, or None if the images are in tars, which are not read before iteration."""
        return None if self._tars else len(self._images)

    def spread(self, count: int) -> Iterator[Sample]:
        """Yield at most `count` images from all over the source, without reading most of the others."""
        if not self._tars:
            yield from self._samples_of_folder(self._images[i] for i in _spaced(len(self._images), count))
            return
        chosen = _spaced(len(self._tars), _TARS_OF_SAMPLE)
        for shard in chosen:
            yield from islice(self._samples_of_tars([shard]), max(count // len(chosen), 1))

    def _find_images(self, files: list[str]) -> list[str]:
        """Return the files that are images: by suffix, or by their first bytes if they have none.

        A file without suffix that may not be read counts as one, so that it is refused and not ignored.
        """
        bare = [name for name in files if not suffix(name)]
        found = {name for name in files if suffix(name) in SUFFIXES}
        heads = zip(bare, self.folder.heads(bare), strict=True)
        found |= {name for name, head in heads if head is None or looks_like_image(head)}
        return sorted(without_masks(found))

    def _read_layout(self, names: Sequence[str]) -> dict[Folders, Place]:
        """Return what the folders of images, or of tars and their names, mean."""
        examples: dict[Folders, str] = {}
        for name in names:
            examples.setdefault(self._folders(name), name)
        return read_layout(examples, str(self.folder))

    def _folders(self, name: str) -> Folders:
        """Return the folders of an image or a tar; a tar is a folder too, the shards of a split one by its name."""
        if self.layout == "images":
            return _parents(name)
        stem = PurePosixPath(name).stem
        return (*_parents(name), split_of_shard(stem) or stem if self._named_by_split else stem)

    def _read_inside(self) -> dict[Folders, Place]:
        """Return what the folders inside the tars mean, where the tars' own names tell no classes apart."""
        examples: dict[Folders, str] = {}
        for tar_name in self._tars:
            where = self.folder.where(tar_name)
            with self.folder.fetch(tar_name) as file, open_tar(file, where) as tar:
                for name in _usable(tar, self._entries(tar, where)):
                    examples.setdefault((*self._folders(tar_name), *_parents(name)), f"{tar_name}/{name}")
        return read_layout(examples, str(self.folder))

    def _samples_of_folder(self, names: Iterable[str]) -> Iterator[Sample]:
        for name in names:
            place, problem, content = self._places[_parents(name)], None, b""
            try:
                content = self.folder.read(name)
            except Unreadable as error:
                problem = str(error)
            yield Sample(as_text(name), content, _as_text(place.class_name), place.split, problem)
            self.bytes_read += len(content)

    def _samples_of_tars(self, shards: Iterable[int]) -> Iterator[Sample]:
        before = 0
        for shard in shards:
            tar_name, size = self.shards[shard]
            where = self.folder.where(tar_name)
            with self.folder.fetch(tar_name) as file, open_tar(file, where) as tar:
                names = [member_name(member) for member in tar.members]
                if self.layout == "class tars":
                    self._require_no_labels([name for name in names if not hidden(name)], where)
                entries = self._entries(tar, where)
                used = entries.keys() | {entry.label for entry in entries.values()}
                self.ignored.update(kind(name) for i, name in enumerate(names) if i not in used and not hidden(name))
                places = self._places_in(tar_name, _usable(tar, entries))
                for i, (label, problem) in entries.items():
                    member, name = tar.members[i], f"{tar_name}/{names[i]}"
                    place = places.get(_parents(names[i]), Place(None, None))
                    class_name = place.class_name
                    if label is not None and not problem:
                        class_name, problem = read_label(tar, tar.members[label])
                    if not problem:
                        self._require_alike(name, class_name)
                    content = b"" if problem else tar.read(member)
                    yield Sample(
                        as_text(name),
                        content,
                        _as_text(class_name),
                        place.split,
                        problem,
                        shard=shard,
                        offset=member.offset_data,
                    )
                    self.bytes_read = before + member.offset_data + member.size
            before += size
            self.bytes_read = before

    def _entries(self, tar: Tar, where: str) -> dict[int, Entry]:
        """Return the images of a tar by their positions among its members."""
        if self.layout == "webdataset tars":
            return images_of_samples(tar, where)
        entries = all_images(tar)
        kept = without_masks([member_name(tar.members[i]) for i in entries])
        return {i: entry for i, entry in entries.items() if member_name(tar.members[i]) in kept}

    def _places_in(self, tar_name: str, names: Iterable[str]) -> Mapping[Folders, Place]:
        """Return what the folders inside a tar mean, together with its own name and folders."""
        examples: dict[Folders, str] = {}
        for name in names:
            examples.setdefault(_parents(name), f"{tar_name}/{name}")
        outer = self._folders(tar_name)
        if self._inside is not None:
            return {folders: self._inside[(*outer, *folders)] for folders in examples}
        place = self._places[outer]
        class_name = self._class_of_tar(tar_name) if self.layout == "class tars" else None
        if place.split:
            return dict.fromkeys(examples, Place(place.split, class_name))
        inside = read_layout(examples, str(self.folder))
        for folders, (split, _) in inside.items():
            self._require_split_for_all(examples[folders], split)
        return {folders: Place(split, class_name) for folders, (split, _) in inside.items()}

    def _class_of_tar(self, tar_name: str) -> str | None:
        """Return the class that a tar's images belong to: its name, or its folder if the name is no class."""
        stem = PurePosixPath(tar_name).stem
        if self._classes_by_folder or self._named_by_split or split_of(stem):
            return self._places[self._folders(tar_name)].class_name
        return stem

    def _are_parts_of_classes(self) -> bool:
        """Whether folders are the classes, since the tars in them have one name or are numbered parts.

        Raises:
            FrancaError: Tars of one name are in several folders, so that either could be the class.
        """
        if len(self._stems) == 1 or all(map(_PART_NAME.fullmatch, self._stems)):
            return True
        first: dict[tuple[SplitName | None, str], str] = {}
        for name in self._tars:
            stem = PurePosixPath(name).stem
            if self._named_by_split or split_of(stem):
                continue
            other = first.setdefault((self._places[self._folders(name)].split, stem), name)
            if other != name:
                raise FrancaError(
                    f"{self.folder}: {printable(other)} and {printable(name)} have the same name, so the class could "
                    "be the name or the folder; put one tar for each class into one folder, or name all tars part1, "
                    "part2 and so on in a folder for each class"
                )
        return False

    def _require_no_labels(self, names: Sequence[str], where: str) -> None:
        """Raise if a tar that is read as one class has labels, which would be ignored."""
        if label := first_label(names):
            raise FrancaError(
                f"{where}: labels ({printable(label)}) in a tar that is read as one class; number the tars "
                "(00000.tar) or remove the labels"
            )

    def _require_alike(self, name: str, class_name: str | None) -> None:
        """Raise unless all images have a class or none has: partly labelled data would be scored as errors."""
        self._first.setdefault(class_name is not None, name)
        if len(self._first) == 2:
            raise FrancaError(
                f"{self.folder}: {printable(self._first[True])} has a class and {printable(self._first[False])} has "
                "none; give a class to all images or to none"
            )

    def _require_split_for_all(self, name: str, split: SplitName | None) -> None:
        self._first_split.setdefault(split is not None, name)
        if len(self._first_split) == 2:
            raise FrancaError(
                f"{self.folder}: {printable(self._first_split[True])} is in a split folder and "
                f"{printable(self._first_split[False])} is not; put all images into train, val or test"
            )

    def _tar_layout(self) -> Layout:
        if all(_SHARD_NAME.fullmatch(PurePosixPath(name).stem) for name in self._tars):
            return "webdataset tars"
        with self.folder.fetch(self._tars[0]) as file:
            names = first_names(file, _PEEK, self.folder.where(self._tars[0]))
        return "webdataset tars" if has_sidecars([name for name in names if not hidden(name)]) else "class tars"


def list_ignored(ignored: Counter[str] | Mapping[str, int], shown: int = 8) -> str:
    """Return the most frequent kinds of ignored files with their counts, in words."""
    ordered = sorted(ignored.items(), key=lambda item: (-item[1], item[0]))
    parts = [f"{count:,} {printable(name)}" for name, count in ordered[:shown]]
    if rest := ordered[shown:]:
        parts.append(f"{sum(count for _, count in rest):,} of {len(rest):,} other kinds")
    return ", ".join(parts)


def _spaced(total: int, count: int) -> list[int]:
    """Return at most `count` positions out of `total`, evenly spaced."""
    chosen = min(total, count)
    return [i * total // chosen for i in range(chosen)]


def _usable(tar: Tar, entries: dict[int, Entry]) -> list[str]:
    """Return the names of the images that are not refused."""
    return [member_name(tar.members[i]) for i, entry in entries.items() if not entry.problem]


def _parents(name: str) -> Folders:
    return tuple(name.split("/")[:-1])


def _as_text(name: str | None) -> str | None:
    return None if name is None else as_text(name)
