"""Records that stay in their tars, local or remote: read by byte range, never unpacked or copied.

The index has the CRC-32 of each record, so bytes that have changed since `prepare` are detected. ETags cannot replace
it: they depend on how a file was uploaded, and a copy of the same shard elsewhere has another one.
"""

import time
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from franca.data.store.files.folders import open_folder, remote_fault
from franca.data.store.index import Index, IndexWriter, LostRecord, Shard
from franca.errors import FrancaError

PATIENCE = (1.0, 2.0, 4.0, 8.0, 16.0)
"""Seconds to wait before each retry if a storage does not answer. Its client has retried a few times by then."""
GAP = 64 << 10
"""Records that are at most so many bytes apart are read in one request."""
BLOCK = 8 << 20
"""A request of this many bytes takes no further record."""


class InPlaceWriter:
    """Writes the index of records that stay in their shards."""

    def __init__(self, folder: Path, place: str, shards: Sequence[Shard]) -> None:
        """Create the folder.

        Args:
            folder: The folder of the index.
            place: Path or URL of the folder of the shards.
            shards: The shards, by number.
        """
        self._index = IndexWriter(folder)
        self._place, self._shards = place, list(shards)

    def add(self, content: bytes, shard: int, offset: int) -> None:
        """Add one record: its bytes, the number of its shard, and the position of its first byte there."""
        self._index.append(shard=shard, offset=offset, length=len(content), crc=zlib.crc32(content))

    def close(
        self, keep: NDArray[np.bool_] | None = None, max_lost: float = 0.0, **columns: NDArray[np.int64]
    ) -> dict[str, str]:
        """Write the index as `IndexWriter.write` does; return the SHA-256 of each file by its name."""
        return self._index.write(self._place, self._shards, max_lost, keep, columns)


@dataclass(slots=True)
class _Block:
    """One request: bytes `start` to `stop` - 1 of a shard, and the requested records in them."""

    shard: int
    start: int
    stop: int
    records: list[int]


class InPlaceReader:
    """Reads records by byte range: neighbors in one request, all requests at once."""

    def __init__(self, index: Index) -> None:
        """Open the folder of the shards; nothing is read yet."""
        assert index.place is not None, "the records are in a pack"
        self._index = index
        self._folder = open_folder(index.place)

    def read(self, rows: Sequence[int]) -> list[bytes | LostRecord]:
        """Return the bytes of each row, in the given order; a `LostRecord` if its shard is missing or changed.

        Raises:
            FrancaError: Access is denied, or the storage does not answer after all waits of `PATIENCE`.
        """
        shards, offsets, lengths, sums = (self._index.get(key, rows) for key in ("shard", "offset", "length", "crc"))
        found: list[bytes | LostRecord] = [b""] * len(rows)
        blocks = _blocks(shards, offsets, lengths)
        for wait in (0.0, *PATIENCE):
            time.sleep(wait)
            unanswered: list[tuple[_Block, Exception]] = []
            for block, answer in zip(blocks, self._request(blocks), strict=True):
                if isinstance(answer, Exception):
                    lost = self._lost(block.shard, answer)
                    if lost is None:
                        unanswered.append((block, answer))
                    for i in block.records:
                        found[i] = lost or b""
                    continue
                for i in block.records:
                    content = answer[offsets[i] - block.start :][: lengths[i]]
                    whole = len(content) == lengths[i] and zlib.crc32(content) == sums[i]
                    found[i] = content if whole else self._changed(block.shard)
            if not unanswered:
                return found
            blocks = [block for block, _ in unanswered]
        block, error = unanswered[0]
        raise FrancaError(remote_fault(self._index.where(block.shard), error))

    def _request(self, blocks: list[_Block]) -> list[bytes | Exception]:
        names = [self._index.shards[block.shard].name for block in blocks]
        return self._folder.ranges(names, [block.start for block in blocks], [block.stop for block in blocks])

    def _lost(self, shard: int, error: Exception) -> LostRecord | None:
        """Describe a shard that cannot be read; None if the error may be temporary."""
        match error:
            case PermissionError():
                raise FrancaError(remote_fault(self._index.where(shard), error))
            case ConnectionError() | TimeoutError():
                return None
            case OSError():
                # Each storage has its own error for a range beyond the end, so compare the length instead.
                return self._measure(shard)
            case _:
                return None

    def _changed(self, shard: int) -> LostRecord:
        """Describe a shard of which the bytes do not match the index."""
        return self._measure(shard) or LostRecord(
            self._index.where(shard), "its bytes are not those that were prepared"
        )

    def _measure(self, shard: int) -> LostRecord | None:
        """Describe a shard that is missing or has another length; None if its length is the same or unknown."""
        name, size = self._index.shards[shard]
        try:
            now = self._folder.current_size(name)
        except FileNotFoundError:
            return LostRecord(self._index.where(shard), "it is gone")
        except Exception:
            return None
        if now == size:
            return None
        return LostRecord(self._index.where(shard), f"it has {now} bytes where the index has {size}")


def _blocks(shards: list[int], offsets: list[int], lengths: list[int]) -> list[_Block]:
    """Return requests that cover all records; each record is entirely in one of them."""
    blocks: list[_Block] = []
    for i in sorted(range(len(shards)), key=lambda i: (shards[i], offsets[i])):
        stop = offsets[i] + lengths[i]
        last = blocks[-1] if blocks else None
        if last and last.shard == shards[i] and offsets[i] <= last.stop + GAP and stop - last.start <= BLOCK:
            last.stop = max(last.stop, stop)
            last.records.append(i)
        else:
            blocks.append(_Block(shards[i], offsets[i], stop, [i]))
    return blocks
