"""Which split an image belongs to: its own folder's, or one drawn by a hash of its content."""

import hashlib

import numpy as np
from numpy.typing import NDArray

from franca.data.store.index import SPLITS, SplitName

TRAIN, VAL, TEST = range(len(SPLITS))
NONE = -1


def assign_splits(
    duplicates: NDArray[np.int64],
    units: NDArray[np.int64],
    keys: NDArray[np.uint64],
    given: NDArray[np.int64],
    fractions: dict[SplitName, float],
    classes: NDArray[np.int64] | None = None,
) -> NDArray[np.int64]:
    """Split number of each image, shape (N,); NONE for an image that must be dropped.

    `duplicates` numbers groups of images that look the same, `units` what a draw may not tear apart (the same groups,
    or larger ones), `keys` are the first 64 bits of each content's SHA-256, `given` is the split that the source
    dictates or NONE, `classes` numbers the classes, NONE for an image without one.

    No group of duplicates straddles two splits: where a source dictates more than one, test goes before val before
    train, and the images of the lesser splits are dropped. Where the source has no test or no val, that share of the
    train units is drawn by a hash of the unit's smallest key, so that an image keeps its split if others are
    added. Exceptions: one that joins a group of duplicates, and the one that a class keeps in train. At least one unit
    is drawn, and never the last one that another split needs. Of each class one unit stays in train, the one that
    would be drawn last: an image cannot be recognized by a model that has seen none of its class.
    """
    labels = np.full(len(units), NONE) if classes is None else classes
    highest = _reduce(np.maximum, given, duplicates, NONE)
    split = np.where((given != NONE) & (given < highest[duplicates]), NONE, np.maximum(given, TRAIN))
    names: tuple[SplitName, ...] = ("test", "val")
    to_draw = [name for name in names if SPLITS.index(name) not in given]
    for position, name in enumerate(to_draw):
        free = split == TRAIN
        smallest = _reduce(np.minimum, keys[free], units[free], np.iinfo(np.uint64).max)
        numbers = np.unique(units[free])
        places = _places(smallest[numbers], name)
        most = len(numbers) - (len(to_draw) - position)
        kept = _last_of_classes(labels[free], np.searchsorted(numbers, units[free]), places)
        numbers, places = np.delete(numbers, kept), np.delete(places, kept)
        count = min(max(np.count_nonzero(places < fractions[name]), 1), max(most, 0))
        drawn = numbers[np.argsort(places, kind="stable")[:count]]
        split[free & np.isin(units, drawn)] = SPLITS.index(name)
    return split


def _last_of_classes(
    classes: NDArray[np.int64], units: NDArray[np.int64], places: NDArray[np.float64]
) -> NDArray[np.int64]:
    """Return of each class the unit with the largest place; `classes` and `units` have a value an image."""
    known = classes != NONE
    classes, units = classes[known], units[known]
    order = np.lexsort((units, places[units], classes))
    ends = np.flatnonzero(np.diff(classes[order], append=-1))
    return np.unique(units[order[ends]])


def _reduce(function: np.ufunc, values: NDArray, groups: NDArray[np.int64], start: int) -> NDArray:
    """`function` over the values of each group; `start` where a group has none."""
    result = np.full(int(groups.max(initial=-1)) + 1, start, dtype=values.dtype)
    function.at(result, groups, values)
    return result


def _places(keys: NDArray[np.uint64], salt: str) -> NDArray[np.float64]:
    """A place in [0, 1) for each key. The smallest of many hashes is a small number: hashing it again evens it out."""
    digests = b"".join(hashlib.sha256(salt.encode() + key.tobytes()).digest()[:8] for key in keys.astype(">u8"))
    return np.frombuffer(digests, dtype=">u8").astype(np.float64) / 2.0**64
