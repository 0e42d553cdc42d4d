"""Webdataset tars, as img2dataset writes them: files of one key are one sample, with its label in KEY.cls."""

import re
from pathlib import PurePosixPath

from franca.data.ingest.path_labels import split_of_shard, split_shards
from franca.data.ingest.sources.checks import require_train
from franca.data.ingest.sources.location import Location
from franca.data.ingest.sources.tar_source import TarSource
from franca.data.ingest.tar_images import images_of_samples
from franca.data.ingest.tars import Tar, first_names
from franca.data.ingest.webdataset_keys import Entry, has_sidecars
from franca.data.store.files.names import hidden

_NUMBERED = re.compile(r"(.*[-_.])?\d{4,}")
"""A shard's name: `00000`, `train-00017`."""
_PEEK = 16
"""Number of files of the first tar that are looked at for labels and metadata."""


class WebDatasetSource(TarSource):
    """Webdataset tars; the splits come from folders or tar names, the classes from labels."""

    layout = "webdataset tars"

    def __init__(self, location: Location) -> None:
        """Infer the split of each tar.

        Raises:
            FrancaError: Some tars are in split folders and others are not, or none is for train.
        """
        stems = {PurePosixPath(name).stem for name in location.tars}
        super().__init__(location, split_shards(stems) or "train" in map(split_of_shard, stems))
        require_train(self._labels.values(), self._tars[0], self.title, location.key)

    def _find_images(self, tar: Tar, where: str) -> dict[int, Entry]:
        return images_of_samples(tar, where)

    def _class_of_tar(self, tar_name: str) -> None:
        return None


def open_webdataset(location: Location) -> WebDatasetSource | None:
    """Open a location of tars that all have numbers, or of which the first has labels or metadata beside images."""
    if not location.tars or location.images:
        return None
    if not all(_NUMBERED.fullmatch(PurePosixPath(name).stem) for name in location.tars):
        first = location.tars[0]
        with location.folder.fetch(first) as file:
            names = first_names(file, _PEEK, location.folder.where(first))
        if not has_sidecars([name for name in names if not hidden(name)]):
            return None
    return WebDatasetSource(location)
