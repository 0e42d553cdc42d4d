"""Replace training images that can no longer be read by others, up to a limit."""

import sys
from collections.abc import Callable, Iterator, Sequence

import numpy as np
from PIL import Image
from tqdm import tqdm

from franca.data.store.index import LostRecord
from franca.data.store.prepared import ImageSet
from franca.errors import FrancaError

_DRAWS = 100
"""Replacements drawn for one image before reading is given up: then nearly everything must be lost."""
_SHOWN = 3
"""Number of shards that an error message lists."""


def fetch_or_replace(
    images: ImageSet,
    indices: Sequence[int],
    generator: Callable[[int], np.random.Generator],
    shrink: Callable[[int, int], int],
    lost: dict[int, LostRecord],
) -> Iterator[tuple[int, Image.Image]]:
    """Read images together, decode them one by one, and replace those that cannot be read by random others.

    Args:
        images: The set of images.
        indices: Indices of the images to read.
        generator: Returns the random generator for replacements of the i-th of them. With one for each i, a
            replacement depends only on which images can be read, not on the process that reads them.
        shrink: Returns the factor by which a JPEG may be shrunk (see `images.decode`), from i and the image's index.
        lost: Filled with the images that could not be read, and the reasons.

    Yields:
        Index and pixels of each image.

    Raises:
        FrancaError: `_DRAWS` images in a row could not be read.
    """
    chosen = list(indices)
    contents = images.read(chosen)
    draws: dict[int, np.random.Generator] = {}
    counts: dict[int, int] = {}

    def draw(place: int, reason: LostRecord) -> None:
        lost[chosen[place]] = reason
        counts[place] = counts.get(place, 0) + 1
        if counts[place] > _DRAWS:
            reason.raise_error()
        chosen[place] = int(draws.setdefault(place, generator(place)).integers(len(images)))

    while missing := {place: content for place, content in enumerate(contents) if isinstance(content, LostRecord)}:
        for place, reason in missing.items():
            draw(place, reason)
        for place, content in zip(missing, images.read([chosen[place] for place in missing]), strict=True):
            contents[place] = content
    for place, content in enumerate(contents):
        while isinstance(image := images.decode(chosen[place], content, shrink(place, chosen[place])), LostRecord):
            draw(place, image)
            (content,) = images.read([chosen[place]])
        yield chosen[place], image


class LostImages:
    """The images that a run could not read so far; `reasons` has them by index."""

    def __init__(self, images: ImageSet) -> None:
        """Start without lost images; `images` is the training set."""
        self._images = images
        self.reasons: dict[int, LostRecord] = {}
        self._named: set[str] = set()

    def add(self, lost: dict[int, LostRecord], warn: bool = True) -> None:
        """Add lost images, and warn once about each shard.

        Args:
            lost: Images by index, with the reasons.
            warn: Whether to warn; not needed if another process does.

        Raises:
            FrancaError: More than the share `prepare.max_refused` of the training images is lost.
        """
        self.reasons |= lost
        for shard, reason in lost.values() if warn else ():
            if shard not in self._named:
                self._named.add(shard)
                tqdm.write(f"{shard}: {reason}; its images are replaced by others", file=sys.stderr)
        total, share = len(self._images), self._images.max_lost
        if len(self.reasons) > share * total:
            reasons = dict(self.reasons.values())
            shown = "; ".join(f"{shard}: {reason}" for shard, reason in list(reasons.items())[:_SHOWN])
            more = f"; and {len(reasons) - _SHOWN} more shards" if len(reasons) > _SHOWN else ""
            raise FrancaError(
                f"{len(self.reasons)} of {total} training images cannot be read, prepare.max_refused {share:g} "
                f"allows {int(share * total)} ({shown}{more}); restore them, or run `dvc repro prepare`"
            )
