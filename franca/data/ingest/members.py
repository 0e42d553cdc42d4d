"""Which members of a tar are images, and the labels that belong to them."""

from pathlib import PurePosixPath
from tarfile import TarInfo

from franca.data.ingest.tars import Tar, member_name, member_problem, replaced
from franca.data.ingest.webdataset import Entry, find_samples
from franca.data.store.files.names import hidden, printable, suffix
from franca.data.store.images.decode import SUFFIXES, looks_like_image

_HEAD = 64
"""First bytes that tell the format of an image."""
_LONGEST_LABEL = 1 << 10
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
    """Return the images of any other tar by their positions among its members."""
    names = [member_name(member) for member in tar.members]
    old = replaced(names)
    found = {}
    for i, (name, member) in enumerate(zip(names, tar.members, strict=True)):
        if not hidden(name) and (suffix(name) in SUFFIXES or _begins_as_image(tar, name, member)):
            later = "a later file of the tar has the same name" if i in old else None
            found[i] = Entry(problem=later or member_problem(member))
    return found


def read_label(tar: Tar, member: TarInfo) -> tuple[str | None, str | None]:
    """Return the class that a label names, or why it names none."""
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
    return not suffix(name) and not member_problem(member) and looks_like_image(tar.read(member, _HEAD))
