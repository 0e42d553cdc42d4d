"""One tar for each class, as ImageNet-21K is distributed; also a lone tar with folders of classes in it."""

import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import PurePosixPath

from franca.data.ingest.path_labels import (
    Folders,
    PathLabels,
    infer_labels,
    one_per_folder,
    parents,
    split_of,
    split_shards,
)
from franca.data.ingest.sources.checks import require_train
from franca.data.ingest.sources.location import Location
from franca.data.ingest.sources.tar_source import TarSource, names_of_valid
from franca.data.ingest.tar_images import all_images
from franca.data.ingest.tars import Tar, member_name, open_tar
from franca.data.ingest.webdataset_keys import Entry, first_label, without_masks
from franca.data.store.files.names import hidden, printable
from franca.data.store.index import SplitName
from franca.errors import FrancaError

_PART_NAME = re.compile(r"(?:part|shard|batch|chunk|data|images?)?[-_ .]*\d*", re.I)
"""The name of one of several tars of a class: `part1`, `images-02`, `07`."""


class ClassTarsSource(TarSource):
    """Tars named after classes, or in folders named after classes.

    If the names and folders of the tars tell no classes apart, the folders inside the tars are used instead.
    """

    layout = "class tars"

    def __init__(self, location: Location) -> None:
        """Infer split and class of each tar; tars are read if only the folders inside them say it.

        Raises:
            FrancaError: The class could be a tar's name or its folder, some images have a split and others have none,
                or none is for train.
        """
        self._stems = {PurePosixPath(name).stem for name in location.tars}
        super().__init__(location, split_shards(self._stems))
        self._classes_by_folder = self._are_parts_of_classes()
        self._inside: dict[Folders, PathLabels] | None = None
        if all(found.class_name is None for found in self._labels.values()):
            self._inside = infer_labels(one_per_folder(self._folders_inside()), self.title)
        known = self._labels if self._inside is None else self._inside
        require_train(known.values(), self._tars[0], self.title, location.key)

    def _find_images(self, tar: Tar, where: str) -> dict[int, Entry]:
        names = [member_name(member) for member in tar.members]
        if label := first_label([name for name in names if not hidden(name)]):
            raise FrancaError(
                f"{where}: labels ({printable(label)}) in a tar that is read as one class; number the tars "
                "(00000.tar) or remove the labels"
            )
        images = all_images(tar)
        kept = without_masks([names[i] for i in images])
        return {i: entry for i, entry in images.items() if names[i] in kept}

    def _class_of_tar(self, tar_name: str) -> str | None:
        stem = PurePosixPath(tar_name).stem
        if self._classes_by_folder or self._named_by_split or split_of(stem):
            return self._labels[self._folders(tar_name)].class_name
        return stem

    def _labels_in(self, tar_name: str, names: Iterable[str]) -> Mapping[Folders, PathLabels]:
        if self._inside is None:
            return super()._labels_in(tar_name, names)
        outer = self._folders(tar_name)
        return {folders: self._inside[(*outer, *folders)] for folders in map(parents, names)}

    def _folders_inside(self) -> Iterator[tuple[Folders, str]]:
        """Yield the folders of each image, those outside its tar first, and its name."""
        for tar_name in self._tars:
            where = self._folder.where(tar_name)
            with self._folder.fetch(tar_name) as file, open_tar(file, where) as tar:
                for name in names_of_valid(tar, self._find_images(tar, where)):
                    yield (*self._folders(tar_name), *parents(name)), f"{tar_name}/{name}"

    def _are_parts_of_classes(self) -> bool:
        """Return whether the folders are the classes: the tars in them share one name, or are numbered parts.

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
            other = first.setdefault((self._labels[self._folders(name)].split, stem), name)
            if other != name:
                raise FrancaError(
                    f"{self.title}: {printable(other)} and {printable(name)} have the same name, so the class could "
                    "be the name or the folder; put one tar for each class into one folder, or name all tars part1, "
                    "part2 and so on in a folder for each class"
                )
        return False


def open_class_tars(location: Location) -> ClassTarsSource | None:
    """Open a location of tars that are not webdataset tars; `SOURCES` tries those first."""
    return ClassTarsSource(location) if location.tars and not location.images else None
