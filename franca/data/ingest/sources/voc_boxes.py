"""Boxes of PASCAL VOC: `JPEGImages`, `Annotations`, and lists of images in `ImageSets/Main`."""

import json
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from franca.data.ingest.sources.mask_pairs import MaskPairSource, Pair
from franca.data.ingest.sources.pascal_voc import read_list
from franca.data.ingest.sources.source import Sample
from franca.data.store.files.folders import is_url, list_files
from franca.data.store.files.names import printable
from franca.data.store.index import SplitName
from franca.errors import FrancaError

_LISTS = "ImageSets/Main"
_SPLITS: dict[str, SplitName] = {"trainval": "val", "test": "test"}
"""Published scores are of train and val together, which becomes val here: nothing is fitted."""
_SIDES = ("xmin", "ymin", "xmax", "ymax")


class VocBoxes(MaskPairSource):
    """Images that `trainval.txt` and, if there is one, `test.txt` list, each with the boxes of its objects.

    An annotation becomes a JSON list of boxes [left, top, right, bottom] in pixels from 0; right and bottom are
    outside of the box. Objects that are marked as difficult count.
    """

    layout = "PASCAL VOC boxes"
    needed = "val"
    what = "annotation"

    def __init__(self, folder: Path, key: str) -> None:
        """Read the lists.

        Args:
            folder: The folder `VOC2007` or `VOC2012` of the archive.
            key: The parameter that names it, for messages.

        Raises:
            FrancaError: A list cannot be read, or there is none of train and val.
        """
        files = list_files(folder, key)
        pairs = [
            Pair(split, f"JPEGImages/{image}.jpg", f"Annotations/{image}.xml")
            for name, split in _SPLITS.items()
            if f"{_LISTS}/{name}.txt" in files
            for image in read_list(folder / f"{_LISTS}/{name}.txt")
        ]
        super().__init__(folder, files, pairs)

    def convert(self, mask: bytes) -> tuple[bytes, str | None]:
        """Return the boxes of an annotation."""
        try:
            found = [_read_box(item) for item in ElementTree.fromstring(mask).iterfind("object/bndbox")]
        except (ElementTree.ParseError, ValueError) as error:
            return b"", f"its annotation cannot be read ({error})"
        return json.dumps(found).encode(), None

    def check(self, sample: Sample, height: int, width: int) -> str | None:
        """Return what is wrong with the boxes of a sample, or None."""
        for left, top, right, bottom in json.loads(sample.mask or b"[]"):
            if not (0 <= left < right <= width and 0 <= top < bottom <= height):
                return f"the box {[left, top, right, bottom]} is not inside the image, {width}x{height}"
        return None

    def about(self) -> dict[str, Any]:
        """Return nothing to add to the manifest."""
        return {}


def open_voc_boxes(place: str, key: str) -> VocBoxes:
    """Open a folder of PASCAL VOC for its boxes.

    Args:
        place: Path of a local folder.
        key: The parameter that names the data set, for messages.

    Raises:
        FrancaError: It is a URL or another folder.
    """
    if is_url(place):
        raise FrancaError(f"{key}.path: {printable(place)} is a URL; copy it into a local folder")
    if not (Path(place) / _LISTS).is_dir():
        raise FrancaError(
            f"{printable(place)}: no {_LISTS}; boxes are read from PASCAL VOC as it comes out of its archive,"
            f" so change {key}.path or {key}.task"
        )
    return VocBoxes(Path(place), f"{key}.path")


def _read_box(item: ElementTree.Element) -> list[int]:
    """Return [left, top, right, bottom] of a box whose pixels count from 1; raises ValueError."""
    # Some boxes of VOC 2011 and later have fractions of pixels.
    sides = [item.findtext(name) for name in _SIDES]
    if None in sides:
        raise ValueError(f"a box without {_SIDES[sides.index(None)]}")
    left, top, right, bottom = (round(float(side or "")) for side in sides)
    return [left - 1, top - 1, right, bottom]
