"""Training images that can no longer be read: others take their place, up to a limit."""

import sys
from collections.abc import Callable, Iterator, Sequence

import numpy as np
from PIL import Image
from tqdm import tqdm

from franca.data.store.index import Lost
from franca.data.store.prepared import ImageSet
from franca.errors import FrancaError

_DRAWS = 100
"""Images drawn for one place before so much is taken to be lost that nothing can be trained on."""
_SHOWN = 3


def fetch_or_replace(
    images: ImageSet,
    indices: Sequence[int],
    generator: Callable[[int], np.random.Generator],
    shrink: Callable[[int, int], int],
    lost: dict[int, Lost],
) -> Iterator[tuple[int, Image.Image]]:
    """Read images at once, decode them one by one, and replace those that cannot be read by others.

    Args:
        images: The set that the images are taken from.
        indices: Numbers of the wanted images.
        generator: Gives the generator that draws the replacement for the i-th of them, so that it depends on nothing
            but which images can be read.
        shrink: Gives the factor by which a JPEG may be shrunk (see `images.decode`), from i and the image's number.
        lost: Gets each image that could not be read, and why.

    Yields:
        Number and pixels of each image.

    Raises:
        FrancaError: `_DRAWS` images in a row could not be read.
    """
    chosen = list(indices)
    contents = images.read(chosen)
    draws: dict[int, np.random.Generator] = {}
    counts: dict[int, int] = {}

    def draw(place: int, reason: Lost) -> None:
        lost[chosen[place]] = reason
        counts[place] = counts.get(place, 0) + 1
        if counts[place] > _DRAWS:
            reason.tell()
        chosen[place] = int(draws.setdefault(place, generator(place)).integers(len(images)))

    while missing := {place: content for place, content in enumerate(contents) if isinstance(content, Lost)}:
        for place, reason in missing.items():
            draw(place, reason)
        for place, content in zip(missing, images.read([chosen[place] for place in missing]), strict=True):
            contents[place] = content
    for place, content in enumerate(contents):
        while isinstance(image := images.decode(chosen[place], content, shrink(place, chosen[place])), Lost):
            draw(place, image)
            (content,) = images.read([chosen[place]])
        yield chosen[place], image


class MissingImages:
    """What a run has had to do without so far: each shard is named once, and more than the limit ends the run."""

    def __init__(self, images: ImageSet) -> None:
        self._images = images
        self.lost: dict[int, Lost] = {}
        self._named: set[str] = set()

    def add(self, lost: dict[int, Lost], tell: bool = True) -> None:
        """FrancaError where these are too many: more than the share `prepare.max_refused` of the training images."""
        self.lost |= lost
        for shard, reason in lost.values() if tell else ():
            if shard not in self._named:
                self._named.add(shard)
                tqdm.write(f"{shard}: {reason}; other images take the place of what is lost", file=sys.stderr)
        total, share = len(self._images), self._images.max_lost
        if len(self.lost) > share * total:
            reasons = dict(self.lost.values())
            shown = "; ".join(f"{shard}: {reason}" for shard, reason in list(reasons.items())[:_SHOWN])
            more = f"; and {len(reasons) - _SHOWN} more shards" if len(reasons) > _SHOWN else ""
            raise FrancaError(
                f"{len(self.lost)} of {total} training images cannot be read, prepare.max_refused {share:g} "
                f"allows {int(share * total)} ({shown}{more}); bring them back, or run `dvc repro prepare`"
            )
