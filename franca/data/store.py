"""The prepared store: encoded images packed into few large files beside one index, read through memory maps.

prepared/manifest.json                  counts, splits, hashes, channel statistics, refused images
prepared/images/{shard-00000.bin, …}    the images' own bytes, one after the other
prepared/images/index.npz               a row an image: shard, offset, length, height, width, label, split
prepared/dense/{images,masks}/…         the same for the dense set, where there is one
"""

import hashlib
import io
import os
from array import array
from collections.abc import Sequence
from contextlib import suppress
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, Self
from zipfile import BadZipFile

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from franca.data.images import decode
from franca.errors import FrancaError
from franca.files import read_json, sha256_file, write_bytes

SplitName = Literal["train", "val", "test"]
SPLITS: tuple[SplitName, ...] = ("train", "val", "test")
SHARD_BYTES = 1 << 30


class PackWriter:
    """Append records of bytes with integer columns; `close` writes the index, without which nothing is readable.

    As a context it lets go of its file on the way out, also from a fault, so that a full disk can be emptied again.
    """

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder
        self._columns: dict[str, array[int]] = {name: array("q") for name in ("shard", "offset", "length")}
        self._digests: dict[str, str] = {}
        self._file: io.BufferedWriter | None = None
        self._digest = hashlib.sha256()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *fault: object) -> None:
        if self._file:
            with suppress(OSError):
                self._file.close()

    def add(self, content: bytes, **columns: int) -> None:
        """Append one record; every record has the same columns."""
        if self._file is None or self._file.tell() + len(content) > SHARD_BYTES:
            self._close_shard()
            self._file = (self._folder / f"shard-{len(self._digests):05d}.bin").open("wb")
            self._digest = hashlib.sha256()
        place = {"shard": len(self._digests), "offset": self._file.tell(), "length": len(content)}
        for name, value in (place | columns).items():
            self._columns.setdefault(name, array("q")).append(value)
        self._file.write(content)
        self._digest.update(content)

    def close(self, keep: NDArray[np.bool_] | None = None, **columns: NDArray[np.int64]) -> dict[str, str]:
        """Flush to disk; returns the SHA-256 of each file by its name.

        `keep` (one flag a record) leaves records out of the index; `columns` (one value a record) adds what was not
        known when the records came.
        """
        self._close_shard()
        index = {name: np.array(values, dtype=np.int64) for name, values in self._columns.items()} | columns
        if keep is not None:
            index = {name: values[keep] for name, values in index.items()}
        buffer = io.BytesIO()
        np.savez(buffer, **index)  # type: ignore[arg-type]
        write_bytes(self._folder / "index.npz", buffer.getvalue())
        return self._digests | {"index.npz": hashlib.sha256(buffer.getvalue()).hexdigest()}

    def _close_shard(self) -> None:
        if self._file:
            self._file.flush()
            os.fsync(self._file.fileno())
            self._file.close()
            self._digests[Path(self._file.name).name] = self._digest.hexdigest()


class Pack:
    """Read access to what `PackWriter` wrote: `pack[i]` is the i-th record's bytes."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        try:
            with np.load(folder / "index.npz", allow_pickle=False) as index:
                self.columns: dict[str, NDArray[np.int64]] = {name: index[name] for name in index.files}
        except (OSError, ValueError, BadZipFile) as error:
            raise FrancaError(f"{folder}: no readable prepared store ({error}); run `dvc repro prepare`") from None
        self._maps: dict[int, NDArray[np.uint8]] = {}
        for shard in np.unique(self.columns["shard"]):
            self._check(int(shard))

    def _path(self, shard: int) -> Path:
        return self._folder / f"shard-{shard:05d}.bin"

    def _check(self, shard: int) -> None:
        """Refuse a shard that is missing or ends before its last record does."""
        rows = self.columns["shard"] == shard
        needed = int((self.columns["offset"] + self.columns["length"])[rows].max())
        path = self._path(shard)
        size = path.stat().st_size if path.is_file() else 0
        if size < needed:
            raise FrancaError(
                f"{path}: {size} bytes where the index has {needed}; delete {self._folder.parent} and run"
                " `dvc repro prepare`"
            )

    def __len__(self) -> int:
        return len(self.columns["offset"])

    def __getitem__(self, index: int) -> bytes:
        shard, offset, length = (int(self.columns[name][index]) for name in ("shard", "offset", "length"))
        if shard not in self._maps:
            self._maps[shard] = np.memmap(self._path(shard), dtype=np.uint8, mode="r")
        return self._maps[shard][offset : offset + length].tobytes()

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_maps": {}}


class ImageSet(Sequence[Image.Image]):
    """Images of one split, decoded to RGB when asked for.

    `labels` is int64 of shape (N,), class indices, -1 where an image has none.
    """

    def __init__(self, pack: Pack, rows: NDArray[np.int64], classes: list[str]) -> None:
        self._pack = pack
        self.rows = rows
        self.classes = classes
        self.labels = pack.columns["label"][rows] if "label" in pack.columns else np.full(len(rows), -1)

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: Any) -> Any:
        return decode(self._pack[int(self.rows[index])])


class DenseSet(ImageSet):
    """Images with segmentation masks."""

    def __init__(self, pack: Pack, masks: Pack, rows: NDArray[np.int64], classes: list[str], ignore: int) -> None:
        super().__init__(pack, rows, classes)
        self._masks = masks
        self.ignore = ignore

    def mask(self, index: int) -> NDArray[np.uint8]:
        """Class indices of shape (H, W), `ignore` where unlabelled."""
        return np.asarray(Image.open(io.BytesIO(self._masks[int(self.rows[index])])))


class Store:
    """A prepared folder, as `franca prepare` writes it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        path = folder / "manifest.json"
        if not path.is_file():
            raise FrancaError(f"{path}: no such file; run `dvc repro prepare` first")
        self.manifest: dict[str, Any] = read_json(path)

    @cached_property
    def digest(self) -> str:
        """SHA-256 of the manifest, which carries the hashes of all that is in the store."""
        return sha256_file(self.folder / "manifest.json")

    @cached_property
    def _images(self) -> Pack:
        return Pack(self.folder / "images")

    def images(self, split: SplitName) -> ImageSet:
        return ImageSet(self._images, _rows(self._images, split), self.manifest["classes"])

    def dense(self, split: SplitName) -> DenseSet | None:
        """The dense set's part, or None where the store has no dense set."""
        if self.manifest["dense"] is None:
            return None
        pack = Pack(self.folder / "dense/images")
        masks = Pack(self.folder / "dense/masks")
        about = self.manifest["dense"]
        return DenseSet(pack, masks, _rows(pack, split), about["classes"], about["ignore"])


def _rows(pack: Pack, split: SplitName) -> NDArray[np.int64]:
    return np.flatnonzero(pack.columns["split"] == SPLITS.index(split)).astype(np.int64)
