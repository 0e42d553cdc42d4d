"""A dense set: images and segmentation masks of the same names, in `images/` and `masks/`, and `classes.json`."""

import json
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath

from pydantic import ValidationError

from franca.data.ingest.path_labels import split_of
from franca.data.ingest.sources.masks import DenseClasses, MaskSource, Readers, read_pair
from franca.data.ingest.sources.source import Sample
from franca.data.ingest.tars import member_name, member_problem, open_tar, replaced
from franca.data.store.files.folders import Unreadable, file_size, list_files, read_file, require_file
from franca.data.store.files.names import as_text, kind, printable, suffix
from franca.data.store.images.file_types import SUFFIXES
from franca.data.store.index import SPLITS, SplitName
from franca.errors import FrancaError
from franca.params import fault_lines

_CLASSES = "classes.json"


class DenseSource(MaskSource):
    """Images with segmentation masks in a local folder.

    The set consists of parts, which are folders or tars named after splits such as `train`, `val` and `test`; without
    them, the folder itself is the only part. Images are named SCENE_NUMBER: images of one part with the same name up
    to the last underscore are one scene.
    """

    layout = "images and masks"
    split_unit = "scenes (names up to the last underscore)"

    def __init__(self, folder: Path, key: str) -> None:
        """List the files and read `classes.json`.

        Args:
            folder: The folder of the set.
            key: The parameter that names it, for messages.

        Raises:
            FrancaError: There is no such folder, `classes.json` is missing or invalid, two parts are for the same
                split, or there are images or tars next to the parts.
        """
        self._folder = folder
        self.place, self.title = str(folder), printable(folder)
        self.ignored = Counter[str]()
        self.bytes_read = 0
        files = list_files(folder, key)
        self.classes = _read_classes(folder / _CLASSES)
        self.total_bytes = sum(file_size(folder / name) for name in files if name != _CLASSES)
        parts = self._find_parts(files)
        self._parts: list[tuple[SplitName | None, Path]] = [
            (split, folder / parts[split]) for split in SPLITS if split in parts
        ]
        if not self._parts:
            self._parts = [(None, folder)]
            return
        others = [name for name in files if name.partition("/")[0] not in parts.values() and name != _CLASSES]
        self.ignored.update(map(kind, others))
        stray = next((name for name in others if suffix(name) in {*SUFFIXES, ".tar"}), None)
        if stray:
            raise FrancaError(
                f"{self.title}: {printable(stray)} is next to {' and '.join(parts.values())}; put all images and "
                "masks into train, val or test"
            )

    def __iter__(self) -> Iterator[Sample]:
        """Yield the samples of each part, by name; a sample without image or without mask has a problem."""
        for split, path in self._parts:
            with _open_part(path) as readers:
                images = _by_stem(readers, "images", SUFFIXES)
                masks = _by_stem(readers, "masks", frozenset({".png"}))
                used = {*images.values(), *masks.values(), _CLASSES}
                self.ignored.update(kind(name) for name in readers.keys() - used)
                for stem in sorted(images.keys() | masks.keys()):
                    file = images.get(stem) or masks[stem]
                    name = as_text(file if path == self._folder else f"{path.name}/{file}")
                    image, mask, problem = read_pair(readers, images.get(stem), masks.get(stem))
                    if problem:
                        yield Sample(name, b"", split=split, problem=problem)
                        continue
                    scene = f"{split}/{stem.rpartition('_')[0] or stem}"
                    yield Sample(name, image, split=split, mask=mask, scene=scene)
                    self.bytes_read += len(image) + len(mask)
            if not images:
                raise FrancaError(
                    f"{printable(path)}: no image under images/; a dense set has images/ and masks/, in train, val "
                    "and test folders or tars if it is split"
                )

    def _find_parts(self, files: list[str]) -> dict[SplitName, str]:
        """Return the folders and tars named after splits."""
        parts: dict[SplitName, str] = {}
        for name in sorted({name.partition("/")[0] for name in files}):
            split = split_of(name.removesuffix(".tar"))
            if split and (self._folder / name).is_dir() == (not name.endswith(".tar")):
                if split in parts:
                    raise FrancaError(f"{self.title}: both {parts[split]} and {name} are for {split}; keep one")
                parts[split] = name
        return parts


def _read_classes(path: Path) -> DenseClasses:
    try:
        # Editors on Windows start UTF-8 files with a byte order mark, which json.loads refuses.
        return DenseClasses.model_validate(json.loads(read_file(path).decode("utf-8-sig")))
    except Unreadable as error:
        reason = "no such file" if not path.exists() else error
        raise FrancaError(f'{path}: {reason}; write {{"classes": [names], "ignore": 255}} there') from None
    except ValidationError as error:
        raise FrancaError("\n".join(f"{path}: {line}" for line in fault_lines(error, DenseClasses))) from None
    except ValueError as error:
        raise FrancaError(f"{path}: not valid JSON: {error}") from None


@contextmanager
def _open_part(path: Path) -> Iterator[Readers]:
    """Open a folder or a tar; yields a reader for each file in it."""
    if path.is_dir():
        names = list_files(path, "prepare.dense_source")
        yield {name: lambda name=name: read_file(path / name) for name in names}  # type: ignore[misc]
        return
    with require_file(path) as file, open_tar(file, printable(path)) as tar:
        names = [member_name(member) for member in tar.members]
        if twice := replaced(names):
            name = printable(names[min(twice)])
            raise FrancaError(f"{printable(path)}: it holds {name} twice; keep one and pack it again")
        yield {
            member_name(member): lambda member=member: tar.read(member)  # type: ignore[misc]
            for member in tar.members
            if not member_problem(member)
        }


def _by_stem(readers: Readers, folder: str, suffixes: frozenset[str]) -> dict[str, str]:
    """Return the names of the files under `folder` by their path below it without suffix.

    Raises:
        FrancaError: Two files differ only in their suffix.
    """
    found: dict[str, str] = {}
    for name in readers:
        path = PurePosixPath(name)
        if path.parts[0] == folder and suffix(name) in suffixes and not path.name.startswith("."):
            stem = path.relative_to(folder).with_suffix("").as_posix()
            if stem in found:
                raise FrancaError(
                    f"{printable(name)}: {printable(found[stem])} has the same stem; a mask would belong to both"
                )
            found[stem] = name
    return found
