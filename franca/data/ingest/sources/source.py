"""The interface of image sources, and the samples that they yield."""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any, Protocol

from franca.data.store.index import Shard, SplitName


@dataclass(frozen=True, slots=True)
class Sample:
    """One image of a source, or the reason why it cannot be read."""

    name: str
    """Path inside the source. For a member of a tar: the tar's path and the member's path, joined by a slash."""
    content: bytes
    """Bytes of the image file; empty if there is a problem."""
    class_name: str | None = None
    split: SplitName | None = None
    """Split that the source assigns, or None if `prepare` has to draw it."""
    problem: str | None = None
    """Reason why the image cannot be read."""
    mask: bytes | None = None
    """Bytes of the segmentation mask, if the source has masks."""
    scene: str | None = None
    """Images of one scene stay in one split. All images of a source have a scene, or none has."""
    shard: int = -1
    """Index into `Source.shards` of the tar that holds the image; -1 for a file of its own."""
    offset: int = 0
    """Position of the image's first byte in that tar."""


class Source(Protocol):
    """Images in one place: files are listed on construction and read on iteration.

    The order and the names of the samples depend on nothing but the content of the source. The store must come out
    byte-identical on every machine.
    """

    layout: str
    """Kind of source, as the manifest names it."""
    place: str
    """Path or URL."""
    title: str
    """The same for messages, with control characters escaped."""
    ignored: Counter[str]
    """Number of files that are not images, by kind. Files inside tars are counted during iteration."""
    total_bytes: int
    bytes_read: int
    """Bytes read so far, out of `total_bytes`; for progress bars."""

    shards: Sequence[Shard] = ()
    """Tars that hold the images. Only images in tars can stay in place."""
    has_classes: bool = True
    """Whether images may have classes. If so, `prepare` warns about fewer than two."""
    split_unit: str = "different images"
    """What is drawn when a split is drawn, for the message that there are too few of them."""

    def __iter__(self) -> Iterator[Sample]:
        """Yield all samples in a fixed order."""
        ...

    @property
    def image_count(self) -> int | None:
        """Number of images, or None if it is unknown before iteration."""
        return None

    def subset(self, count: int) -> Iterator[Sample]:
        """Yield at most `count` samples without reading the whole source.

        By default, these are the first ones. A source that can seek spreads them.
        """
        return islice(self, count)

    def check(self, sample: Sample, height: int, width: int) -> str | None:
        """Return what is wrong with a sample of which the image is valid, or None.

        Args:
            sample: The sample.
            height: Height of its decoded image, in pixels.
            width: Width of its decoded image, in pixels.
        """
        return None

    def about(self) -> dict[str, Any]:
        """Return entries to add to the source's part of the manifest."""
        return {}


def spaced(total: int, count: int) -> list[int]:
    """Return at most `count` of the indices 0 to `total` - 1, evenly spaced; always index 0, never the last one."""
    chosen = min(total, count)
    return [i * total // chosen for i in range(chosen)]
