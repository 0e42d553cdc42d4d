"""A folder of image files, nested in any way."""

from collections.abc import Iterable, Iterator

from franca.data.ingest.path_labels import infer_labels, one_per_folder, parents
from franca.data.ingest.sources.checks import LabelChecks, require_train
from franca.data.ingest.sources.location import Location
from franca.data.ingest.sources.source import Sample, Source, spaced
from franca.data.store.files.folders import Unreadable
from franca.data.store.files.names import as_text


class ImageFolderSource(Source):
    """Image files; their folders name splits and classes."""

    layout = "images"

    def __init__(self, location: Location) -> None:
        """Infer split and class of each image.

        Raises:
            FrancaError: Some images have a split or a class and others have none, or none is for train.
        """
        self._folder, self._images = location.folder, location.images
        self.place, self.title = self._folder.url, str(self._folder)
        self.ignored = location.ignored
        self.total_bytes = sum(self._folder.size(name) for name in self._images)
        self.bytes_read = 0
        folders = one_per_folder((parents(name), name) for name in self._images)
        self._labels = infer_labels(folders, self.title)
        require_train(self._labels.values(), self._images[0], self.title, location.key)
        checks = LabelChecks(self.title)
        for name in self._images:
            checks.add_class(name, self._labels[parents(name)].class_name)

    def __iter__(self) -> Iterator[Sample]:
        """Yield all images by name."""
        return self._read(self._images)

    @property
    def image_count(self) -> int:
        """Number of image files."""
        return len(self._images)

    def subset(self, count: int) -> Iterator[Sample]:
        """Yield at most `count` images, evenly spaced; the others are not read."""
        return self._read(self._images[i] for i in spaced(len(self._images), count))

    def _read(self, names: Iterable[str]) -> Iterator[Sample]:
        for name in names:
            split, class_name = self._labels[parents(name)]
            class_text = None if class_name is None else as_text(class_name)
            problem, content = None, b""
            try:
                content = self._folder.read(name)
            except Unreadable as error:
                problem = str(error)
            yield Sample(as_text(name), content, class_text, split, problem)
            self.bytes_read += len(content)


def open_image_folder(location: Location) -> ImageFolderSource | None:
    """Open a location that has images and no tars."""
    return ImageFolderSource(location) if location.images and not location.tars else None
