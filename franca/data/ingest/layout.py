"""What the folders around an image mean: the split it belongs to, and its class.

A folder's meaning depends on its siblings: `train` is a split if its sibling is `test`, and a class if its sibling is
`bus`.
"""

import re
from collections.abc import Collection, Mapping
from typing import NamedTuple

from franca.data.store.files.names import printable
from franca.data.store.index import SplitName
from franca.errors import FrancaError

Folders = tuple[str, ...]
"""Names of the folders that a file lies in, from the source's own downward."""

_WORDS: dict[str, SplitName] = {
    "train": "train",
    "training": "train",
    "trainval": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "dev": "val",
    "test": "test",
    "testing": "test",
    "eval": "test",
    "evaluation": "test",
}
_SPLIT = rf"({'|'.join(_WORDS)})"
_SPLIT_FOLDER = re.compile(rf"{_SPLIT}(?:[-_ .]*(?:set|split|data|dataset|images?|imgs?))?(?:[-_ .]*\d{{4}})?", re.I)
"""A split's name alone, or as in `training_set`, `test-images`, `val2017`."""
_PREFIXED = re.compile(rf"(.+[-_ .]){_SPLIT}", re.I)
"""A split's name behind a word that all splits share: `seg_train`, `seg_test`."""
_PART = re.compile(rf"{_SPLIT}[-_ .]*(?:(?:part|fold|batch|extra)[-_ .]*\d*|\d+)", re.I)
"""One of several folders of a split: `train_part1`, `test1`."""
_WITH_SPLIT = re.compile(rf"(?:.*[-_ .])?{_SPLIT}(?:[-_ .].*|\d.*)?", re.I)
"""A split's name among other words: `test1`, `my_val`, `train-extra`."""
_OUTSIDE = re.compile(
    r"(?:.*[-_ .])?(?:unlabell?ed|unsup|pred|prediction|predict|extra|submission)s?(?:[-_ .]*\d+)?", re.I
)
"""What data sets call images outside their splits, such as those of a competition to be predicted."""
_SPLIT_SHARD = re.compile(rf"(?:.*[-_.])?{_SPLIT}(?:[-_.]*\d+)*", re.I)
"""A split's name before the number of a shard: `train-00017`, `imagenet-val-000003`."""


class Place(NamedTuple):
    """What the folders of an image say; None if they say nothing."""

    split: SplitName | None
    class_name: str | None


def split_of(folder: str) -> SplitName | None:
    """Return the split that a folder is named after."""
    found = _SPLIT_FOLDER.fullmatch(folder)
    return _WORDS[found[1].lower()] if found else None


def _splits_of(names: Collection[str]) -> dict[str, SplitName]:
    """Return the splits that folders of one level are named after; other folders are left out.

    A common prefix is removed if train and another split have it (`seg_train`, `seg_test`). `bullet_train` alone is a
    class.
    """
    plain = {name: split for name in names if (split := split_of(name))}
    if _has_train_and_other(plain):
        return plain
    groups: dict[str, dict[str, SplitName]] = {}
    for name in sorted(names):
        if match := _PREFIXED.fullmatch(name):
            groups.setdefault(match[1].lower(), {})[name] = _WORDS[match[2].lower()]
    complete = [group for group in groups.values() if _has_train_and_other(group)]
    return max(complete, key=len, default=plain)


def _has_train_and_other(splits: Mapping[str, SplitName]) -> bool:
    return "train" in splits.values() and len(set(splits.values())) > 1


def split_of_shard(stem: str) -> SplitName | None:
    """Return the split that a webdataset tar is named after."""
    found = _SPLIT_SHARD.fullmatch(stem)
    return _WORDS[found[1].lower()] if found else None


def split_shards(stems: Collection[str]) -> bool:
    """Whether all tars are shards of splits, train among them: `train-000`, `val-000`.

    They are numbered or share a prefix; `bullet_train` and `crash_test` are classes.
    """
    found = {stem: _SPLIT_SHARD.fullmatch(stem) for stem in stems}
    prefixes = {stem[: match.start(1)].lower() for stem, match in found.items() if match}
    numbered = all(stem[-1:].isdigit() for stem in stems)
    return all(found.values()) and "train" in map(split_of_shard, stems) and (numbered or len(prefixes) == 1)


