"""Names of files and classes: their suffix, which ones to pass over, how they are stored and how they are shown."""

import re
from pathlib import Path, PurePosixPath
from urllib.parse import quote

_SYSTEM = frozenset(
    {
        "__macosx",
        "@eadir",
        "@recently-snapshot",
        "@recycle",
        "@tmp",
        "#recycle",
        "#snapshot",
        "$recycle.bin",
        "desktop.ini",
        "ehthumbs.db",
        "found.000",
        "icon\r",
        "lost+found",
        "lost.dir",
        "network trash folder",
        "recycler",
        "system volume information",
        "temporary items",
        "thumbs.db",
    }
)
"""What macOS, Windows, Android and network storages (Synology, QNAP) put into folders, in lower case."""
_NOT_FOR_SCREENS = re.compile(
    r"[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]"
)
"""Control characters, line breaks, changes of the writing direction, and bytes that are not UTF-8."""


def suffix(name: str) -> str:
    """Return the suffix in lower case with its dot, or an empty string.

    A number is no suffix: `frame.0001` has none.
    """
    found = PurePosixPath(name).suffix.lower()
    return "" if found[1:].isdigit() else found


def kind(name: str) -> str:
    """Return what to count a file under that is left alone."""
    return as_text(suffix(name)) or "without suffix"


def hidden(name: str) -> bool:
    """Whether a part of the path begins with a dot, or belongs to an operating system."""
    parts = PurePosixPath(name).parts
    return any(part != ".." and (part.startswith(".") or part.lower() in _SYSTEM) for part in parts)


def as_text(name: str) -> str:
    """Return the name as JSON, Parquet and CSV files store it: unchanged if it is valid UTF-8.

    Linux allows other bytes in names. Such a name becomes `//` and its bytes, percent-encoded. No path inside a folder
    begins with two slashes, so the two forms never meet. `urllib.parse.unquote_to_bytes(text[2:])` gives the bytes
    back.
    """
    try:
        content = name.encode()
    except UnicodeEncodeError:
        content = name.encode("utf-8", "surrogateescape")
    else:
        if not name.startswith("//"):
            return name
    return f"//{quote(content)}"


def printable(name: str | Path) -> str:
    """Return the name for a message on a screen or in a log: characters that break or reorder a line are escaped."""
    return _NOT_FOR_SCREENS.sub(lambda found: found[0].encode("unicode_escape").decode(), str(name))
