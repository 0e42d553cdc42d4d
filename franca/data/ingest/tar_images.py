"""Find the images among the members of a tar, and read their labels."""

from pathlib import PurePosixPath
from tarfile import TarInfo

from franca.data.ingest.tars import Tar, member_name, member_problem, replaced
from franca.data.ingest.webdataset_keys import Entry, find_samples
from franca.data.store.files.names import hidden, printable, suffix
from franca.data.store.images.file_types import MAGIC_BYTES, SUFFIXES, looks_like_image

_LONGEST_LABEL = 1 << 10
"""In bytes."""
_SPACE = " \t\r\n\v\f\0"


def images_of_samples(tar: Tar, where: str) -> dict[int, Entry]:
    """Return the images of a webdataset tar by their positions among its members."""
    names = [member_name(member) for member in tar.members]
    seen = [i for i, name in enumerate(names) if not hidden(name)]
    found = {}
    for i, entry in find_samples([names[i] for i in seen], where).items():
        label = None if entry.label is None else seen[entry.label]
        found[seen[i]] = Entry(label, entry.problem or member_problem(tar.members[seen[i]]))
    return found


def all_images(tar: Tar) -> dict[int, Entry]:
    """Return the images of a tar that has no webdataset samples, by their positions among its members."""
    names = [member_name(member) for member in tar.members]
    old = replaced(names)
    found = {}
    for i, (name, member) in enumerate(zip(names, tar.members, strict=True)):
        if not hidden(name) and (suffix(name) in SUFFIXES or _begins_as_image(tar, name, member)):
            later = "a later file of the tar has the same name" if i in old else None
            found[i] = Entry(problem=later or member_problem(member))
    return found


def read_label(tar: Tar, member: TarInfo) -> tuple[str | None, str | None]:
    """Return the class in a label file, or None and the reason why it cannot be used."""
    name = printable(PurePosixPath(member.name).name)
    problem = member_problem(member)
    if problem:
        return None, f"its label {name} is unusable: {problem}"
    if member.size > _LONGEST_LABEL:
        return None, f"its label {name} has {member.size:,} bytes, more than {_LONGEST_LABEL:,}"
    try:
        text = tar.read(member).decode("utf-8-sig").strip(_SPACE)
    except UnicodeDecodeError:
        return None, f"its label {name} is not UTF-8 text"
    return (text, None) if text else (None, f"its label {name} is empty")


def _begins_as_image(tar: Tar, name: str, member: TarInfo) -> bool:
    """Return whether a member has no suffix and its first bytes are those of an image."""
    return not suffix(name) and not member_problem(member) and looks_like_image(tar.read(member, MAGIC_BYTES))