def read_layout(examples: Mapping[Folders, str], where: str) -> dict[Folders, Place]:
    """Return what each of the folders that hold images means.

    A level is one of splits if all images are in folders named after splits there. Folders that contain all images
    are ignored, also if several are nested. The class is the first folder that is neither.

    Args:
        examples: The name of an image in each of the folders, for messages.
        where: The source, for messages.

    Raises:
        FrancaError: Some images are in split folders and others are not, or a folder next to a split folder looks
            like another split.
    """
    level = _split_level(examples, where)
    named = {} if level is None else _splits_of({folders[level] for folders in examples})
    splits = {folders: None if level is None else named[folders[level]] for folders in examples}
    rest = {folders: folders if level is None else folders[:level] + folders[level + 1 :] for folders in examples}
    skip = _wrappers([(splits[folders], rest[folders]) for folders in examples])
    return {
        folders: Place(splits[folders], rest[folders][skip] if len(rest[folders]) > skip else None)
        for folders in examples
    }


def _split_level(examples: Mapping[Folders, str], where: str) -> int | None:
    """Return the level of the split folders, None if there are none."""
    for level in range(max(map(len, examples), default=0)):
        splits = _splits_of({folders[level] for folders in examples if len(folders) > level})
        named = {
            folders: splits[folders[level]]
            for folders in examples
            if folders[level : level + 1] and folders[level] in splits
        }
        if len(named) == len(examples):
            return level
        siblings: dict[Folders, set[str]] = {}
        for folders in examples:
            if len(folders) > level:
                siblings.setdefault(folders[:level], set()).add(folders[level])
        for names in siblings.values():
            found = {splits[name]: name for name in sorted(names) if name in splits}
            if len(found) > 1:
                stray = printable(next(name for folders, name in examples.items() if folders not in named))
                listed = printable(" and ".join(sorted(found.values())))
                raise FrancaError(
                    f"{where}: {stray} is next to the split folders {listed}; put all images into train, val or test"
                )
            _reject_doubtful_splits(names, set(found), where)
    return None


def _reject_doubtful_splits(names: Collection[str], splits: Collection[SplitName], where: str) -> None:
    """Raise if sibling folders are splits by some of their names only: their images would become classes."""
    parts = {name: _WORDS[match[1].lower()] for name in sorted(names) if (match := _PART.fullmatch(name))}
    others = [name for name in sorted(names) if split_of(name) is None]
    doubtful: str | None = None
    if len(splits) == 1:
        (split,) = splits
        doubtful = next((name for name in others if name in parts or _is_other_split(name, split)), None)
    elif len(parts) == len(names) and _has_train_and_other(parts):
        doubtful = next(iter(parts))
    if doubtful:
        listed = ", ".join(sorted(names)[:4])
        raise FrancaError(
            f"{where}: the folders {printable(listed)} look like splits, but {printable(doubtful)} is not named like "
            "one; name split folders train, val and test and move or remove the others, or rename the classes"
        )


def _is_other_split(name: str, split: SplitName) -> bool:
    match = _WITH_SPLIT.fullmatch(name)
    return bool(match and _WORDS[match[1].lower()] != split) or bool(_OUTSIDE.fullmatch(name))


def _wrappers(inner: Collection[tuple[SplitName | None, Folders]]) -> int:
    """Return how many folders, from the first, contain all images, and so name no class.

    In split folders, one that repeats the split's name (`training_set/training_set`) counts as well.
    """
    levels = 0
    lone = False
    while inner and all(len(folders) > levels for _, folders in inner):
        names = {folders[levels] for _, folders in inner}
        repeated = _splits_of(names)
        repeats = all(split and repeated.get(folders[levels]) == split for split, folders in inner)
        if len(names) > 1 and not repeats:
            break
        lone = not repeats
        levels += 1
    below = [folders[levels:] for _, folders in inner if len(folders) > levels]
    # Images directly in the last of them, next to a folder of others: it is the only class that all of them have.
    # If there are several folders, these are classes, and the images without one are an error of the source.
    if lone and 0 < len(below) < len(inner) and not _branches(below):
        return levels - 1
    return levels


def _branches(paths: Collection[Folders]) -> bool:
    """Whether the paths differ at some level."""
    return any(len({path[level] for path in paths if len(path) > level}) > 1 for level in range(max(map(len, paths))))
