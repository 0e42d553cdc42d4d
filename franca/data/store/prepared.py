"""The prepared store: encoded images and an index, packed into a few large files or left in the source's tars.

prepared/manifest.json             counts, splits, hashes, channel statistics
prepared/refused.json              images that were left out, and why
prepared/duplicates.json           images that look the same
prepared/images/shard-00000.bin …  the bytes of the image files, concatenated; missing if they stay in place
prepared/images/index.json, *.npy  position, height, width and label of each image (franca/data/store/index.py)
prepared/dense/…                   the same for the dense set, if there is one, with packs of images and masks
"""

import io
from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from franca.data.store.images.decode import decode, refusal
from franca.data.store.index import SPLITS as SPLITS
from franca.data.store.index import LostRecord, SplitName
from franca.data.store.pack import Pack
from franca.errors import FrancaError
from franca.files import read_json, sha256_file
from franca.params import ChannelStatistics

_READ_AT_ONCE = 128
"""Images that `ImageSet.fetch` reads before it decodes them."""
MIN_STD = 0.01
"""Lower bound of a channel's standard deviation; a constant channel has none to divide by."""


class ImageSet(Sequence[Image.Image]):
    """Images of one split, decoded to RGB on access; raises FrancaError if one cannot be read."""

    def __init__(self, pack: Pack, rows: range, classes: list[str]) -> None:
        """Store the arguments.

        Args:
            pack: The records of all splits.
            rows: The split's records in the pack.
            classes: Class names by number.
        """
        self._pack = pack
        self.rows = rows
        self.classes = classes
        self.in_place = pack.index.place is not None
        self.max_lost = pack.index.max_lost

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: Any) -> Any:
        """Return an image; raises FrancaError if it cannot be read."""
        return next(self.fetch([index]))

    @property
    def labels(self) -> NDArray[np.integer]:
        """Class numbers, shape (N,), -1 for an image without a class: a read-only view of the index."""
        if "label" not in self._pack.index.columns:
            return np.broadcast_to(np.int8(-1), len(self))
        return self._pack.index.columns["label"][self.rows.start : self.rows.stop]

    @cached_property
    def firsts(self) -> NDArray[np.int64]:
        """First image of each shard, and the number of images: int64 (shards + 1,).

        A pack counts as one shard, since random access to it costs the same everywhere.
        """
        if not self.in_place:
            return np.array([0, len(self)])
        shards = self._pack.index.columns["shard"][self.rows.start : self.rows.stop]
        firsts = np.full(len(self._pack.index.shards) + 1, len(self))
        numbers = np.arange(min(len(firsts) - 1, np.iinfo(shards.dtype).max + 1))
        # The type of the column: with another one, NumPy would convert the whole column to compare.
        firsts[: len(numbers)] = np.searchsorted(shards, numbers.astype(shards.dtype))
        return firsts

    def fetch(self, indices: Iterable[int]) -> Iterator[Image.Image]:
        """Yield images in the given order. Many are read at once; they are decoded one by one."""
        rest = iter(indices)
        while part := list(islice(rest, _READ_AT_ONCE)):
            for index, content in zip(part, self.read(part), strict=True):
                image = self.decode(index, content)
                yield image.raise_error() if isinstance(image, LostRecord) else image

    def read(self, indices: Sequence[int]) -> list[bytes | LostRecord]:
        """Return the encoded bytes of each image, in the given order, or the reason why it cannot be read."""
        return self._pack.read([self.rows[index] for index in indices])

    def decode(self, index: int, content: bytes | LostRecord, shrink: int = 1) -> Image.Image | LostRecord:
        """Decode an image, or return the reason why that is impossible.

        Args:
            index: The image.
            content: The result of `read` for it.
            shrink: As for `images.decode.decode`.
        """
        if isinstance(content, LostRecord):
            return content
        try:
            return decode(content, shrink)
        except MemoryError:
            raise
        except Exception as error:  # Pillow raises many types of exceptions on bad bytes
            return self._pack.lost(self.rows[index], f"does not decode ({refusal(error)})")

    def size(self, index: int) -> tuple[int, int]:
        """Return width and height of an image in pixels, upright and not shrunk, from the index."""
        row = self.rows[index]
        width, height = (int(self._pack.index.columns[name][row]) for name in ("width", "height"))
        return width, height

    @property
    def common_size(self) -> tuple[int, int] | None:
        """Height and width in pixels if all images have the same size, else None."""
        part = slice(self.rows.start, self.rows.stop)
        heights, widths = (self._pack.index.columns[name][part] for name in ("height", "width"))
        if not len(self) or heights.min() < heights.max() or widths.min() < widths.max():
            return None
        return int(heights[0]), int(widths[0])


class DenseSet(ImageSet):
    """Images with segmentation masks."""

    def __init__(self, pack: Pack, masks: Pack, rows: range, classes: list[str], ignore: int) -> None:
        """Store the arguments.

        Args:
            pack: The images of all splits.
            masks: Their masks, in the same rows.
            rows: The split's records in both packs.
            classes: Class names by number.
            ignore: Value of unlabelled pixels in masks.
        """
        super().__init__(pack, rows, classes)
        self._masks = masks
        self.ignore = ignore

    def mask(self, index: int) -> NDArray[np.uint8]:
        """Return the class number of each pixel, uint8 (H, W), `ignore` for unlabelled pixels."""
        return np.asarray(Image.open(io.BytesIO(self._masks[self.rows[index]])))


class Store:
    """A folder that `franca prepare` has written."""

    def __init__(self, folder: Path, stage: str = "prepare") -> None:
        """Read the manifest; raises FrancaError if there is none, with the DVC stage that writes it."""
        self.folder = folder
        path = folder / "manifest.json"
        if not path.is_file():
            raise FrancaError(f"{path}: no such file; run `dvc repro {stage}` first")
        self.manifest: dict[str, Any] = read_json(path)

    @cached_property
    def digest(self) -> str:
        """SHA-256 of the manifest, which contains the hashes of all files of the store."""
        return sha256_file(self.folder / "manifest.json")

    @property
    def channels(self) -> ChannelStatistics:
        """Statistics of the training images; raises FrancaError if the store is too old to have them."""
        if found := read_channels(self.manifest):
            return found
        raise FrancaError(f"{self.folder}/manifest.json: no channel statistics; run `dvc repro --force prepare`")

    @cached_property
    def _images(self) -> Pack:
        return Pack(self.folder / "images")

    def images(self, split: SplitName) -> ImageSet:
        """Return the images of a split."""
        return ImageSet(self._images, self._images.index.splits[split], self.manifest["classes"])

    def dense(self, split: SplitName) -> DenseSet | None:
        """Return a split of the dense set, or None if the store has no dense set."""
        if self.manifest["dense"] is None:
            return None
        pack = Pack(self.folder / "dense/images")
        masks = Pack(self.folder / "dense/masks")
        about = self.manifest["dense"]
        return DenseSet(pack, masks, pack.index.splits[split], about["classes"], about["ignore"])


def read_channels(manifest: dict[str, Any]) -> ChannelStatistics | None:
    """Return the statistics of the training images that a manifest has, or None if it has none."""
    try:
        (r, g, b), spreads = (map(float, manifest["channels"][name]) for name in ("mean", "std"))
        x, y, z = (max(value, MIN_STD) for value in spreads)
    except (KeyError, TypeError, ValueError):
        return None
    return ChannelStatistics((r, g, b), (x, y, z))
