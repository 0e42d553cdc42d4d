"""Which kind of source a folder is; docs/data.md lists the rules."""

from collections.abc import Callable
from pathlib import Path

from franca.data.ingest.sources.ade20k import open_ade20k
from franca.data.ingest.sources.class_tars import open_class_tars
from franca.data.ingest.sources.dense import DenseSource
from franca.data.ingest.sources.image_folder import open_image_folder
from franca.data.ingest.sources.location import Location
from franca.data.ingest.sources.masks import MaskSource
from franca.data.ingest.sources.pascal_voc import open_pascal_voc
from franca.data.ingest.sources.source import Source
from franca.data.ingest.sources.webdataset import open_webdataset
from franca.data.store.files.folders import is_url
from franca.data.store.files.names import list_ignored, printable
from franca.errors import FrancaError

SOURCES: tuple[Callable[[Location], Source | None], ...] = (open_image_folder, open_webdataset, open_class_tars)
"""Each opens a location if it is of its kind, and returns None if not; the first that opens it is used.

A new kind of source is one more file with such a function, and one more entry here.
"""

MASK_SOURCES: tuple[Callable[[Path, str], MaskSource | None], ...] = (open_pascal_voc, open_ade20k)
"""The same for sets with masks; a folder that is none of them is a `DenseSource`."""


def open_source(place: str | Path, key: str) -> Source:
    """Open a source of images of the kind that its files show.

    Args:
        place: Path or URL.
        key: The parameter that names it, for messages.

    Raises:
        FrancaError: The folder is missing, has no images, or mixes layouts.
    """
    location = Location(place, key)
    for open_as in SOURCES:
        if (source := open_as(location)) is not None:
            return source
    if location.tars and location.images:
        tar, image = printable(location.tars[0]), printable(location.images[0])
        raise FrancaError(f"{location.folder}: both tars ({tar}) and images ({image}); keep one kind")
    found = list_ignored(location.ignored, 3) or "no file at all"
    raise FrancaError(f"{location.folder}: no image and no tar of images ({found}); put them there or change {key}")


def open_dense_source(place: str | Path, key: str) -> MaskSource:
    """Open a set of images with segmentation masks.

    Args:
        place: Path of a local folder.
        key: The parameter that names it, for messages.

    Raises:
        FrancaError: It is a URL, or is not a dense set.
    """
    if is_url(str(place)):
        raise FrancaError(f"{key}: {printable(place)} is a URL; copy it into a local folder")
    for open_as in MASK_SOURCES:
        if (source := open_as(Path(place), key)) is not None:
            return source
    return DenseSource(Path(place), key)
