"""What a prepared store says about its images: sizes and classes of all, brightness and contrast of a sample."""

from collections import Counter
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from franca.data.store.index import Index
from franca.data.store.prepared import SPLITS, ImageSet, Store
from franca.evaluation.features import evenly_spaced

SAMPLE = 2000
"""Training images that are decoded, at most."""
DARK, BRIGHT, FLAT = 10, 245, 4
"""Mean brightness and its standard deviation, of 0 to 255, from which an image counts as dark, bright or flat."""
SIDES = (32, 64, 128, 256, 512, 1024, 2048)
SHOWN_SIZES = 8


@dataclass(frozen=True)
class Row:
    """A row of a table of counts: a name, a number, and its share of the largest number in percent."""

    name: str
    count: int
    width: float


@dataclass(frozen=True)
class Light:
    """Brightness of the sampled images.

    Attributes:
        rows: Row of each image in the training images.
        means: (n,) Mean brightness, 0 to 255.
        deviations: (n,) Standard deviation of the brightness within the image.
    """

    rows: NDArray[np.int64]
    means: NDArray[np.float64]
    deviations: NDArray[np.float64]


def split_counts(store: Store) -> dict[str, int]:
    """Return the number of images of each split."""
    return {split: len(store.images(split)) for split in SPLITS}


def class_counts(store: Store) -> list[Row]:
    """Return the number of images of each class in all splits, the largest first; empty without labels."""
    classes = store.manifest["classes"]
    total = np.zeros(len(classes), np.int64)
    for split in SPLITS:
        labels = np.asarray(store.images(split).labels)
        total += np.bincount(labels[labels >= 0], minlength=len(classes))[: len(classes)]
    return bars(sorted(zip(classes, total.tolist(), strict=True), key=lambda pair: (-pair[1], pair[0])))


def training_sizes(folder: Path) -> NDArray[np.int64]:
    """Return width and height (N, 2) of the training images of a store in pixels."""
    index = Index(folder / "images")
    rows = index.splits["train"]
    return np.stack(
        [np.asarray(index.columns[name][rows.start : rows.stop], np.int64) for name in ("width", "height")], 1
    )


def size_counts(found: NDArray[np.int64]) -> list[Row]:
    """Return the most frequent sizes."""
    counts = Counter(map(tuple, found.tolist())).most_common()
    rest = sum(count for _, count in counts[SHOWN_SIZES:])
    named = [(f"{width} x {height}", count) for (width, height), count in counts[:SHOWN_SIZES]]
    return bars([*named, *([(f"{len(counts) - SHOWN_SIZES:,} others", rest)] if rest else [])])


def side_counts(found: NDArray[np.int64]) -> list[Row]:
    """Return a histogram of the short side."""
    edges = (0, *SIDES, 1 << 31)
    counts = np.histogram(found.min(1), edges)[0].tolist()
    names = [f"below {SIDES[0]}", *(f"{low} to {high - 1}" for low, high in pairwise(SIDES))]
    named = list(zip([*names, f"{SIDES[-1]} and more"], counts, strict=True))
    kept = [number for number, count in enumerate(counts) if count]
    return bars(named[kept[0] : kept[-1] + 1])


def measure_light(images: ImageSet) -> Light:
    """Decode evenly spaced training images and return their brightness."""
    rows = evenly_spaced(len(images), SAMPLE)
    pairs = []
    for image in images.fetch(rows.tolist()):
        gray = np.asarray(image.convert("L"), np.float32)
        pairs.append((gray.mean(), gray.std()))
    values = np.array(pairs, np.float64)
    return Light(rows, values[:, 0], values[:, 1])


def light_counts(values: NDArray[np.float64]) -> list[Row]:
    """Return a histogram of values from 0 to 255 in 8 steps."""
    counts = np.histogram(values, np.arange(0, 257, 32))[0].tolist()
    return bars([(f"{32 * step} to {32 * step + 31}", count) for step, count in enumerate(counts)])


def bars(counts: list[tuple[str, int]]) -> list[Row]:
    """Return rows with the share of the largest count."""
    largest = max((count for _, count in counts), default=0) or 1
    return [Row(name, count, round(100 * count / largest, 1)) for name, count in counts]
