"""Estimate number, sizes and channel statistics of the images of a source from a sample."""

import time
from collections import Counter
from statistics import median
from tarfile import BLOCKSIZE
from typing import NamedTuple

import numpy as np
from PIL import Image

from franca.data.ingest.sources.source import Source
from franca.data.store.images.decode import decode, strict_decoding
from franca.data.store.index import SplitName
from franca.data.store.prepared import MIN_STD
from franca.errors import FrancaError

SAMPLES = 256
"""Number of images in the sample."""


class FolderFacts(NamedTuple):
    """Facts about a source of images; all except `image_count` are measured on a sample."""

    image_count: int
    """number of images; estimated from the number of bytes if they are in tars"""
    splits: frozenset[SplitName]
    """splits that have their own folder"""
    train_share: float
    """share of the images that are not in a folder for val or test"""
    short_side: int
    """median of the shorter side, in pixels"""
    mean: list[float]
    """mean of R, G and B, scaled to 0..1"""
    std: list[float]
    """standard deviation of R, G and B, scaled to 0..1"""
    decode_seconds: float
    """time to read and decode one image, in seconds"""
    samples: list[Image.Image]
    """8-bit RGB images, spread over the source"""


def measure_folder(source: Source) -> FolderFacts:
    """Decode a sample of a source's images and measure it.

    Raises:
        FrancaError: No image of the sample can be decoded.
    """
    images: list[Image.Image] = []
    splits: Counter[SplitName | None] = Counter()
    sums, pixels, size = np.zeros((2, 3)), 0, 0
    start = time.perf_counter()
    with strict_decoding():
        for sample in source.subset(SAMPLES):
            # Length in a tar, where each file has a header and is padded to whole blocks.
            size += BLOCKSIZE + -(-len(sample.content) // BLOCKSIZE) * BLOCKSIZE
            if sample.problem:
                continue
            try:
                images.append(decode(sample.content))
            except Exception:  # Pillow raises many types on bad bytes; `prepare` will report unreadable images
                continue
            splits[sample.split] += 1
    seconds = time.perf_counter() - start
    if not images:
        raise FrancaError(
            f"{source.title}: no image of a sample of {SAMPLES} can be read; run `franca prepare` to see why"
        )
    for image in images:
        values = np.asarray(image, dtype=np.float64).reshape(-1, 3) / 255
        sums += values.sum(axis=0), (values**2).sum(axis=0)
        pixels += len(values)
    mean = sums[0] / pixels
    std = np.sqrt(np.maximum(sums[1] / pixels - mean**2, 0))
    return FolderFacts(
        image_count=source.image_count or round(source.total_bytes / max(size / len(images), 1)),
        splits=frozenset(split for split in splits if split),
        train_share=(splits[None] + splits["train"]) / len(images),
        short_side=round(median(min(image.size) for image in images)),
        mean=[round(float(x), 3) for x in mean],
        std=[max(round(float(x), 3), MIN_STD) for x in std],
        decode_seconds=seconds / len(images),
        samples=images,
    )
