"""Images with the boxes of their objects, from a store of a data set with `task: boxes`."""

import json
from collections.abc import Mapping

from franca.data.store.pack import Pack
from franca.data.store.prepared import SPLITS, ImageSet, SplitName, Store
from franca.evaluation.methods.token_cut import Box


class BoxSet(ImageSet):
    """Images of one split with boxes."""

    def __init__(self, pack: Pack, annotations: Pack, rows: range) -> None:
        """Store the arguments.

        Args:
            pack: The images of all splits.
            annotations: Their boxes, in the same rows.
            rows: The split's records in both packs.
        """
        super().__init__(pack, rows, [])
        self._annotations = annotations

    def boxes(self, index: int) -> list[Box]:
        """Return the boxes of an image, in its pixels."""
        content = json.loads(self._annotations[self.rows[index]])
        return [Box(top, left, bottom, right) for left, top, right, bottom in content]


def open_boxes(store: Store) -> Mapping[SplitName, BoxSet]:
    """Return the images with boxes by split; empty if the store has none."""
    if "boxes" not in store.manifest:
        return {}
    pack, annotations = Pack(store.folder / "boxes/images"), Pack(store.folder / "boxes/annotations")
    return {split: BoxSet(pack, annotations, pack.index.splits[split]) for split in SPLITS}
