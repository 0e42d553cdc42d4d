"""Records of bytes by number, packed into a few large files or left in shards elsewhere."""

import hashlib
import io
import os
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Protocol, Self

import numpy as np
from numpy.typing import NDArray

from franca.data.store.in_place import InPlaceReader
from franca.data.store.index import Index, IndexWriter, LostRecord, Shard
from franca.errors import FrancaError

SHARD_BYTES = 1 << 30
"""Largest length of a file of a pack, unless one record is longer."""


class PackWriter:
    """Appends records of bytes with integer columns. `close` writes the index, without which they cannot be read.

    As a context manager, it closes its open file on errors as well; a full disk frees deleted files only then.
    """

    def __init__(self, folder: Path) -> None:
        """Create `folder`, which will contain the pack."""
        self._index = IndexWriter(folder)
        self._folder = folder
        self._shards: list[Shard] = []
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
        """Append one record. All records have the same columns."""
        if self._file is None or self._file.tell() + len(content) > SHARD_BYTES:
            self._close_shard()
            self._file = (self._folder / f"shard-{len(self._shards):05d}.bin").open("wb")
            self._digest = hashlib.sha256()
        self._index.append(shard=len(self._shards), offset=self._file.tell(), length=len(content), **columns)
        self._file.write(content)
        self._digest.update(content)

    def close(
        self, keep: NDArray[np.bool_] | None = None, max_lost: float = 0.0, **columns: NDArray[np.int64]
    ) -> dict[str, str]:
        """Flush to disk and write the index as `IndexWriter.write` does; return the SHA-256 of each file by name."""
        self._close_shard()
        return self._digests | self._index.write(None, self._shards, max_lost, keep, columns)

    def _close_shard(self) -> None:
        if self._file:
            self._file.flush()
            os.fsync(self._file.fileno())
            name = Path(self._file.name).name
            self._shards.append(Shard(name, self._file.tell()))
            self._digests[name] = self._digest.hexdigest()
            self._file.close()


class Reader(Protocol):
    """Reads records by row."""

    def read(self, rows: Sequence[int]) -> list[bytes | LostRecord]:
        """Return the bytes of each row, in the given order, or the reason why it cannot be read."""
        ...


class PackReader:
    """Reads a pack through memory maps, which each process opens on first use."""

    def __init__(self, index: Index) -> None:
        """Check the files; raises FrancaError if one is missing or too short."""
        self._index = index
        self._maps: dict[int, NDArray[np.uint8]] = {}
        for name, needed in index.shards:
            path = index.folder / name
            size = path.stat().st_size if path.is_file() else 0
            if size < needed:
                raise FrancaError(
                    f"{path}: {size} bytes where the index has {needed}; delete {index.folder.parent} and run"
                    " `dvc repro prepare`"
                )

    def __getstate__(self) -> dict[str, Any]:
        """Leave out the maps: pickled, they would be copies of the files."""
        return self.__dict__ | {"_maps": {}}

    def read(self, rows: Sequence[int]) -> list[bytes | LostRecord]:
        """Return the bytes of each row, in the given order."""
        places = zip(*(self._index.get(key, rows) for key in ("shard", "offset", "length")), strict=True)
        return [self._map(shard)[offset : offset + length].tobytes() for shard, offset, length in places]

    def _map(self, shard: int) -> NDArray[np.uint8]:
        if shard not in self._maps:
            path = self._index.folder / self._index.shards[shard].name
            self._maps[shard] = np.memmap(path, dtype=np.uint8, mode="r").view(np.ndarray)
        return self._maps[shard]


class Pack:
    """Read access to the records of an index, packed or in place: `pack[i]` returns the bytes of the i-th record."""

    def __init__(self, folder: Path) -> None:
        """Open the index in `folder`; raises FrancaError if it or its pack is damaged."""
        self.index = Index(folder)
        self._reader: Reader = PackReader(self.index) if self.index.place is None else InPlaceReader(self.index)

    def __len__(self) -> int:
        return len(self.index)

    def __getitem__(self, row: int) -> bytes:
        """Return the bytes of a record; raises FrancaError if it cannot be read."""
        (content,) = self.read([row])
        return content if isinstance(content, bytes) else content.raise_error()

    def read(self, rows: Sequence[int]) -> list[bytes | LostRecord]:
        """Return the bytes of each row, in the given order, or the reason why it cannot be read."""
        return self._reader.read(rows)

    def lost(self, row: int, reason: str) -> LostRecord:
        """Describe a record of which the bytes are invalid for `reason`."""
        (shard,), (offset,) = self.index.get("shard", [row]), self.index.get("offset", [row])
        return LostRecord(self.index.where(shard), f"its record at byte {offset} {reason}")
