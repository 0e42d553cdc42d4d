"""Records of bytes by number: packed one after the other into few large files, or left in shards elsewhere."""

import hashlib
import io
import os
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Protocol, Self

import numpy as np
from numpy.typing import NDArray

from franca.data.store.index import Index, IndexWriter, Lost, Shard
from franca.data.store.shards import InPlaceReader
from franca.errors import FrancaError

SHARD_BYTES = 1 << 30


class PackWriter:
    """Append records of bytes with integer columns; `close` writes the index, without which nothing is readable.

    As a context it lets go of its file on the way out, also from a fault, so that a full disk can be emptied again.
    """

    def __init__(self, folder: Path) -> None:
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
        """Append one record; every record has the same columns."""
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
        """Flush to disk and write the index as `IndexWriter.write` does; returns the SHA-256 of each file."""
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
    def read(self, rows: Sequence[int]) -> list[bytes | Lost]:
        """The bytes of the rows, in the order asked for, or why there are none."""
        ...


class PackReader:
    """Reads what `PackWriter` wrote through memory maps; FrancaError where a file ends before its last record does."""

    def __init__(self, index: Index) -> None:
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
        return self.__dict__ | {"_maps": {}}

    def read(self, rows: Sequence[int]) -> list[bytes | Lost]:
        places = zip(*(self._index.get(key, rows) for key in ("shard", "offset", "length")), strict=True)
        return [self._map(shard)[offset : offset + length].tobytes() for shard, offset, length in places]

    def _map(self, shard: int) -> NDArray[np.uint8]:
        if shard not in self._maps:
            path = self._index.folder / self._index.shards[shard].name
            self._maps[shard] = np.memmap(path, dtype=np.uint8, mode="r").view(np.ndarray)
        return self._maps[shard]


class Pack:
    """Read access to records, wherever they lie: `pack[i]` is the i-th record's bytes."""

    def __init__(self, folder: Path) -> None:
        self.index = Index(folder)
        self._reader: Reader = PackReader(self.index) if self.index.place is None else InPlaceReader(self.index)

    def __len__(self) -> int:
        return len(self.index)

    def __getitem__(self, row: int) -> bytes:
        """FrancaError where the record cannot be read."""
        (content,) = self.read([row])
        return content if isinstance(content, bytes) else content.tell()

    def read(self, rows: Sequence[int]) -> list[bytes | Lost]:
        """The bytes of the rows, in the order asked for, or why there are none."""
        return self._reader.read(rows)

    def lost(self, row: int, reason: str) -> Lost:
        """What to say of a record whose bytes are no good."""
        (shard,), (offset,) = self.index.get("shard", [row]), self.index.get("offset", [row])
        return Lost(self.index.where(shard), f"its record at byte {offset} {reason}")
