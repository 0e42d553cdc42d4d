"""Images in uncompressed tars: what class tars and webdataset tars have in common."""

from abc import abstractmethod
from collections.abc import Collection, Iterable, Iterator, Mapping
from itertools import islice
from pathlib import PurePosixPath

from franca.data.ingest.path_labels import Folders, PathLabels, infer_labels, one_per_folder, parents, split_of_shard
from franca.data.ingest.sources.checks import LabelChecks
from franca.data.ingest.sources.location import Location
from franca.data.ingest.sources.source import Sample, Source, spaced
from franca.data.ingest.tar_images import read_label
from franca.data.ingest.tars import Tar, member_name, open_tar
from franca.data.ingest.webdataset_keys import Entry
from franca.data.store.files.names import as_text, hidden, kind
from franca.data.store.index import Shard

_TARS_OF_SUBSET = 10


class TarSource(Source):
    """Tars that are read one after the other, from end to end, and never unpacked.

    Subclasses say which members are images (`_find_images`) and which class a tar's name gives (`_class_of_tar`).
    """

    def __init__(self, location: Location, named_by_split: bool) -> None:
        """Infer what the tars' names and folders say about their images; no tar is read.

        Args:
            location: The folder of tars.
            named_by_split: Whether the tars are shards of splits by their names, such as `train-0003.tar`.

        Raises:
            FrancaError: Some tars are in split folders and others are not.
        """
        self._folder, self._tars = location.folder, location.tars
        self.place, self.title = self._folder.url, str(self._folder)
        self.ignored = location.ignored
        self.shards = [Shard(name, self._folder.size(name)) for name in self._tars]
        self.total_bytes = sum(shard.size for shard in self.shards)
        self.bytes_read = 0
        self._named_by_split = named_by_split
        self._labels = infer_labels(one_per_folder((self._folders(name), name) for name in self._tars), self.title)
        self._checks = LabelChecks(self.title)

    def __iter__(self) -> Iterator[Sample]:
        """Yield all images in the order of the tars' names and of their members."""
        return self._read(range(len(self.shards)))

    def subset(self, count: int) -> Iterator[Sample]:
        """Yield the first images of some tars, evenly spaced: about `count` images, without reading the other tars.

        Larger tars give more of them, so that the shares of splits and classes are about those of the whole source.
        """
        chosen = spaced(len(self.shards), _TARS_OF_SUBSET)
        size = max(sum(self.shards[shard].size for shard in chosen), 1)
        for shard in chosen:
            share = self.shards[shard].size / size
            yield from islice(self._read([shard]), max(round(count * share), 1))

    @abstractmethod
    def _find_images(self, tar: Tar, where: str) -> dict[int, Entry]:
        """Return the images of a tar by their positions among its members; `where` is the tar, for messages."""

    @abstractmethod
    def _class_of_tar(self, tar_name: str) -> str | None:
        """Return the class of all images of a tar, or None if its name says nothing about it."""

    def _folders(self, tar_name: str) -> Folders:
        """Return the folders of a tar. Its name counts as the last one, all shards of a split as one folder."""
        stem = PurePosixPath(tar_name).stem
        return (*parents(tar_name), split_of_shard(stem) or stem if self._named_by_split else stem)

    def _labels_in(self, tar_name: str, names: Iterable[str]) -> Mapping[Folders, PathLabels]:
        """Return the labels of the folders inside a tar, of which `names` are the images."""
        folders = one_per_folder((parents(name), f"{tar_name}/{name}") for name in names)
        split = self._labels[self._folders(tar_name)].split
        class_name = self._class_of_tar(tar_name)
        if split:
            return dict.fromkeys(folders, PathLabels(split, class_name))
        inside = infer_labels(folders, self.title)
        for path, found in inside.items():
            self._checks.add_split(folders[path], found.split)
        return {path: PathLabels(found.split, class_name) for path, found in inside.items()}

    def _read(self, shards: Collection[int]) -> Iterator[Sample]:
        before = 0
        for shard in shards:
            tar_name, size = self.shards[shard]
            where = self._folder.where(tar_name)
            with self._folder.fetch(tar_name) as file, open_tar(file, where) as tar:
                names = [member_name(member) for member in tar.members]
                images = self._find_images(tar, where)
                used = images.keys() | {entry.label for entry in images.values()}
                self.ignored.update(kind(name) for i, name in enumerate(names) if i not in used and not hidden(name))
                labels = self._labels_in(tar_name, names_of_valid(tar, images))
                for i, (label, problem) in images.items():
                    member, name = tar.members[i], f"{tar_name}/{names[i]}"
                    split, class_name = labels.get(parents(names[i]), PathLabels(None, None))
                    if label is not None and not problem:
                        class_name, problem = read_label(tar, tar.members[label])
                    if not problem:
                        self._checks.add_class(name, class_name)
                    content = b"" if problem else tar.read(member)
                    yield Sample(
                        as_text(name),
                        content,
                        None if class_name is None else as_text(class_name),
                        split,
                        problem,
                        shard=shard,
                        offset=member.offset_data,
                    )
                    self.bytes_read = before + member.offset_data + member.size
            before += size
            self.bytes_read = before


def names_of_valid(tar: Tar, images: Mapping[int, Entry]) -> list[str]:
    """Return the names of the images that are not refused."""
    return [member_name(tar.members[i]) for i, entry in images.items() if not entry.problem]
