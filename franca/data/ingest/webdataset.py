"""The samples of a webdataset tar: which image each one has, and which label.

webdataset names the files of a sample KEY.SUFFIX, and takes what comes before the first dot for the key. A dot inside
keys (`IMG.0001.jpg`) would make one sample of the whole tar. So the key is read from the images: it is the shortest
beginning of a file's name, up to one of its dots, that is the whole name of an image without its suffix. For keys
without dots that is webdataset's own rule.
"""

import re
from collections.abc import Collection, Iterator, Sequence
from typing import NamedTuple

from franca.data.store.files.names import printable, suffix
from franca.data.store.images.decode import SUFFIXES
from franca.errors import FrancaError

LABEL = ".cls"
_SIDECARS = frozenset({".json", LABEL})
_ENDS = tuple(sorted({*SUFFIXES, *(end.upper() for end in SUFFIXES)}))
_MASKS = frozenset(
    {
        "alpha",
        "annotation",
        "annotations",
        "depth",
        "disparity",
        "edges",
        "flow",
        "gt",
        "heatmap",
        "instance",
        "instances",
        "label",
        "labels",
        "mask",
        "masks",
        "matte",
        "normal",
        "normals",
        "panoptic",
        "seg",
        "segm",
        "segmentation",
        "semantic",
        "trimap",
    }
)
"""Words before the suffix that tell a mask or another map of pixels from an image: `KEY.seg.png`."""


class Entry(NamedTuple):
    """An image of a tar: the position of its label among the tar's members if it has one, or why it is refused."""

    label: int | None = None
    problem: str | None = None


def is_mask(name: str) -> bool:
    """Whether a file is named like a mask, KEY.WORD.SUFFIX. It is one if there is also an image KEY.SUFFIX."""
    words = name.rpartition("/")[2].lower().split(".")[1:-1]
    return bool(words) and not _MASKS.isdisjoint(re.split(r"[-_\d]+", words[-1]))


def without_masks(names: Collection[str]) -> set[str]:
    """Leave out masks, KEY.seg.png, of other images, KEY.jpg."""
    images = set(names)
    return {name for name in images if not (is_mask(name) and _has_image(name, images))}


def find_samples(names: Sequence[str], where: str) -> dict[int, Entry]:
    """Return the images of the samples, by their positions in `names`, the names of the members of a tar.

    Of a sample's images, only KEY.SUFFIX is returned, not KEY.seg.png. A sample with several such images or with
    several labels is refused, since nothing tells which one counts.

    Raises:
        FrancaError: The tar has labels that belong to no image, and images without a label; or an image that is not
            KEY.SUFFIX has a label of its own.
    """
    kept = without_masks([name for name in names if suffix(name) in SUFFIXES])
    images = [i for i, name in enumerate(names) if name in kept]
    stems = {_stem(names[i]) for i in images}
    keys = [_key(name, stems) for name in names]
    pictures: dict[str, list[int]] = {}
    for i in images:
        if keys[i] == _stem(names[i]):
            pictures.setdefault(_stem(names[i]), []).append(i)
    _reject_labelled_extras(names, {names[i] for rows in pictures.values() for i in rows}, where)
    labels: dict[str, list[int]] = {}
    stray = None
    for i, name in enumerate(names):
        if suffix(name) == LABEL:
            key = keys[i]
            if key is None:
                stray = stray or name
            else:
                labels.setdefault(key, []).append(i)
    bare = next((names[rows[0]] for key, rows in pictures.items() if key not in labels), None)
    if stray is not None and bare is not None:
        raise FrancaError(
            f"{where}: label {printable(stray)} belongs to no image, and image {printable(bare)} has no label; "
            f"name the files of a sample KEY{suffix(bare)} and KEY{LABEL}"
        )
    found: dict[int, Entry] = {}
    for key, rows in pictures.items():
        entry = _entry(names, rows, labels.get(key, []))
        found |= dict.fromkeys(rows, entry)
    return found


def has_sidecars(names: Sequence[str]) -> bool:
    """Whether an image has a file of labels or metadata next to it, as in webdataset tars."""
    return _first_of(names, _SIDECARS) is not None


def first_label(names: Sequence[str]) -> str | None:
    """Return the first file that is the label of an image."""
    return _first_of(names, frozenset({LABEL}))


def _first_of(names: Sequence[str], suffixes: frozenset[str]) -> str | None:
    stems = {_stem(name) for name in names if suffix(name) in SUFFIXES}
    return next((name for name in names if suffix(name) in suffixes and _key(name, stems) is not None), None)


def _reject_labelled_extras(names: Sequence[str], images: set[str], where: str) -> None:
    """Raise if an image that would be left out, such as KEY.seg.png, has a label of its own: it is no mask."""
    labels = {_stem(name): name for name in names if suffix(name) == LABEL}
    for name in names:
        if suffix(name) in SUFFIXES and name not in images and _stem(name) in labels:
            label = printable(labels[_stem(name)])
            raise FrancaError(
                f"{where}: {printable(name)} has a label ({label}) but belongs to the sample of another image; "
                "give each image a key of its own, without dots"
            )


def _has_image(mask: str, images: set[str]) -> bool:
    key = _stem(_stem(mask))
    return any(f"{key}{end}" in images for end in _ENDS)


def _entry(names: Sequence[str], images: list[int], labels: list[int]) -> Entry:
    for what, positions in (("images", images), ("labels", labels)):
        if len(positions) > 1:
            listed = ", ".join(printable(names[i].rpartition("/")[2]) for i in positions[:3])
            more = ", …" if len(positions) > 3 else ""
            return Entry(problem=f"its sample has {len(positions)} {what} ({listed}{more})")
    return Entry(labels[0] if labels else None)


def _stem(name: str) -> str:
    return name.rpartition(".")[0]


def _key(name: str, stems: set[str]) -> str | None:
    """Return the key of the sample that a file belongs to, None if the sample has no image."""
    return next((start for start in _starts(name) if start in stems), None)


def _starts(name: str) -> Iterator[str]:
    """Yield the beginnings of a path up to each dot of its last part."""
    dot = name.find(".", name.rfind("/") + 1)
    while dot >= 0:
        yield name[:dot]
        dot = name.find(".", dot + 1)
