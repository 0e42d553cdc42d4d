"""What the manifest says of one source: counts, statistics, how much was refused and how much looked the same."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from franca.data.ingest.dense import DenseSource
from franca.data.ingest.sources import Source
from franca.data.ingest.splits import NONE, TRAIN
from franca.data.ingest.table import Refused, Table
from franca.data.store.files.names import as_text
from franca.data.store.index import SPLITS

_EDGE = 0.1
"""Brightness, 0 to 1, that mean and standard deviation together must stay below for a set to count as black."""


def describe(
    source: Source | DenseSource,
    table: Table,
    split: NDArray[np.int64],
    label: NDArray[np.int64],
    classes: list[str],
    refused: list[Refused],
    duplicates: dict[str, Any],
) -> dict[str, Any]:
    """The manifest's part for `source`; `split` and `label` are of shape (N,), a value a row of `table`.

    It grows with nothing but the classes, for every stage reads it: of lists it has the lengths.
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
        "channels": _channels(table, split == TRAIN),
        "sizes": _sizes(table.sizes[split != NONE]),
        "refused": len(refused),
        "duplicates": {key: len(value) if isinstance(value, list) else value for key, value in duplicates.items()},
    }


def describe_duplicates(
    table: Table, groups: NDArray[np.int64], split: NDArray[np.int64], bits: int
) -> dict[str, Any]:
    """Groups of images that look the same, and the images dropped because their group straddled given splits."""
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
    """The few numbers of a manifest's part that are worth a line, and that `dvc metrics diff` compares."""
    return {name: part["counts"][name]["images"] for name in SPLITS} | {
        "classes": len(part["classes"]),
        "refused": part["refused"],
        "duplicate_groups": part["duplicates"]["groups"],
        "dropped": part["duplicates"]["dropped"],
    }


def describe_exposure(channels: dict[str, list[float]]) -> str | None:
    """Say so if nearly all pixels are black, or nearly all are white, as after a wrong conversion; else None.

    Args:
        channels: Mean and standard deviation of R, G and B, 0 to 1, as `describe` has them.
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
    by_class = np.bincount(labels[labels >= 0], minlength=len(classes))
    return {"images": len(labels), "classes": dict(zip(classes, by_class.tolist(), strict=True))}


def _channels(table: Table, train: NDArray[np.bool_]) -> dict[str, list[float]]:
    """Mean and standard deviation of R, G and B over all pixels of the train images, bytes taken as 0 to 1."""
    pixels = table.sizes[train, :2].prod(axis=1).sum()
    mean, square = table.sums[train].sum(axis=0) / pixels / np.array([[255.0], [255.0**2]])
    spread = np.sqrt(np.maximum(square - mean**2, 0))
    return {"mean": mean.round(6).tolist(), "std": spread.round(6).tolist()}


def _sizes(sizes: NDArray[np.int64]) -> dict[str, dict[str, int]]:
    """Smallest, median and largest height and width, in pixels, and length, in bytes."""
    return {
        name: {"min": int(values.min()), "median": int(np.median(values)), "max": int(values.max())}
        for name, values in zip(("height", "width", "bytes"), sizes.T, strict=True)
    }
