"""Videos with masks of their objects, from a store of a data set with `task: video`."""

import io
from collections.abc import Mapping
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from franca.data.store.pack import Pack
from franca.data.store.prepared import SPLITS, ImageSet, SplitName, Store


class VideoSet(ImageSet):
    """Frames of one split with masks, sequence by sequence."""

    def __init__(self, pack: Pack, annotations: Pack, rows: range) -> None:
        """Store the arguments.

        Args:
            pack: The frames of all splits.
            annotations: Their masks, in the same rows.
            rows: The split's records in both packs.
        """
        super().__init__(pack, rows, [])
        self._annotations = annotations

    @property
    def sequences(self) -> list[range]:
        """The frames of each sequence."""
        numbers = self._pack.index.columns["scene"][self.rows.start : self.rows.stop].astype(np.int64)
        starts = [0, *(np.flatnonzero(np.diff(numbers)) + 1).tolist(), len(numbers)]
        return [range(start, stop) for start, stop in pairwise(starts) if stop > start]

    def mask(self, index: int) -> NDArray[np.uint8]:
        """Return the number of the object in each pixel of a frame, uint8 (H, W), 0 for the background."""
        return np.asarray(Image.open(io.BytesIO(self._annotations[self.rows[index]])))


def open_videos(store: Store) -> Mapping[SplitName, VideoSet]:
    """Return the videos by split; empty if the store has none."""
    if "video" not in store.manifest:
        return {}
    pack, annotations = Pack(store.folder / "video/images"), Pack(store.folder / "video/annotations")
    return {split: VideoSet(pack, annotations, pack.index.splits[split]) for split in SPLITS}
