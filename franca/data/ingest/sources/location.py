"""A folder that a parameter names, and the files in it that may be images."""

from collections import Counter
from functools import cached_property
from pathlib import Path

from franca.data.ingest.webdataset_keys import without_masks
from franca.data.store.files.folders import open_folder
from franca.data.store.files.names import kind, suffix
from franca.data.store.images.file_types import SUFFIXES, looks_like_image


class Location:
    """A path or URL. Its files are listed on first use, so a source that is not a folder can be opened as well."""

    def __init__(self, place: str | Path, key: str) -> None:
        """Store where to look; nothing is read yet.

        Args:
            place: Path or URL of a folder.
            key: The parameter that names it, for messages.
        """
        self.folder = open_folder(place)
        self.key = key

    @cached_property
    def files(self) -> list[str]:
        """Relative paths of all files, sorted, without hidden ones."""
        return self.folder.names(self.key)

    @cached_property
    def tars(self) -> list[str]:
        """The files that are tars, by suffix."""
        return [name for name in self.files if suffix(name) == ".tar"]

    @cached_property
    def images(self) -> list[str]:
        """The files that are images: by suffix, or by their first bytes if they have no suffix.

        A file without suffix that cannot be opened counts as an image, so that it is refused rather than ignored.
        """
        bare = [name for name in self.files if not suffix(name)]
        found = {name for name in self.files if suffix(name) in SUFFIXES}
        heads = zip(bare, self.folder.heads(bare), strict=True)
        found |= {name for name, head in heads if head is None or looks_like_image(head)}
        return sorted(without_masks(found))

    @cached_property
    def ignored(self) -> Counter[str]:
        """Number of the other files, by kind."""
        taken = {*self.tars, *self.images}
        return Counter(kind(name) for name in self.files if name not in taken)
