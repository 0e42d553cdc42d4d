"""Assign each image to a split: the one of its folder, or one drawn by a hash of its content."""

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
    """Return the split number of each image; NONE for an image that must be dropped.

    No group of duplicates is in two splits. If a source assigns several, test takes precedence over val and val over
    train, and the images of the other splits are dropped.

    If the source has no test or no val, that share of the train units is drawn by a hash of each unit's smallest key.
    An image therefore keeps its split when others are added, except if it joins a group of duplicates, or is the one
    that its class keeps in train. At least one unit is drawn, but never the last one that another split needs. One
    unit of each class stays in train, the one that would be drawn last: a model cannot recognize a class of which it
    has seen no image.

    Args:
        duplicates: Group of duplicates of each image, int64 (N,).
        units: Images with the same number are drawn together, int64 (N,): the groups of duplicates, or larger ones.
        keys: First 64 bits of the SHA-256 of each image's bytes, uint64 (N,).
        given: Split number that the source assigns, or NONE, int64 (N,).
        fractions: Share of val and of test to draw, 0 to 1.
        classes: Class number of each image, or NONE, int64 (N,); None if no image has a class.

    Returns:
        int64 (N,).
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
    """Return the unit with the largest place of each class.

    Args:
        classes: Class number of each image, or NONE, shape (N,).
        units: Unit of each image, as an index into `places`, shape (N,).
        places: Place of each unit, shape (U,).
    """
    known = classes != NONE
    classes, units = classes[known], units[known]
    order = np.lexsort((units, places[units], classes))
    ends = np.flatnonzero(np.diff(classes[order], append=-1))
    return np.unique(units[order[ends]])


def _reduce(function: np.ufunc, values: NDArray, groups: NDArray[np.int64], start: int) -> NDArray:
    """Reduce the values of each group by `function`; the result is `start` for a group without values."""
    result = np.full(int(groups.max(initial=-1)) + 1, start, dtype=values.dtype)
    function.at(result, groups, values)
    return result


def _places(keys: NDArray[np.uint64], salt: str) -> NDArray[np.float64]:
    """Return a place in [0, 1) for each key, shape (N,)."""
    # The smallest key of a large group is a small number, so it is hashed again to be uniform.
    digests = b"".join(hashlib.sha256(salt.encode() + key.tobytes()).digest()[:8] for key in keys.astype(">u8"))
    return np.frombuffer(digests, dtype=">u8").astype(np.float64) / 2.0**64
