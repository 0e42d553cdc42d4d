"""PASCAL VOC: `JPEGImages`, `SegmentationClass`, and lists of images in `ImageSets/Segmentation`."""

import os
from pathlib import Path

from franca.data.ingest.sources.mask_pairs import MaskPairSource, Pair
from franca.data.ingest.sources.masks import DenseClasses
from franca.data.store.files.folders import Unreadable, list_files, read_file
from franca.data.store.files.names import printable
from franca.data.store.index import SPLITS
from franca.errors import FrancaError

_LISTS = "ImageSets/Segmentation"
_CLASSES = (
    "background",
    "aeroplane",
    "bicycle",
    "bird",
    "boat",
    "bottle",
    "bus",
    "car",
    "cat",
    "chair",
    "cow",
    "dining table",
    "dog",
    "horse",
    "motorbike",
    "person",
    "potted plant",
    "sheep",
    "sofa",
    "train",
    "tv monitor",
)


class PascalVoc(MaskPairSource):
    """Images that `train.txt`, `val.txt` and, if there is one, `test.txt` list; the others are ignored."""

    layout = "PASCAL VOC"

    def __init__(self, folder: Path, key: str) -> None:
        """Read the lists.

        Args:
            folder: The folder `VOC2007` or `VOC2012` of the archive.
            key: The parameter that names it, for messages.

        Raises:
            FrancaError: A list cannot be read, names an image of another list, or none is for train.
        """
        self.classes = DenseClasses(classes=list(_CLASSES), ignore=255)
        files = list_files(folder, key)
        pairs: list[Pair] = []
        listed: dict[str, str] = {}
        for split in SPLITS:
            name = f"{_LISTS}/{split}.txt"
            if name not in files:
                continue
            for image in read_list(folder / name):
                if listed.setdefault(image, name) != name:
                    raise FrancaError(
                        f"{printable(folder / name)}: {printable(image)} is in {listed[image]}, too; keep one"
                    )
                pairs.append(Pair(split, f"JPEGImages/{image}.jpg", f"SegmentationClass/{image}.png"))
        super().__init__(folder, files, pairs)


def open_pascal_voc(folder: Path, key: str) -> PascalVoc | None:
    """Open a folder with lists of images for segmentation."""
    return PascalVoc(folder, key) if (folder / _LISTS).is_dir() else None


def read_list(path: Path) -> list[str]:
    """Return the names in a list of images, sorted; raises FrancaError if it cannot be read."""
    try:
        lines = os.fsdecode(read_file(path)).split()
    except Unreadable as error:
        raise FrancaError(f"{printable(path)}: {error}; unpack the archive again") from None
    return sorted(set(lines))
