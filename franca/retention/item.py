"""One thing that can be deleted."""

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple


class Item(NamedTuple):
    """Something that is no longer needed."""

    kind: str
    """what it is, in words"""
    name: str
    reason: str
    """why it is not needed, as a clause"""
    size: int
    """bytes on this disk that deleting it frees; 0 if it is not here"""
    remove: Callable[[], object]


def size_of(folder: Path) -> int:
    """Return the bytes that a folder's files take on disk; a file that disappears meanwhile counts 0."""
    total = 0
    for path in folder.rglob("*"):
        try:
            total += path.lstat().st_blocks * 512
        except FileNotFoundError:
            continue
    return total
