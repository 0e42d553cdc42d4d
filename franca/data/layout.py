"""What the folders around an image mean: the split it belongs to, and its class.

Everything is judged from all folders together, since one folder alone tells nothing: `train` is a split beside `test`,
and a class beside `bus`.
"""

import re
from collections.abc import Collection, Mapping
from typing import NamedTuple

from franca.data.index import SplitName
from franca.data.names import printable
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

    A common beginning is taken off if all folders have it and train is one of several splits: `bullet_train` is a
    class among others.
    """
    found = {name: _PREFIXED.fullmatch(name) for name in names}
    prefixed = {name: (match[1], _WORDS[match[2].lower()]) for name, match in found.items() if match}
    splits = {split for _, split in prefixed.values()}
    one_prefix = len(prefixed) == len(names) and len({prefix for prefix, _ in prefixed.values()}) == 1
    if one_prefix and len(splits) > 1 and "train" in splits:
        return {name: split for name, (_, split) in prefixed.items()}
    return {name: split for name in names if (split := split_of(name))}


def split_of_shard(stem: str) -> SplitName | None:
    """Return the split that a webdataset tar is named after."""
    found = _SPLIT_SHARD.fullmatch(stem)
    return _WORDS[found[1].lower()] if found else None


def read_layout(examples: Mapping[Folders, str], where: str) -> dict[Folders, Place]:
    """Return what each of the folders that hold images means.

    A level is one of splits if all images lie in folders named after splits there. A lone folder that holds everything
    means nothing, nor do several of them below one another. The class is the first folder that is neither.

    Args:
        examples: The name of an image in each of the folders, for messages.
        where: The source, for messages.

    Raises:
        FrancaError: Some images lie in split folders and others beside them.
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
    """Return how deep the split folders lie, None if there are none."""
    for level in range(max(map(len, examples), default=0)):
        splits = _splits_of({folders[level] for folders in examples if len(folders) > level})
        named = {
            folders: splits[folders[level]]
            for folders in examples
            if folders[level : level + 1] and folders[level] in splits
        }
        if len(named) == len(examples):
            return level
        beside: dict[Folders, dict[SplitName, str]] = {}
        for folders, split in named.items():
            beside.setdefault(folders[:level], {})[split] = folders[level]
        for names in beside.values():
            if len(names) > 1:
                stray = printable(next(name for folders, name in examples.items() if folders not in named))
                listed = printable(" and ".join(sorted(names.values())))
                raise FrancaError(
                    f"{where}: {stray} lies beside the split folders {listed}; put all images into train, val or test"
                )
    return None


def _wrappers(inner: Collection[tuple[SplitName | None, Folders]]) -> int:
    """Return how many folders, from the first, hold everything, and so name no class.

    In split folders, one that repeats the split's name (`training_set/training_set`) counts as well.
    """
    levels = 0
    while inner and all(len(folders) > levels for _, folders in inner):
        names = {folders[levels] for _, folders in inner}
        repeated = _splits_of(names)
        if len(names) > 1 and not all(split and repeated.get(folders[levels]) == split for split, folders in inner):
            break
        levels += 1
    ends = [len(folders) == levels for _, folders in inner]
    # Images directly in the last of them, beside folders of others: then it is all that these have in common.
    return levels - 1 if levels and any(ends) and not all(ends) else levels
