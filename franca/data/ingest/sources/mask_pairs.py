"""Public sets of images with masks: pairs of files in a local folder, each with a split of its own."""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from franca.data.ingest.sources.masks import MaskSource, read_pair
from franca.data.ingest.sources.source import Sample
from franca.data.store.files.folders import file_size, read_file
from franca.data.store.files.names import as_text, kind, printable
from franca.data.store.index import SplitName
from franca.errors import FrancaError


class Pair(NamedTuple):
    """Relative names of an image and of its mask, their split, and their video. Either file may be missing."""

    split: SplitName
    image: str
    mask: str
    scene: str | None = None


class MaskPairSource(MaskSource):
    """Pairs of files. Subclasses list them."""

    needed: SplitName = "train"
    """Split that must have images."""
    what: str = "mask"
    """Name of the second file of a pair, for messages."""

    def __init__(self, folder: Path, files: Iterable[str], pairs: Sequence[Pair]) -> None:
        """Store the arguments.

        Args:
            folder: The folder of the set.
            files: Relative names of all its files.
            pairs: The images to read.

        Raises:
            FrancaError: No image is for the split that is needed.
        """
        self._folder, self._files, self._pairs = folder, set(files), pairs
        self.place, self.title = str(folder), printable(folder)
        if not any(pair.split == self.needed for pair in pairs):
            raise FrancaError(
                f"{self.title}: {self.layout} without images for {self.needed}; unpack the whole archive"
            )
        used = self._files & {name for pair in pairs for name in (pair.image, pair.mask)}
        self.ignored = Counter(kind(name) for name in self._files - used)
        self.total_bytes = sum(file_size(folder / name) for name in used)
        self.bytes_read = 0

    def __iter__(self) -> Iterator[Sample]:
        """Yield the images in the order of the pairs; a sample without image or without mask has a problem."""
        for split, image_name, mask_name, scene in self._pairs:
            image, mask = (name if name in self._files else None for name in (image_name, mask_name))
            readers = {name: lambda name=name: read_file(self._folder / name) for name in (image_name, mask_name)}
            name = as_text(image or mask_name)
            image_bytes, mask_bytes, problem = read_pair(readers, image, mask, self.what)
            if not problem:
                mask_bytes, problem = self.convert(mask_bytes)
            if problem:
                yield Sample(name, b"", split=split, problem=problem)
                continue
            yield Sample(name, image_bytes, split=split, mask=mask_bytes, scene=scene)
            self.bytes_read += len(image_bytes) + len(mask_bytes)

    @property
    def image_count(self) -> int:
        """Number of pairs."""
        return len(self._pairs)

    def convert(self, mask: bytes) -> tuple[bytes, str | None]:
        """Return a PNG of class indices for the bytes of a mask file, and what is wrong with it, or None."""
        return mask, None
