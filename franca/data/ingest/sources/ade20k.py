"""ADE20K of the scene parsing challenge: `images` and `annotations`, each with `training` and `validation`."""

import io
from pathlib import Path, PurePosixPath

import numpy as np
from PIL import Image

from franca.data.ingest.sources.mask_pairs import MaskPairSource, Pair
from franca.data.ingest.sources.masks import DenseClasses
from franca.data.store.files.folders import Unreadable, list_files, read_file
from franca.data.store.files.names import printable
from franca.data.store.images.file_types import PNG_DEPTH
from franca.data.store.index import SplitName
from franca.errors import FrancaError

_LABELS = 150
_IGNORE = 255
_NAMES = "objectInfo150.txt"
_SPLITS: dict[str, SplitName] = {"training": "train", "validation": "val"}


class Ade20k(MaskPairSource):
    """Images with labels 1 to 150, which become the classes 0 to 149; label 0 is unlabelled."""

    layout = "ADE20K"

    def __init__(self, folder: Path, key: str) -> None:
        """List the images, and read the names of the classes.

        Args:
            folder: The folder `ADEChallengeData2016` of the archive.
            key: The parameter that names it, for messages.

        Raises:
            FrancaError: The names of the classes cannot be read, or no image is for train.
        """
        self.classes = DenseClasses(classes=_read_names(folder / _NAMES), ignore=_IGNORE)
        files = list_files(folder, key)
        pairs = []
        for part, split in _SPLITS.items():
            # A mask without image is listed, too, so that it is refused rather than ignored.
            stems = _stems(files, f"images/{part}", ".jpg") | _stems(files, f"annotations/{part}", ".png")
            pairs += [
                Pair(split, f"images/{part}/{stem}.jpg", f"annotations/{part}/{stem}.png") for stem in sorted(stems)
            ]
        super().__init__(folder, files, pairs)

    def convert(self, mask: bytes) -> tuple[bytes, str | None]:
        """Subtract 1 from all labels; a mask that is no 8-bit PNG stays as it is for `check` to refuse."""
        try:
            image = Image.open(io.BytesIO(mask), formats=("PNG",))
            labels = np.asarray(image)
        except Exception:  # Pillow raises many types of exceptions on bad bytes
            return mask, None
        if image.mode not in ("L", "P") or mask[PNG_DEPTH] != 8:
            return mask, None
        if labels.max(initial=0) > _LABELS:
            return mask, f"its mask holds the label {labels.max()}; ADE20K has the labels 0 to {_LABELS}"
        buffer = io.BytesIO()
        # In uint8, 0 - 1 is 255, which is the class to ignore.
        Image.fromarray(labels - np.uint8(1)).save(buffer, "PNG")
        return buffer.getvalue(), None


def open_ade20k(folder: Path, key: str) -> Ade20k | None:
    """Open a folder with annotations of the training images."""
    return Ade20k(folder, key) if (folder / "annotations/training").is_dir() else None


def _read_names(path: Path) -> list[str]:
    """Return the last column of the table of classes, below its head."""
    try:
        lines = read_file(path).decode().splitlines()
    except (Unreadable, UnicodeDecodeError) as error:
        reason = error if path.exists() else "no such file"
        raise FrancaError(f"{printable(path)}: {reason}; take it from ADEChallengeData2016.zip") from None
    names = [line.split("\t")[-1].strip() for line in lines[1:] if line.strip()]
    if len(names) != _LABELS:
        raise FrancaError(f"{printable(path)}: {len(names)} classes, not {_LABELS}; take it from the archive")
    return names


def _stems(files: list[str], folder: str, suffix: str) -> set[str]:
    paths = map(PurePosixPath, files)
    return {path.stem for path in paths if str(path.parent) == folder and path.suffix == suffix}
