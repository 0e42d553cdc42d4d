"""The manifest's entries about one source: counts, statistics, numbers of refused and of duplicate images."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from franca.data.ingest.scan import ImageTable, RefusedImage
from franca.data.ingest.sources.source import Source
from franca.data.ingest.splits import NONE, TRAIN
from franca.data.store.files.names import as_text
from franca.data.store.index import SPLITS

_EDGE = 0.1
"""Brightness, 0 to 1: a set counts as black if mean plus standard deviation is below it."""


def describe(
    source: Source,
    table: ImageTable,
    split: NDArray[np.int64],
    label: NDArray[np.int64],
    classes: list[str],
    refused: list[RefusedImage],
    duplicates: dict[str, Any],
) -> dict[str, Any]:
    """Return the manifest's part for a source.

    Every stage reads the manifest, so it must stay small: it has the lengths of the lists, not the lists.

    Args:
        source: The source, after the pass over it.
        table: The accepted images.
        split: Split number of each of them, or NONE, int64 (N,).
        label: Class number of each of them, or -1, int64 (N,).
        classes: Class names by number.
        refused: Images that are left out.
        duplicates: The result of `describe_duplicates`.
    """
    return {
        "source": {
            "path": as_text(source.place),
            "layout": source.layout,
            "sha256": table.source_digest,
            "ignored": dict(sorted(source.ignored.items())),
        },
        "classes": classes,
        "counts": {name: _counts(label[split == number], classes) for number, name in enumerate(SPLITS)},
        "channels": _channels(table, split == TRAIN if TRAIN in split else split != NONE),
        "sizes": _sizes(table.sizes[split != NONE]),
        "refused": len(refused),
        "duplicates": {key: len(value) if isinstance(value, list) else value for key, value in duplicates.items()},
    }


def describe_duplicates(
    table: ImageTable, groups: NDArray[np.int64], split: NDArray[np.int64], bits: int
) -> dict[str, Any]:
    """Return the content of duplicates.json: groups of images that look the same, and the dropped images.

    Args:
        table: The accepted images.
        groups: Group of duplicates of each image, int64 (N,).
        split: Split number of each image, int64 (N,); NONE if it was dropped for a duplicate in another split.
        bits: Largest number of bits in which hashes of duplicates differ.
    """
    members: dict[int, list[int]] = {}
    for row in np.flatnonzero(np.bincount(groups)[groups] > 1).tolist():
        members.setdefault(int(groups[row]), []).append(row)
    dropped = []
    for row in np.flatnonzero(split == NONE).tolist():
        other = next(other for other in members[int(groups[row])] if split[other] != NONE)
        dropped.append({"path": table.names[row], "same_as": table.names[other]})
    return {
        "bits": bits,
        "images": sum(len(rows) for rows in members.values()),
        "largest": max((len(rows) for rows in members.values()), default=0),
        "groups": [[table.names[row] for row in rows] for rows in members.values()],
        "dropped": dropped,
    }


def headline(part: dict[str, Any]) -> dict[str, int]:
    """Return the main counts of a manifest's part, for the screen and for `dvc metrics diff`."""
    return {name: part["counts"][name]["images"] for name in SPLITS} | {
        "classes": len(part["classes"]),
        "refused": part["refused"],
        "duplicate_groups": part["duplicates"]["groups"],
        "dropped": part["duplicates"]["dropped"],
    }


def describe_exposure(channels: dict[str, list[float]]) -> str | None:
    """Return a warning if nearly all pixels are black or nearly all are white, as after a wrong conversion, else None.

    Args:
        channels: Mean and standard deviation of R, G and B, 0 to 1, as in `describe`.
    """
    mean, spread = np.array(channels["mean"]), np.array(channels["std"])
    dark, bright = (mean + spread).max() < _EDGE, (mean - spread).min() > 1 - _EDGE
    if not dark and not bright:
        return None
    color = "black" if dark else "white"
    return (
        f"the train images are nearly {color} (mean {mean.mean():.1%} of full brightness); look at some of them, and "
        "if their samples use a small part of their range, rescale them and convert them to 8 bits"
    )


def _counts(labels: NDArray[np.int64], classes: list[str]) -> dict[str, Any]:
    """Count images, in all and by class."""
    by_class = np.bincount(labels[labels >= 0], minlength=len(classes))
    return {"images": len(labels), "classes": dict(zip(classes, by_class.tolist(), strict=True))}


def _channels(table: ImageTable, train: NDArray[np.bool_]) -> dict[str, list[float]]:
    """Return mean and standard deviation of R, G and B over all pixels of the train images, bytes scaled to 0..1."""
    pixels = table.sizes[train, :2].prod(axis=1).sum()
    mean, square = table.sums[train].sum(axis=0) / pixels / np.array([[255.0], [255.0**2]])
    spread = np.sqrt(np.maximum(square - mean**2, 0))
    return {"mean": mean.round(6).tolist(), "std": spread.round(6).tolist()}


def _sizes(sizes: NDArray[np.int64]) -> dict[str, dict[str, int]]:
    """Return minimum, median and maximum of height and width, in pixels, and of length, in bytes."""
    return {
        name: {"min": int(values.min()), "median": int(np.median(values)), "max": int(values.max())}
        for name, values in zip(("height", "width", "bytes"), sizes.T, strict=True)
    }
