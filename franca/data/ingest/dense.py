"""A set of images with segmentation masks: `images/` and `masks/` of the same stems, beside `classes.json`."""

import io
import json
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import Self

import numpy as np
from PIL import Image
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from franca.data.ingest.layout import split_of
from franca.data.ingest.sources import Sample
from franca.data.ingest.tars import member_name, member_problem, open_tar, replaced
from franca.data.store.files.folders import Unreadable, file_size, list_files, read_file, require_file
from franca.data.store.files.names import as_text, kind, printable, suffix
from franca.data.store.images.decode import PNG_DEPTH, SUFFIXES
from franca.data.store.index import SPLITS, SplitName
from franca.errors import FrancaError
from franca.params import fault_lines


class DenseClasses(BaseModel):
    """`classes.json`: names in the order of their index, and the index of pixels without a class."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    classes: list[str] = Field(min_length=2, max_length=255)
    ignore: int = Field(ge=0, le=255)

    @model_validator(mode="after")
    def _distinct(self) -> Self:
        if self.ignore < len(self.classes):
            raise ValueError(f"ignore {self.ignore} is the index of class {self.classes[self.ignore]}")
        return self


class DenseSource:
    """A dense set on disk, listed; iterate to read it.

    Its parts are folders or tars named after splits, such as `train`, `val` and `test`, or the folder itself if there
    are none. Images are named SCENE_NUMBER: what shares the part and the name up to the last underscore is one scene.
    """

    layout = "images and masks"

    def __init__(self, folder: Path, key: str) -> None:
        self.folder = folder
        self.place, self.title = str(folder), printable(folder)
        self.ignored: Counter[str] = Counter()
        self.bytes_read = 0
        files = list_files(folder, key)
        self.about = _read_classes(folder / "classes.json")
        self.total_bytes = sum(file_size(folder / name) for name in files if name != "classes.json")
        parts: dict[SplitName, str] = {}
        for name in sorted({name.partition("/")[0] for name in files}):
            split = split_of(name.removesuffix(".tar"))
            if split and (folder / name).is_dir() == (not name.endswith(".tar")):
                if split in parts:
                    raise FrancaError(f"{self.title}: both {parts[split]} and {name} are for {split}; keep one")
                parts[split] = name
        self._parts: list[tuple[SplitName | None, Path]] = [
            (split, folder / parts[split]) for split in SPLITS if split in parts
        ]
        if not self._parts:
            self._parts = [(None, folder)]
            return
        beside = [name for name in files if name.partition("/")[0] not in parts.values() and name != "classes.json"]
        self.ignored.update(map(kind, beside))
        stray = next((name for name in beside if suffix(name) in {*SUFFIXES, ".tar"}), None)
        if stray:
            raise FrancaError(
                f"{self.title}: {printable(stray)} is next to {' and '.join(parts.values())}; put all images and "
                "masks into train, val or test"
            )

    def __iter__(self) -> Iterator[Sample]:
        for split, path in self._parts:
            with _open_part(path) as readers:
                images = _by_stem(readers, "images", SUFFIXES)
                masks = _by_stem(readers, "masks", frozenset({".png"}))
                used = {*images.values(), *masks.values(), "classes.json"}
                self.ignored.update(kind(name) for name in readers.keys() - used)
                for stem in sorted(images.keys() | masks.keys()):
                    name = images.get(stem) or masks[stem]
                    where = name if path == self.folder else f"{path.name}/{name}"
                    if stem not in images or stem not in masks:
                        missing = "image" if stem in masks else "mask"
                        yield Sample(as_text(where), b"", split=split, problem=f"it has no {missing}")
                        continue
                    try:
                        image = readers[images[stem]]()
                    except Unreadable as error:
                        yield Sample(as_text(where), b"", split=split, problem=str(error))
                        continue
                    try:
                        mask = readers[masks[stem]]()
                    except Unreadable as error:
                        yield Sample(as_text(where), b"", split=split, problem=f"its mask cannot be read: {error}")
                        continue
                    scene = f"{split}/{stem.rpartition('_')[0] or stem}"
                    yield Sample(as_text(where), image, split=split, mask=mask, scene=scene)
                    self.bytes_read += len(image) + len(mask)
            if not images:
                raise FrancaError(
                    f"{printable(path)}: no image under images/; a dense set has images/ and masks/, in train, val "
                    "and test folders or tars if it is split"
                )

    def check_mask(self, content: bytes, height: int, width: int) -> str | None:
        """What is wrong with a mask of an image of this size, or None."""
        try:
            image = Image.open(io.BytesIO(content), formats=("PNG",))
            mask = np.asarray(image)
        except Exception as error:  # as in decode: Pillow raises many kinds on bad bytes
            return f"its mask is not a readable PNG ({error})"
        if image.mode not in ("L", "P"):
            return f"its mask has mode {image.mode}; it must be an 8-bit index PNG"
        # Pillow scales gray of 2 and 4 bits to 0..255; what it returns are not the indices any more.
        if image.mode == "L" and content[PNG_DEPTH] != 8:
            return f"its mask is a gray PNG of {content[PNG_DEPTH]} bits; it must be an 8-bit index PNG"
        if mask.shape != (height, width):
            return f"its mask is {mask.shape[1]}x{mask.shape[0]}, the image {width}x{height}"
        values = np.flatnonzero(np.bincount(mask.ravel(), minlength=256))
        wrong = values[(values >= len(self.about.classes)) & (values != self.about.ignore)]
        if len(wrong):
            return f"its mask holds the value {wrong[0]}, which is no class and not ignore ({self.about.ignore})"
        return None


def _read_classes(path: Path) -> DenseClasses:
    try:
        return DenseClasses.model_validate(json.loads(read_file(path).decode()))
    except Unreadable as error:
        reason = "no such file" if not path.exists() else error
        raise FrancaError(f'{path}: {reason}; write {{"classes": [names], "ignore": 255}} there') from None
    except ValidationError as error:
        raise FrancaError("\n".join(f"{path}: {line}" for line in fault_lines(error, DenseClasses))) from None
    except ValueError as error:
        raise FrancaError(f"{path}: not valid JSON: {error}") from None


@contextmanager
def _open_part(path: Path) -> Iterator[dict[str, Callable[[], bytes]]]:
    """Readers of the files in a folder or tar, by their relative names."""
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


def _by_stem(readers: dict[str, Callable[[], bytes]], folder: str, suffixes: frozenset[str]) -> dict[str, str]:
    """Names under `folder` by their path below it without suffix."""
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
