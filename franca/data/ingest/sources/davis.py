"""DAVIS 2017: frames and masks of objects at 480 pixels, and a list of sequences."""

from collections import defaultdict
from pathlib import Path, PurePosixPath
from typing import Any

from franca.data.ingest.sources.mask_pairs import MaskPairSource, Pair
from franca.data.ingest.sources.masks import read_mask
from franca.data.ingest.sources.pascal_voc import read_list
from franca.data.ingest.sources.source import Sample
from franca.data.store.files.folders import is_url, list_files
from franca.data.store.files.names import printable
from franca.errors import FrancaError

_LIST = "ImageSets/2017/val.txt"
_FRAMES, _MASKS = "JPEGImages/480p", "Annotations/480p"


class Davis(MaskPairSource):
    """The frames of the sequences that `val.txt` lists, in order, with the number of the object in each pixel.

    The masks of the other lists are for training, or not public.
    """

    layout = "DAVIS 2017"
    needed = "val"

    def __init__(self, folder: Path, key: str) -> None:
        """List the frames.

        Args:
            folder: The folder `DAVIS` of the archive.
            key: The parameter that names it, for messages.

        Raises:
            FrancaError: The list cannot be read, or one of its sequences has no frames.
        """
        files = list_files(folder, key)
        frames: dict[str, set[str]] = defaultdict(set)
        for name in files:
            path = PurePosixPath(name)
            if path.parent.parent.as_posix() in (_FRAMES, _MASKS) and path.suffix in (".jpg", ".png"):
                frames[path.parent.name].add(path.stem)
        pairs = []
        for sequence in read_list(folder / _LIST):
            if not frames[sequence]:
                raise FrancaError(f"{printable(folder / _LIST)}: {printable(sequence)} has no frames; unpack them")
            for frame in sorted(frames[sequence]):
                name = f"{sequence}/{frame}"
                pairs.append(Pair("val", f"{_FRAMES}/{name}.jpg", f"{_MASKS}/{name}.png", sequence))
        super().__init__(folder, files, pairs)

    def check(self, sample: Sample, height: int, width: int) -> str | None:
        """Return what is wrong with the mask of a sample, or None."""
        mask = read_mask(sample.mask or b"", height, width)
        return mask if isinstance(mask, str) else None

    def about(self) -> dict[str, Any]:
        """Return nothing to add to the manifest."""
        return {}


def open_davis(place: str, key: str) -> Davis:
    """Open a folder of DAVIS 2017.

    Args:
        place: Path of a local folder.
        key: The parameter that names the data set, for messages.

    Raises:
        FrancaError: It is a URL or another folder.
    """
    if is_url(place):
        raise FrancaError(f"{key}.path: {printable(place)} is a URL; copy it into a local folder")
    if not (Path(place) / _LIST).is_file():
        raise FrancaError(
            f"{printable(place)}: no {_LIST}; videos are read from DAVIS 2017 as it comes out of its archive,"
            f" so change {key}.path or {key}.task"
        )
    return Davis(Path(place), f"{key}.path")
